"""A model that is sent to other machines: it arrives whole, once, or not at all."""

import threading

import numpy as np
import pytest

import embedder
from embedder.common.cache import cache_directory
from embedder.errors import ArtifactError, ModelNotFoundError
from embedder.integrations.sent_model import contents_of, digest_of, unpacked

pytest.importorskip("filelock")


def test_model_arrives_whole(tiny):
    directory = unpacked(digest_of(tiny), contents_of(tiny))
    assert directory == cache_directory() / "sent" / digest_of(tiny)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        path.name: path.read_bytes() for path in tiny.iterdir()
    }
    np.testing.assert_array_equal(embedder.Embedder(directory).encode("cat"), embedder.Embedder(tiny).encode("cat"))


def test_files_that_are_not_here_are_left_out(tiny):
    weights = next(path for path in tiny.iterdir() if path.suffix == ".data")
    weights.unlink()
    assert weights.name not in dict(contents_of(tiny))
    assert not (unpacked(digest_of(tiny), contents_of(tiny)) / weights.name).exists()


def test_model_is_unpacked_once(tiny):
    taken = []

    def contents():
        taken.append(threading.get_ident())
        yield from contents_of(tiny)

    threads = [threading.Thread(target=unpacked, args=(digest_of(tiny), contents())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert sorted(path.name for path in (cache_directory() / "sent").iterdir()) == [
        digest_of(tiny),
        f"{digest_of(tiny)}.lock",
    ]


@pytest.mark.parametrize("name", ["embedder.json", "tokenizer.json", "model.onnx"])
def test_damage_on_the_way_is_found_and_nothing_is_kept(tiny, name):
    damaged = [(each, content[:-1] if each == name else content) for each, content in contents_of(tiny)]
    with pytest.raises(ArtifactError, match=name):
        unpacked(digest_of(tiny), damaged)
    assert not (cache_directory() / "sent" / digest_of(tiny)).exists()
    assert unpacked(digest_of(tiny), contents_of(tiny)).is_dir()


def test_cache_that_cannot_be_written_is_named(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelNotFoundError, match=r"cannot be kept in your cache: .*XDG_CACHE_HOME names another"):
        unpacked(digest_of(tiny), contents_of(tiny))
