"""Vectors in int8 and uint8: the ranges of the dimensions, which are known only when all vectors are there."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from embedder.files.arrow import vector_array, vector_field
from embedder.files.formats import EMBEDDING, Layout
from embedder.vectors.quantization import quantize_embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PRECISIONS = {"|i1": "int8", "|u1": "uint8"}


def ranges_of(tables: Iterable[Any]) -> NDArray[np.float32] | None:
    """Return the smallest and the largest value of each dimension over all tables, (2, dim). None without vectors."""
    found = [np.stack([rows.min(axis=0), rows.max(axis=0)]) for table in tables for rows in _vectors(table)]
    if not found:
        return None
    return functools.reduce(_wider, found)


def quantized(table: Any, layout: Layout, ranges: NDArray[np.float32] | None, arrow: Any) -> Any:
    """Return a table with vectors in int8 or uint8 instead of float32.

    Args:
        table: a pyarrow.Table with the vectors in its column "embedding".
        layout: the layout of the new vectors.
        ranges: (2, dim), what `ranges_of` returned.
        arrow: pyarrow.

    Raises:
        InputError: a value is NaN.
    """
    precision = _PRECISIONS[layout.dtype]
    field = vector_field(layout, EMBEDDING, arrow)
    chunks = [
        vector_array(quantize_embeddings(rows, precision, ranges), layout, field, arrow) for rows in _vectors(table)
    ]
    index = table.schema.get_field_index(EMBEDDING)
    return table.set_column(index, field, arrow.chunked_array(chunks, field.type))


def _vectors(table: Any) -> Iterator[NDArray[np.float32]]:
    column = table.column(EMBEDDING)
    for chunk in column.chunks:
        if len(chunk):
            yield chunk.flatten().to_numpy().reshape(len(chunk), -1)


def _wider(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])
