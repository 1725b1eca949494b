"""Refuse a graph that takes its weights from another file than its own.

A graph names the files of its weights. onnxruntime 1.20 opens any path there, also outside of the artifact. So a
hostile graph could return the content of a file as vectors.
"""

from __future__ import annotations

from pathlib import Path

from embedder.common.files import read_regular
from embedder.errors import ArtifactError

# The limit of a message of protobuf.
_MAX_BYTES = 2**31
_KEY = b"location"
# protobuf writes the length of a text before the text. For "location" the byte before it is 8, or 0 if a writer uses
# more bytes than it needs. A byte above 8 means that the word is a part of a longer name.
_ENDS_OF_LENGTH = tuple(range(len(_KEY) + 1))


def check_external_data(graph: Path, weights: str | None = None) -> None:
    """Raise ArtifactError if `graph` takes weights from any file but one.

    Args:
        graph: the file of the graph.
        weights: name of the file of its weights, which lies beside it; default: `<name of the graph>.data`.

    An entry with the key "location" names a file of weights. So every such key must belong to an entry with this file
    name, in exactly the bytes that onnx writes.

    Example:
        >>> check_external_data(Path("artifacts/all-MiniLM-L6-v2/model.onnx"))  # doctest: +SKIP
    """
    content = read_graph(graph)
    weights = weights or f"{graph.name}.data"
    keys = sum(content.count(bytes([byte]) + _KEY) for byte in _ENDS_OF_LENGTH)
    if keys != content.count(_entry(weights.encode())):
        raise ArtifactError(f"{graph} takes weights from another file than {weights}: export the model again")


def read_graph(graph: Path) -> bytes:
    """Return the content of the file of a graph.

    Raises:
        ArtifactError: it cannot be read.

    Example:
        >>> len(read_graph(Path("artifacts/all-MiniLM-L6-v2/model.onnx")))  # doctest: +SKIP
        23186
    """
    try:
        return read_regular(graph, _MAX_BYTES)
    except OSError as error:
        raise ArtifactError(f"{graph} cannot be read: {error.strerror}") from error


def _entry(name: bytes) -> bytes:
    """Return the whole entry of a tensor's external data for the file `name`, in the format of protobuf."""
    value = b"\x12" + _length(name) + name
    key = b"\x0a" + _length(_KEY) + _KEY
    return b"\x6a" + _length(key + value) + key + value


def _length(content: bytes) -> bytes:
    """Return the length of `content` as a number of protobuf. It is below 2**14."""
    count = len(content)
    return bytes([count]) if count < 0x80 else bytes([count & 0x7F | 0x80, count >> 7])
