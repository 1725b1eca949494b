"""Saves of several processes to one file: nobody overwrites what they have not seen."""

import copy
import errno
import os
import pickle
import threading

import numpy as np
import pytest

from embedder import VectorIndex
from embedder.common import file_locks
from embedder.errors import ConflictError
from tests.processes import call_in_fork, run_python
from tests.vectors import clustered_index

MESSAGE = (
    "index has changed since this index was loaded from it or saved to it, and saving would undo that change. Load it "
    "again and repeat your changes, or save to another file"
)


@pytest.fixture
def path(tmp_path):
    clustered_index(n=3).save(tmp_path / "index")
    return tmp_path / "index"


def changed(path):
    """Return an index that was loaded from `path` and has another entry."""
    index = VectorIndex.load(path)
    index.add(np.ones(24))
    return index


def test_the_second_of_two_is_refused(path):
    first, second = changed(path), changed(path)
    second.delete(-50)
    first.save(path)
    content = path.read_bytes()
    for _ in range(2):
        with pytest.raises(ConflictError, match=MESSAGE):
            second.save(path)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["index"]
    second.save(path.parent / "other")
    first.delete(-50)
    first.save(path)
    again = changed(path)
    again.save(path)
    assert len(VectorIndex.load(path)) == 4


def test_an_index_that_saved_a_file_is_refused_too(path):
    index = clustered_index(n=5)
    index.save(path)  # it was never loaded, so this is meant to replace the file
    changed(path).save(path)
    with pytest.raises(ConflictError, match=MESSAGE):
        index.save(path)


def test_the_same_content_is_no_conflict(path):
    first, second = VectorIndex.load(path), changed(path)
    clustered_index(n=3).save(path)
    first.save(path)
    second.save(path)
    path.unlink()
    second.save(path)
    assert len(VectorIndex.load(path)) == 4


def test_another_file_in_the_place_is_a_conflict(path):
    index = changed(path)
    for content in (b"", b"short", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ConflictError, match=MESSAGE):
            index.save(path)
        assert path.read_bytes() == content


def test_copies_know_the_file(path):
    index = VectorIndex.load(path)
    copies = [copy.copy(index), copy.deepcopy(index), pickle.loads(pickle.dumps(index))]
    changed(path).save(path)
    for each in copies:
        each.delete(-50)
        with pytest.raises(ConflictError, match=MESSAGE):
            each.save(path)
    copies[0].save(path.parent / "other")
    clustered_index(n=9).save(path.parent / "other")
    index.save(path.parent / "other")  # only the copy knows the other file


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_a_file_is_known_under_each_of_its_names(path, monkeypatch):
    link = path.parent / "link"
    link.symlink_to(path)
    (path.parent / "directory").symlink_to(path.parent)
    monkeypatch.chdir(path.parent)
    loaded = [VectorIndex.load(name) for name in (link, path.parent / "directory/index", "index")]
    changed(path).save(path)
    for index in loaded:
        index.delete(-50)
        with pytest.raises(ConflictError, match=MESSAGE):
            index.save(path)
    with pytest.raises(ConflictError, match="has changed"):
        loaded[0].save(link)


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_save_follows_a_link_and_replaces_only_regular_files(path):
    link, pipe = path.parent / "link", path.parent / "pipe"
    link.symlink_to(path)
    changed(path).save(link)
    assert link.is_symlink()
    assert len(VectorIndex.load(path)) == 4
    os.mkfifo(pipe)
    for target, message in [
        (pipe, "it is not a regular file: .*pipe"),
        (path.parent, "it is a directory"),
        (path.parent / "no" / "index", "no is not a directory"),
        ("a\0b", "no file can have this name"),
    ]:
        with pytest.raises(OSError, match=message):
            clustered_index(n=3).save(target)


ADD = """
import sys
import numpy as np
from embedder import VectorIndex
from embedder.errors import ConflictError
path, name = sys.argv[1:]
for number in range(8):
    while True:
        index = VectorIndex.load(path)
        index.add(np.ones(24), f"{name} {number}")
        try:
            index.save(path)
            break
        except ConflictError:
            pass
"""


@pytest.mark.slow
def test_processes_that_load_and_save_at_once_lose_nothing(tmp_path):
    path = tmp_path / "index"
    index = VectorIndex(24)
    index.add(np.ones(24), "first")
    index.save(path)
    threads = [
        threading.Thread(target=lambda name=name: results.append(run_python("-c", ADD, path, name))) for name in "abc"
    ]
    results = []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.returncode for result in results] == [0, 0, 0], results
    expected = {"first", *(f"{name} {number}" for name in "abc" for number in range(8))}
    assert set(VectorIndex.load(path).ids) == expected
    assert os.listdir(tmp_path) == ["index"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_saves_in_its_own_right(path):
    index = changed(path)

    def save_in_child():
        index.save(path)
        return len(VectorIndex.load(path))

    with index._saved_files._lock:  # as if another thread were in the middle of a `save`
        assert call_in_fork(save_in_child) == 4
    index.delete(-50)
    with pytest.raises(ConflictError, match=MESSAGE):
        index.save(path)


locks = pytest.mark.skipif(not file_locks.has_locks(), reason="this system has no locks")


@locks
def test_a_save_waits_for_another_and_gives_up_after_a_minute(path, monkeypatch):
    index = changed(path)
    monkeypatch.setattr(file_locks, "_MAX_WAIT_S", 0)
    with path.open("rb") as other:
        assert file_locks.try_lock(other.fileno())
        with pytest.raises(OSError, match="another process has held the lock of the file for 0 seconds") as caught:
            index.save(path)
        assert caught.value.errno == errno.EAGAIN
    index.save(path)
    assert len(VectorIndex.load(path)) == 4


@locks
def test_who_has_waited_gets_the_lock_of_the_new_file(path, monkeypatch):
    """The file is replaced while another process waits for its lock. The old file does not count then."""
    first, second = changed(path), changed(path)
    waits = []

    def save_meanwhile(seconds):
        waits.append(seconds)
        other.close()
        first.save(path)

    monkeypatch.setattr(file_locks.time, "sleep", save_meanwhile)
    other = path.open("rb")
    assert file_locks.try_lock(other.fileno())
    second.delete(-50)
    with pytest.raises(ConflictError, match=MESSAGE):
        second.save(path)
    assert len(waits) == 1


@locks
def test_a_file_that_is_replaced_while_it_is_locked_is_locked_again(path, monkeypatch):
    first, second = changed(path), changed(path)
    second.delete(-50)
    lock, locked = file_locks.try_lock, []

    def save_first(descriptor):
        locked.append(descriptor)
        if len(locked) == 1:
            first.save(path)
        return lock(descriptor)

    monkeypatch.setattr(file_locks, "try_lock", save_first)
    with pytest.raises(ConflictError, match=MESSAGE):
        second.save(path)
    assert len(locked) >= 3


@locks
def test_a_child_does_not_keep_the_lock(path):
    """A process that is forked during a save has the file open too."""
    with file_locks.locked(path):
        kept = os.dup(file_locks_descriptor(path))
    try:
        with path.open("rb") as other:
            assert file_locks.try_lock(other.fileno())
    finally:
        os.close(kept)


def file_locks_descriptor(path):
    """Return the descriptor of this process that has `path` open."""
    names = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else map(str, range(256))
    for name in names:
        try:
            if os.path.samestat(os.fstat(int(name)), path.stat()):
                return int(name)
        except OSError:
            continue
    raise AssertionError("the file is not open")


@locks
@pytest.mark.parametrize("refused", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_changes_are_still_found(path, refused, monkeypatch):
    def refuse(*arguments):
        raise OSError(refused, "No locks available")

    monkeypatch.setattr(file_locks.fcntl, "flock", refuse)
    first, second = changed(path), changed(path)
    first.save(path)
    second.delete(-50)
    with pytest.raises(ConflictError, match=MESSAGE):
        second.save(path)


def test_on_windows_changes_are_still_found(path, monkeypatch):
    monkeypatch.setattr(file_locks, "fcntl", None)
    first, second = changed(path), changed(path)
    first.save(path)
    second.delete(-50)
    with pytest.raises(ConflictError, match=MESSAGE):
        second.save(path)


def test_a_file_that_cannot_be_written_to_is_locked_and_replaced(path):
    path.chmod(0o444)
    changed(path).save(path)
    assert len(VectorIndex.load(path)) == 4


def test_a_new_file_needs_no_lock(tmp_path):
    clustered_index(n=3).save(tmp_path / "index")
    with pytest.raises(FileNotFoundError):
        clustered_index(n=3).save(tmp_path / "missing/index")
    with pytest.raises(IsADirectoryError):
        clustered_index(n=3).save(tmp_path)
