"""Check the values in the file of an index. A right digest only says that the file is as its writer made it."""

from __future__ import annotations

import codecs
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.vectors.arrays import rows_per_block
from embedder.vectors.index.columns import Strings
from embedder.vectors.index.header import STRING_COLUMNS
from embedder.vectors.index.metadata import is_encoded

# Codes are symmetric: a vector and its negative have the same scale.
_SMALLEST_CODE = -127
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
# The norm of a vector of length 1 in float32 differs from 1 by less than this.
_NORM_TOLERANCE = 1e-3
_BYTES_PER_DECODING = 1 << 20


def find_bad_values(similarity: str, sections: dict[str, NDArray[Any]]) -> str | None:
    """Say what is wrong with the values of an index. Return None if `add` could have stored them.

    Args:
        similarity: how vectors are compared, "cosine" or "dot".
        sections: the sections of the file by name, as `sections_of` describes them.

    Example:
        >>> find_bad_values("dot", {"ids": np.array([7, 7])})
        'it has the id 7 twice'
    """
    max_norm = 1 + _NORM_TOLERANCE if similarity == "cosine" else math.inf
    strings = {
        name: Strings(sections[f"{name}_ends"], sections[f"{name}_bytes"])
        for name in STRING_COLUMNS
        if f"{name}_ends" in sections
    }
    return (
        _bad_ids(sections.get("ids"))
        or _bad_vectors(sections.get("vectors"), max_norm)
        or _bad_codes(sections.get("codes"), sections.get("scales"), max_norm)
        or next(filter(None, (_bad_strings(name, column) for name, column in strings.items())), None)
        or _bad_string_ids(strings.get("ids"))
        or _bad_metadata(strings.get("metadata"))
    )


def _bad_ids(ids: NDArray[np.int64] | None) -> str | None:
    if ids is None:
        return None
    ordered = np.sort(ids)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return f"it has the id {repeated[0]} twice" if len(repeated) else None


def _bad_vectors(vectors: NDArray[np.float32] | None, max_norm: float) -> str | None:
    if vectors is None:
        return None
    size = rows_per_block(vectors)
    for start in range(0, len(vectors), size):
        block = vectors[start : start + size]
        # NaN or infinite if a number is. Large finite numbers can make it infinite too.
        squares = np.einsum("ij,ij->i", block, block)
        if not np.isfinite(squares).all() and not np.isfinite(block).all():
            row = int(np.argmin(np.isfinite(block).all(axis=1)))
            return f"the vector in row {start + row} contains NaN or an infinity"
        if squares.max(initial=0) > max_norm**2:
            return f"the vector in row {start + int(np.argmax(squares))} is longer than 1"
    return None


def _bad_codes(codes: NDArray[np.int8] | None, scales: NDArray[np.float32] | None, max_norm: float) -> str | None:
    if codes is None or scales is None:
        return None
    good = (scales >= 0) & (scales <= min(max_norm, _LARGEST_FLOAT) / -_SMALLEST_CODE)
    if not good.all():
        row = int(np.argmin(good))
        return f"the scale in row {row} is {scales[row]}"
    if codes.min(initial=0) < _SMALLEST_CODE:
        return f"a code is below {_SMALLEST_CODE}"
    return None


def _bad_strings(name: str, strings: Strings) -> str | None:
    ends, content = strings.ends, strings.content
    starts = np.concatenate([[0], ends[:-1]])
    bad = (ends < starts) | (ends > len(content))
    if bad.any():
        return f"the end of row {int(np.argmax(bad))} of {name} is wrong"
    if (ends[-1] if len(ends) else 0) != len(content):
        return f"{name} has bytes that belong to no row"
    bad = (ends > starts) & (content[np.maximum(ends - 1, 0)] != 0) if len(content) else bad
    if bad.any():
        return f"row {int(np.argmax(bad))} of {name} does not end in a zero byte"
    # Each row ends in a whole character, the zero byte. So if all rows together are UTF-8, each of them is.
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), _BYTES_PER_DECODING):
            decoder.decode(content[start : start + _BYTES_PER_DECODING].tobytes())
    except UnicodeDecodeError:
        return f"{name} is not UTF-8"
    return None


def _bad_string_ids(ids: Strings | None) -> str | None:
    seen: set[str] = set()
    for row, text in enumerate(ids.all() if ids is not None else ()):
        if text is None:
            return f"row {row} has no id"
        if text in seen:
            return f"it has the id {text!r:.80} twice"
        seen.add(text)
    return None


def _bad_metadata(metadata: Strings | None) -> str | None:
    for row, text in enumerate(metadata.all() if metadata is not None else ()):
        if text is not None and not is_encoded(text):
            return f"the metadata in row {row} are not as embedder writes them: {text!r:.80}"
    return None
