"""Files and directories are replaced in one step, and killed writers leave nothing for ever."""

import errno
import os
import signal
import subprocess
import sys

import pytest

import embedder
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.cli import main as cli
from embedder.common import file_locks, files
from embedder.common.files import discard, remove_leftovers, replacing
from tests.processes import run_python
from tests.vectors import clustered_index

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks and signals of POSIX")

WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from embedder.common.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os._exit(9)
"""
WRITE_AND_WAIT = """
import os, sys
from pathlib import Path
from embedder.common.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_text("the other")
    print("written", flush=True)
    sys.stdin.readline()
"""


def leave(target):
    """Let another process begin to write `target` and die."""
    assert run_python("-c", WRITE_AND_DIE, target).returncode == 9


def staging_of(directory):
    return [path for path in directory.iterdir() if files.is_staging(path.name)]


def make_old(path):
    """Give everything in a directory the time of two days ago."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (each.lstat().st_mtime - 2 * 86_400,) * 2, follow_symlinks=False)


def test_what_a_killed_writer_left_is_removed_by_the_next_writer_of_any_file(tmp_path):
    leave(tmp_path / "one file")
    (left,) = staging_of(tmp_path)
    assert (left / "new" / "one file").read_text() == "half"
    with replacing(tmp_path / "another file") as partial:
        partial.write_text("whole")
    assert os.listdir(tmp_path) == ["another file"]


def test_a_running_writer_keeps_its_files_however_old_they_are(tmp_path):
    arguments = [sys.executable, "-c", WRITE_AND_WAIT, str(tmp_path / "other")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.getcwd()}, **pipes) as writer:
        assert writer.stdout.readline() == b"written\n"
        (staging,) = staging_of(tmp_path)
        make_old(staging)
        with replacing(tmp_path / "mine") as partial:
            partial.write_text("mine")
        assert staging.exists()
        writer.communicate(b"\n", timeout=60)
    assert (tmp_path / "other").read_text() == "the other"
    assert sorted(os.listdir(tmp_path)) == ["mine", "other"]


def test_two_writers_in_one_process(tmp_path):
    with replacing(tmp_path / "one") as one, replacing(tmp_path / "two") as two:
        one.write_text("1")
        two.write_text("2")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_files_of_another_machine_are_kept_for_a_day(tmp_path, monkeypatch):
    """The locks of another machine may be invisible here, on a disk that both share."""
    leave(tmp_path / "file")
    (staging,) = staging_of(tmp_path)
    monkeypatch.setattr(files, "_own_prefix", lambda: ".embedder-00000000-")
    remove_leftovers(tmp_path)
    assert staging.exists()
    make_old(staging)
    os.utime(staging / "new" / "file")  # a writer that is slow, but not dead
    remove_leftovers(tmp_path)
    assert staging.exists()
    make_old(staging)
    remove_leftovers(tmp_path)
    assert not staging.exists()


def test_without_locks_the_age_decides(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_locks.fcntl, "flock", refuse)
    with replacing(tmp_path / "one") as one:
        one.write_text("1")
        with replacing(tmp_path / "two") as two:
            two.write_text("2")
        assert one.exists()
        (staging,) = staging_of(tmp_path)
        make_old(staging)
        remove_leftovers(tmp_path)
        assert not staging.exists()
        one.parent.mkdir(parents=True)
        one.write_text("1")
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


def test_a_lock_file_that_is_a_pipe_or_a_link_does_not_stop_a_writer(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f".embedder-{name}.partial").mkdir()
    os.mkfifo(tmp_path / ".embedder-a.partial/lock")
    (tmp_path / ".embedder-b.partial/lock").symlink_to("/dev/zero")
    (tmp_path / "precious").mkdir()
    (tmp_path / ".embedder-c.partial").symlink_to("precious")
    (tmp_path / ".embedder-d.partial").write_text("a file")
    remove_leftovers(tmp_path)
    assert (tmp_path / "precious").exists()


@pytest.mark.skipif(os.name != "posix", reason="makes links")
@pytest.mark.parametrize("link", [".embedder-0-0.partial", ".embedder-0-0.partial/old"])
def test_nothing_is_removed_or_moved_through_a_link(tmp_path, link):
    """An artifact from a stranger can have links that look like what a killed writer left."""
    others, artifact = tmp_path / "others", tmp_path / "artifact"
    (artifact / link).parent.mkdir(parents=True)
    others.mkdir()
    (others / "precious").write_text("mine")
    (artifact / link).symlink_to(others)
    make_old(artifact)
    make_old(others)
    with replacing(artifact / "file") as partial:
        partial.write_text("new")
    assert [path.name for path in others.iterdir()] == ["precious"]


def test_an_old_directory_comes_back_if_the_writer_was_killed_between_two_renames(tmp_path):
    output = tmp_path / "artifact"
    output.mkdir()
    (output / "file").write_text("old")
    killed = """
import os, sys
from pathlib import Path
from embedder.common.files import replacing
rename = Path.rename
Path.rename = lambda path, target: os._exit(9) if path.parent.name == "new" else rename(path, target)
with replacing(Path(sys.argv[1]), swap_directory=True) as partial:
    partial.mkdir()
"""
    assert run_python("-c", killed, output).returncode == 9
    assert not output.exists()
    remove_leftovers(tmp_path)
    assert (output / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["artifact"]


def test_a_new_directory_stays_if_the_writer_was_killed_after_the_swap(tmp_path):
    output = tmp_path / "artifact"
    output.mkdir()
    (output / "old").touch()
    killed = """
import os, sys
from pathlib import Path
from embedder.common import file_locks, files
files._remove = lambda path: os._exit(9)
with files.replacing(Path(sys.argv[1]), swap_directory=True) as partial:
    partial.mkdir()
    (partial / "new").touch()
"""
    assert run_python("-c", killed, output).returncode == 9
    remove_leftovers(tmp_path)
    assert os.listdir(output) == ["new"]
    assert os.listdir(tmp_path) == ["artifact"]


def test_discard_removes_in_one_step(tmp_path):
    (tmp_path / "form").mkdir()
    (tmp_path / "form/file").touch()
    killed = """
import os, sys
from pathlib import Path
from embedder.common import file_locks, files
files._remove = lambda path: os._exit(9)
files.discard(Path(sys.argv[1]))
"""
    assert run_python("-c", killed, tmp_path / "form").returncode == 9
    assert not (tmp_path / "form").exists()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        discard(tmp_path / "form")
    assert os.listdir(tmp_path) == []


def save_index(directory):
    clustered_index(n=3).save(directory / "index")
    return directory / "index"


def encode_to_file(directory):
    (directory / "texts").write_text("cat\n")
    arguments = ["encode", str(directory / "texts"), "--model", str(directory / "tiny")]
    assert cli.main([*arguments, "--output", str(directory / "vectors.npy")]) == 0
    return directory / "vectors.npy"


def save_manifest(directory):
    write_manifest(read_manifest(directory / "tiny"), directory / "tiny")
    return directory / "tiny/embedder.json"


def prepack(directory):
    assert cli.main(["prepack", str(directory / "tiny")]) == 0
    manifest = directory / "tiny/embedder.json"
    # Forms that are right are kept, so the next call finds a damaged one.
    (path,) = (directory / "tiny/prepacked").glob("*/model.onnx")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])
    assert manifest.exists()
    return path


@pytest.mark.parametrize("write", [save_index, encode_to_file, save_manifest, prepack])
def test_every_writer_replaces_and_never_overwrites(write, tiny):
    """A process that has mapped the old file would otherwise die, or see a mixture."""
    path = write(tiny.parent)
    with path.open("rb") as stream:
        content = stream.read()
        assert write(tiny.parent) == path
        assert os.fstat(stream.fileno()).st_ino != path.stat().st_ino
        stream.seek(0)
        assert stream.read() == content


SAVE = """
import sys
from pathlib import Path
import numpy as np
from embedder import VectorIndex
index = VectorIndex(24)
index.add(np.ones((20_000, 24), np.float32))
print("saving", flush=True)
while True:
    index.save(Path(sys.argv[1]))
"""


def test_a_writer_whose_directory_is_removed_before_it_is_locked_makes_another(tmp_path, monkeypatch):
    """Another process takes the new directory for that of a killed writer."""
    make, removed = files.Path.mkdir, []

    def make_and_lose(path, *rest, **options):
        make(path, *rest, **options)
        if files.is_staging(path.name) and len(removed) < 3:
            remove_leftovers(tmp_path)
            removed.append(not path.exists())

    monkeypatch.setattr(files.Path, "mkdir", make_and_lose)
    with replacing(tmp_path / "file") as partial:
        partial.write_text("whole")
    assert removed == [True, True, True]
    assert os.listdir(tmp_path) == ["file"]


def test_a_writer_that_meets_a_cleaner_before_it_has_locked_its_directory_makes_another(tmp_path, monkeypatch):
    lock, empty, locks = files.try_lock, files._empty, []

    def clean_first(descriptor):
        locks.append(descriptor)
        if len(locks) == 1:
            remove_leftovers(tmp_path)  # another process finds the lock free, and takes it
        return lock(descriptor)

    def lock_at_the_last_moment(staging):
        """The writer opened its lock before the cleaner, and locks it while the cleaner removes its directory."""
        with (staging / "lock").open("r+b") as stream, pytest.raises(BlockingIOError):
            lock(stream.fileno())
        empty(staging)

    with monkeypatch.context() as patch:
        patch.setattr(files, "try_lock", clean_first)
        patch.setattr(files, "_empty", lock_at_the_last_moment)
        with replacing(tmp_path / "file") as partial:
            partial.write_text("whole")
    assert len(locks) == 3  # of the writer, of the cleaner, and of the writer's second directory
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.slow
def test_saves_that_are_killed_at_any_moment(tmp_path):
    path = tmp_path / "index"
    for delay in range(13):
        arguments = [sys.executable, "-c", SAVE, str(path)]
        with subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": os.getcwd()}, stdout=-1) as child:
            assert child.stdout.readline() == b"saving\n"
            try:
                child.wait(delay / 150)
            except subprocess.TimeoutExpired:
                child.kill()
        assert child.returncode == -signal.SIGKILL
        if path.exists():
            assert len(embedder.VectorIndex.load(path)) == 20_000
    with replacing(path) as partial:
        partial.write_text("the next writer")
    assert os.listdir(tmp_path) == ["index"]
