"""Sample inputs of a graph."""

from dataclasses import dataclass

from embedder_export.graph.run import Feed


@dataclass(frozen=True)
class Samples:
    """Sample inputs of a graph.

    Attributes:
        batches: batches of texts or images. The graph is timed on them.
        singles: single texts or images. The graph is calibrated on them.
        unseen: other single texts or images, which do not calibrate the graph. The quality of int8 is measured on them.
    """

    batches: list[Feed]
    singles: list[Feed]
    unseen: list[Feed]
