"""Sample inputs of a graph."""

from dataclasses import dataclass

from embedder_export.graph.run import Feed


@dataclass(frozen=True)
class Samples:
    """Inputs of a graph.

    Attributes:
        batches: to time the graph on.
        singles: single texts or images, to calibrate it on.
    """

    batches: list[Feed]
    singles: list[Feed]
