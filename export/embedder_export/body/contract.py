"""What every converter returns: the transformer as a graph, with the sizes that later stages need."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

# The output of a graph of token vectors.
TOKEN_VECTORS = "last_hidden_state"
# The output of a graph that pools and projects by itself.
POOLED = "features"
# The form of a graph that a native builder wrote.
NATIVE = "native"


@dataclass(frozen=True)
class BodySizes:
    """Sizes of a transformer.

    Attributes:
        width: length of the vectors that it gives.
        max_position_embeddings: the setting of this name in config.json, if there is one.
        usable_positions: rows of its table of positions that an input can use, if it has a table. For images, the
            positions of one image.
        vocabulary_size: rows of its table of words, if it takes texts.
        image_size: pixels a side, if it takes images.
    """

    width: int
    max_position_embeddings: int | None = None
    usable_positions: int | None = None
    vocabulary_size: int | None = None
    image_size: int | None = None


@dataclass(frozen=True)
class Body:
    """A transformer as a graph.

    Attributes:
        forms: the graph, or several graphs that compute the same, each with its name. The first is the reference.
            They are made one at a time, so that only one is in memory.
        sizes: what later stages need to know.
    """

    forms: Iterable[tuple[str, ir.Model]]
    sizes: BodySizes
