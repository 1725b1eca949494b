"""How much memory a long text needs on a CPU. The manifest has it under `extra`, so older programs ignore it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from embedder.common.decode import decode
from embedder.common.records import frozen, require

if TYPE_CHECKING:
    from embedder.artifact.manifest import Graph, Manifest

# Name of the field under `extra`. It holds a TextMemory by the name of the graph's file.
_FIELD = "text_memory"


@frozen
class TextMemory:
    """The memory that a call of a graph takes beside its weights, as the export has measured it.

    Attributes:
        bytes_per_token: bytes for each token.
        bytes_per_pair: bytes for each pair of tokens of a text. 0 if the graph does not hold the scores of all pairs.

    Example:
        >>> TextMemory(80_000, 0).bytes_of(texts=2, tokens=8192)
        1310720000
    """

    bytes_per_token: int
    bytes_per_pair: int

    def __post_init__(self) -> None:
        for name in ("bytes_per_token", "bytes_per_pair"):
            require(0 <= getattr(self, name) < 2**40, f"{name}: {getattr(self, name)} is not from 0 to 2**40 - 1")

    def bytes_of(self, texts: int, tokens: int) -> int:
        """Return how many bytes a batch of `texts` takes, which have `tokens` tokens each, padding included.

        Example:
            >>> TextMemory(100, 2).bytes_of(texts=3, tokens=10)
            3600
        """
        return texts * tokens * (self.bytes_per_token + self.bytes_per_pair * tokens)


def text_memory(manifest: Manifest, graph: Graph) -> TextMemory | None:
    """Return what `manifest` says of the memory of `graph`. None if it says nothing, or nothing of this form.

    Example:
        >>> text_memory(model.manifest, model.manifest.graphs[0])  # doctest: +SKIP
        TextMemory(bytes_per_token=86400, bytes_per_pair=0)
    """
    found = manifest.extra.get(_FIELD)
    if not isinstance(found, Mapping):
        return None
    with suppress(ValueError):
        return decode(TextMemory, found.get(graph.file.name))  # type: ignore[no-any-return]
    return None


def with_text_memory(manifest: Manifest, found: Mapping[str, TextMemory]) -> Manifest:
    """Return `manifest` with the memory of graphs, by the names of their files.

    Example:
        >>> with_text_memory(manifest, {"model.onnx": TextMemory(86400, 0)}).extra  # doctest: +SKIP
        {'text_memory': {'model.onnx': {'bytes_per_token': 86400, 'bytes_per_pair': 0}}}
    """
    if not found:
        return manifest
    fields = {
        name: {"bytes_per_token": memory.bytes_per_token, "bytes_per_pair": memory.bytes_per_pair}
        for name, memory in found.items()
    }
    return replace(manifest, extra=manifest.extra | {_FIELD: fields})
