"""What every converter makes: the transformer as a graph, of token vectors or, of CLIP's two, of the pooled one."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

TOKEN_VECTORS = "last_hidden_state"
# Of a body that has its own pooling and projection.
POOLED = "features"
# The form of a graph that was written directly.
NATIVE = "native"


@dataclass(frozen=True)
class Body:
    """A transformer, and what the later stages must know of it.

    forms: the graph, or several that compute the same, of which the first is the reference; each by its name. One is
        made when the one before it is done with.
    max_position_embeddings: what the configuration has by this name, if anything.
    usable_positions: rows of its table of positions that a text can use, or an image does, if it has one.
    image_size: of a transformer of images, pixels a side.
    vocabulary_size: of a transformer of texts, rows of its table of word embeddings.
    """

    forms: Iterable[tuple[str, ir.Model]]
    hidden_size: int
    max_position_embeddings: int | None
    usable_positions: int | None
    image_size: int | None = None
    vocabulary_size: int | None = None
