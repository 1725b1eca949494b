"""What every converter makes: the transformer as a graph of token vectors."""

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

TOKEN_VECTORS = "last_hidden_state"
# The form of a graph that was written directly.
NATIVE = "native"


@dataclass(frozen=True)
class Body:
    """The transformer, and what the later stages must know of it.

    forms: the graph, or several that compute the same, of which the first is the reference; each by its name. One is
        made when the one before it is done with.
    max_position_embeddings: what the configuration has by this name, if anything.
    usable_positions: rows of its table of positions that a text can use, if it has one.
    """

    forms: Iterable[tuple[str, ir.Model]]
    hidden_size: int
    max_position_embeddings: int | None
    usable_positions: int | None
