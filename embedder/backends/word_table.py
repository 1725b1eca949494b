"""Map the word table of a graph into memory, and give its pages back to the system from time to time.

The word table has a row of numbers for each token of the vocabulary. It is half of the weights of a small model, and a
text needs few of its rows. onnxruntime maps the file of the weights into memory. For each row that it reads, the system
maps 64 kB of the file, which then count as memory of the process. After some hundred texts the whole table does.

So embedder maps the table itself, and hands it to onnxruntime. Pages that were given back stay in the system's cache of
files while memory is free. From there they are mapped again in microseconds.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from embedder.artifact.manifest import GRAPH_INPUTS
from embedder.backends.external_data import read_graph
from embedder.backends.onnxruntime_package import import_onnxruntime
from embedder.common.files import open_regular
from embedder.common.protobuf import fields

_TOKEN_IDS = GRAPH_INPUTS[0].encode()
# Numbers of fields in the messages of ONNX: of a model, a graph, a node, a tensor, and an entry of external data.
_GRAPH = 7
_NODE, _INITIALIZER = 1, 5
_INPUT, _OPERATOR = 1, 4
_SIZE, _DTYPE, _NAME, _EXTERNAL_DATA = 1, 2, 8, 13
_KEY, _VALUE = 1, 2
_DTYPES = {1: np.float32, 3: np.int8, 10: np.float16}


class WordTable:
    """The word table of a graph, in a mapping of its own. Safe to share between threads.

    Attributes:
        name: its name in the graph.
        value: its numbers, as a value of onnxruntime. They are read-only.

    Example:
        >>> table = map_word_table(Path("model.onnx"), Path("model.onnx.data"))  # doctest: +SKIP
        >>> options.add_initializer(table.name, table.value)  # doctest: +SKIP
        >>> table.release_pages()  # doctest: +SKIP
    """

    def __init__(self, name: str, numbers: Any, pages: mmap.mmap) -> None:
        self.name = name
        self.value = import_onnxruntime().OrtValue.ortvalue_from_numpy(numbers)  # it keeps the mapping
        self._pages = pages

    def release_pages(self) -> None:
        """Give the pages back. A thread that reads the table meanwhile gets them again."""
        self._pages.madvise(mmap.MADV_DONTNEED)


def map_word_table(graph: Path, weights: Path) -> WordTable | None:
    """Return the word table of a graph, or None if none is found. onnxruntime then maps the whole file itself.

    None is found on systems other than Linux, in a damaged graph, and in a graph that looks tokens up in another way.

    Args:
        graph: the file of the graph.
        weights: the file of its weights.

    Raises:
        ArtifactError: the graph cannot be read.
    """
    if sys.platform != "linux":  # elsewhere the advice does not exist, or does something else
        return None
    content = read_graph(graph)
    try:
        name, dtype, shape, offset = _find_table(dict(fields(content))[_GRAPH])
        count, before = prod(shape), offset % mmap.ALLOCATIONGRANULARITY
        with open_regular(weights) as file:
            size = before + count * np.dtype(dtype).itemsize
            pages = mmap.mmap(file.fileno(), size, offset=offset - before, access=mmap.ACCESS_READ)
        return WordTable(name, np.frombuffer(pages, dtype, count, before).reshape(shape), pages)
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None


def _find_table(graph: bytes) -> tuple[str, Any, list[int], int]:
    """Return the name, the dtype and the shape of the word table, and its offset in the file of the weights.

    Raises LookupError, ValueError or TypeError if there is none in that file.
    """
    name = next(filter(None, map(_table_of, _all(graph, _NODE))), b"")
    tensors = (tensor for tensor in _all(graph, _INITIALIZER) if name in tensor)
    tensor = next((tensor for tensor in tensors if dict(fields(tensor)).get(_NAME) == name), b"")
    place = {entry[_KEY]: entry[_VALUE] for entry in map(dict, map(fields, _all(tensor, _EXTERNAL_DATA)))}
    dtype = _DTYPES[dict(fields(tensor))[_DTYPE]]
    return name.decode(), dtype, list(_all(tensor, _SIZE)), int(place[b"offset"])


def _table_of(node: bytes) -> Any:
    """Return the name of the table in which a node looks up token ids, or None."""
    if _TOKEN_IDS in node and dict(fields(node))[_OPERATOR] == b"Gather":
        table, rows = _all(node, _INPUT)
        return table if rows == _TOKEN_IDS else None
    return None


def _all(message: bytes, number: int) -> Iterator[Any]:
    """Yield the values of the fields of one number."""
    return (value for found, value in fields(message) if found == number)
