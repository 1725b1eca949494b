"""Reading files: regular ones only, never more than is allowed. And JSON from strangers: each fault is a ValueError."""

import json
import math
import os
import socket
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.common.digests import sha256_of
from embedder.common.files import check_regular, open_regular, read_regular
from embedder.common.json_text import has_more_values, parse_json
from embedder.errors import ArtifactError, EmbedderError

FUNCTIONS = [check_regular, open_regular, sha256_of, lambda path: read_regular(path, 10)]


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


SPECIAL = {
    "pipe": make_fifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "link to a pipe": lambda path: (make_fifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
    "missing": lambda path: None,
    "broken link": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture
def short_path(tmp_path, monkeypatch):
    """A path that is short enough for a socket."""
    monkeypatch.chdir(tmp_path)
    return tmp_path.relative_to(tmp_path) / "file"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(kind, function, short_path):
    SPECIAL[kind](short_path)
    with pytest.raises(OSError, match=r"\[Errno \d+\] .*: '") as caught:
        function(short_path)
    assert caught.value.strerror
    assert caught.value.filename is not None


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_names_that_no_file_has(function, name, tmp_path):
    with pytest.raises(OSError, match=r"no file can have this name|File name too long"):
        function(tmp_path / name)


def test_a_file_that_is_replaced_by_a_pipe_before_it_is_opened(tmp_path, monkeypatch):
    make_fifo(tmp_path / "pipe")
    monkeypatch.setattr("embedder.common.files.check_regular", lambda path, limit: None)
    with pytest.raises(OSError, match="it is not a regular file"):
        open_regular(tmp_path / "pipe")


def test_no_descriptor_is_left_open(tmp_path, monkeypatch):
    monkeypatch.setattr("embedder.common.files.check_regular", lambda path, limit: None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="is a directory"):
            open_regular(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 7) == b"content"


def test_a_larger_file_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(OSError, match="it has more than 6 bytes"):
        read_regular(tmp_path / "file", 6)


def test_a_file_that_has_more_bytes_than_its_size_says():
    with pytest.raises(OSError, match="it has more than 3 bytes"):
        read_regular("/proc/self/status", 3)


def test_no_more_memory_is_reserved_than_a_file_has(tiny):
    """A machine with little memory refuses to reserve much, even if nothing is written there."""
    tracemalloc.start()
    try:
        assert read_regular(tiny / "tokenizer.json", 2**31) == (tiny / "tokenizer.json").read_bytes()
        with embedder.Embedder(tiny) as model:
            model.encode("cat")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["embedder.json", "tokenizer.json", "model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_of_an_artifact(kind, name, tiny, monkeypatch):
    monkeypatch.chdir(tiny)  # for the socket
    (tiny / name).unlink()
    SPECIAL[kind](tiny.relative_to(tiny) / name)
    with pytest.raises(EmbedderError):
        embedder.Embedder(tiny)


def test_special_file_of_an_artifact_is_named(tiny):
    (tiny / "model.onnx").unlink()
    (tiny / "model.onnx").symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be read: it is not a regular file\. Export or copy"):
        embedder.Embedder(tiny)


def test_a_pipe_in_the_place_of_an_index(tmp_path):
    make_fifo(tmp_path / "index")
    with pytest.raises(ArtifactError, match="index cannot be read: it is not a regular file"):
        embedder.VectorIndex.load(tmp_path / "index")


BAD_JSON = {
    "": "Expecting value",
    "{": "Expecting property name",
    "[NaN]": "NaN is not a number of JSON",
    "[-Infinity]": "-Infinity is not a number of JSON",
    "[1e999]": "1e999 is too large for a float",
    "9" * 1001: r"9{20}\.\.\. has more than 1,000 digits",
    "[" * 101 + "]" * 101: "it nests more than 100 levels deep",
    '{"a":' * 100_000 + "1" + "}" * 100_000: "it nests more than 100 levels deep",
    '["\\ud800"]': r"a string has \\ud800, a half of a surrogate pair",
    '{"\\uDFFF": 1}': r"a string has \\udfff, a half of a surrogate pair",
}


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: text[:20])
def test_json_that_is_refused(text):
    with pytest.raises(ValueError, match=BAD_JSON[text]):
        parse_json(text.encode())


def test_json_that_is_not_utf_8():
    with pytest.raises(ValueError, match="utf-8"):
        parse_json(b'"\xff"')


@pytest.mark.parametrize(
    "value", [None, 1, [], {}, "\U0001f600", [[1], {"a": [None]}], json.loads("[" * 99 + "1" + "]" * 99)], ids=str
)
def test_json_that_is_accepted(value):
    assert parse_json(json.dumps(value).encode()) == value


@given(
    st.recursive(
        st.integers() | st.text('[{,"\\\\', max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{,"\\\\', max_size=5), inner, max_size=3),
    )
)
def test_values_are_counted(value):
    def count(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        # An empty list is counted as if it had a value.
        return sum(map(count, inner)) + (isinstance(value, list | dict) + (not inner))

    content = json.dumps([value]).encode()
    assert has_more_values(content, count([value]) - 1)
    assert not has_more_values(content, count([value]))


def test_infinities_that_are_asked_for():
    """transformers writes them."""
    assert parse_json(b"[Infinity, -Infinity, 1e999]", allow_nan=True) == [math.inf, -math.inf, math.inf]


def test_manifest_that_is_a_pipe(tiny):
    (tiny / "embedder.json").unlink()
    os.mkfifo(tiny / "embedder.json")
    with pytest.raises(ArtifactError, match=r"embedder\.json cannot be read .*not a regular file"):
        embedder.Embedder(tiny)
