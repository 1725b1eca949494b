"""Write vectors as JSON: numbers, or base64."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from embedder.common.vector_text import to_base64

# Between pieces of so many numbers, the event loop serves others. A piece takes about 2 ms.
_NUMBERS_PER_PIECE = 32_768
_MEDIA_TYPE = "application/json"


def json_response(value: Any) -> Response:
    """Return the answer with `value` as its body.

    Example:
        >>> json_response({"object": "list", "data": []}).body
        b'{"object":"list","data":[]}'
    """
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type=_MEDIA_TYPE)


async def write_rows(vectors: NDArray[np.float32], form: Callable[[NDArray[np.float32], int], Any]) -> bytes:
    """Return a JSON list with what `form` makes of the rows. The digits of a number give the same float32 again.

    Args:
        vectors: float32 (n, dimensions).
        form: takes some of the rows and the index of the first one. It returns a list of JSON values, or an array.

    Example:
        >>> asyncio.run(write_rows(np.float32([[0.1, 2]]), lambda rows, first: rows))
        b'[[0.1,2.0]]'
    """
    rows = max(1, _NUMBERS_PER_PIECE // vectors.shape[1])
    pieces = []
    for first in range(0, len(vectors), rows):
        if first:
            await asyncio.sleep(0)
        value = form(np.ascontiguousarray(vectors[first : first + rows]), first)
        pieces.append(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    return b"[" + b",".join(pieces) + b"]"


def embedding_objects(rows: NDArray[np.float32], first: int, *, base64: bool) -> list[dict[str, Any]]:
    """Return the objects of OpenAI for some vectors.

    Args:
        rows: float32 (n, dimensions).
        first: index of the first one.
        base64: whether a vector is base64 of little-endian float32 instead of numbers.

    Example:
        >>> embedding_objects(np.float32([[1]]), 7, base64=True)
        [{'object': 'embedding', 'index': 7, 'embedding': 'AACAPw=='}]
    """
    values = to_base64(rows) if base64 else rows
    return [
        {"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values, start=first)
    ]
