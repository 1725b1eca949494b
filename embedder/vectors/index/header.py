"""The header of an index's file: it says what the file has, and where each section begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

import numpy as np

from embedder.common.records import frozen

INDEX_FORMAT_VERSION = 3
INDEX_PRECISIONS = ("float32", "int8", "binary")
INDEX_SIMILARITIES = ("cosine", "dot")
# The columns of strings that a file may have.
STRING_COLUMNS = ("ids", "texts", "metadata")
# The limit of the length of a vector. Those of known models have thousands of numbers.
MAX_DIMENSION = 2**24

# The dtype and shape of each section.
Sections = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


@frozen
class ModelDescription:
    """The model that made the vectors.

    Attributes:
        name: the model's name, such as "sentence-transformers/all-MiniLM-L6-v2".
        weights: the first 16 digits of the SHA-256 of its weights.
        dtype: the dtype of the graph that ran, such as "fp32" or "int8". None if unknown.
    """

    name: str
    weights: str
    dtype: str | None

    def __str__(self) -> str:
        return f"{self.name}, weights {self.weights}"

    def same_weights(self, other: ModelDescription) -> bool:
        """Return whether both models have the same name and the same weights. Their dtypes may differ."""
        return (self.name, self.weights) == (other.name, other.weights)


@frozen
class Header:
    """The description of the entries at the beginning of the file.

    Attributes:
        format_version: the version of the file format.
        dimension: the length of a vector.
        full_dimension: the length of the vectors before they were truncated to `dimension`.
        precision: how vectors are kept: one of `INDEX_PRECISIONS`.
        similarity: how vectors are compared: one of `INDEX_SIMILARITIES`.
        count: the number of entries.
        strings: the number of bytes of each column of strings that the file has, by its name in `STRING_COLUMNS`.
        model: the model that made the vectors. None if it is unknown.
        extra: keys of later versions. Readers ignore keys here that they do not know.
    """

    format_version: int
    dimension: int
    full_dimension: int
    precision: str
    similarity: str
    count: int
    strings: dict[str, int]
    model: ModelDescription | None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in (("precision", INDEX_PRECISIONS), ("similarity", INDEX_SIMILARITIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} should be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if not 1 <= self.dimension <= MAX_DIMENSION:
            raise ValueError(f"dimension should be from 1 to {MAX_DIMENSION:,}, not {self.dimension:,}")
        if not self.dimension <= self.full_dimension <= MAX_DIMENSION:
            raise ValueError(
                f"full_dimension should be from {self.dimension:,} to {MAX_DIMENSION:,}, not {self.full_dimension:,}"
            )
        if self.count < 0:
            raise ValueError(f"count should be at least 0, not {self.count}")
        for name, size in self.strings.items():
            if name not in STRING_COLUMNS:
                raise ValueError(f"strings should have names among {', '.join(STRING_COLUMNS)}, not {name!r:.80}")
            if size < 0:
                raise ValueError(f"strings[{name!r}] should be at least 0, not {size}")


def sections_of(header: Header) -> Sections:
    """Return the dtype and shape of each section, in the order of the file.

    - ids: the id of each entry, if ids are whole numbers.
    - vectors: the vectors. If the similarity is "cosine", they have length 1.
    - codes and scales: the codes of a vector, multiplied by its scale, are close to the vector.
    - bits: a packed bit for each number of a vector. It is 1 if the number is above 0.
    - ids_ends and ids_bytes: the ids, if they are strings. The UTF-8 of each is followed by a zero byte. The ends are
      the offsets in the bytes at which each entry's string ends, with the zero byte.
    - texts_ends and texts_bytes: the texts in the same form. An entry without a text has no bytes.
    - metadata_ends and metadata_bytes: the metadata in the same form. Each is a JSON object, as
      `metadata.encode_metadata` writes it.
    """
    n, dim = header.count, header.dimension
    sections: Sections = {} if "ids" in header.strings else {"ids": (np.dtype("<i8"), (n,))}
    if header.precision == "float32":
        sections["vectors"] = (np.dtype("<f4"), (n, dim))
    else:
        if header.precision == "binary":
            sections["bits"] = (np.dtype("u1"), (n, -(-dim // 8)))
        sections |= {"codes": (np.dtype("i1"), (n, dim)), "scales": (np.dtype("<f4"), (n,))}
    for name in STRING_COLUMNS:
        if name in header.strings:
            sections[f"{name}_ends"] = (np.dtype("<i8"), (n,))
            sections[f"{name}_bytes"] = (np.dtype("u1"), (header.strings[name],))
    return sections


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a header in the current version. `content` may have any earlier version.

    Raises:
        KeyError, TypeError, AttributeError: a field is missing, or has another type.
    """
    while content["format_version"] < INDEX_FORMAT_VERSION:
        content = _UPGRADES[content["format_version"]](content)
    return content


def upgrade_1_to_2(content: dict[str, Any]) -> dict[str, Any]:
    """Return a header of version 1 in version 2.

    Version 2 splits the description of the model into name, weights and dtype. It also adds `extra`.
    """
    model = content["model"]
    if model is not None:
        name, separator, weights = model.rpartition(", weights ")
        model = {"name": name if separator else model, "weights": weights if separator else "", "dtype": None}
    return content | {"format_version": 2, "model": model, "extra": {}}


def upgrade_2_to_3(content: dict[str, Any]) -> dict[str, Any]:
    """Return a header of version 2 in version 3, which adds `full_dimension` and `strings`."""
    return content | {"format_version": 3, "full_dimension": content["dimension"], "strings": {}}


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: upgrade_1_to_2, 2: upgrade_2_to_3}
