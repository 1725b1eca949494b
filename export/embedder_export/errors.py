"""The errors of the export."""

from embedder.errors import EmbedderError


class CheckpointError(EmbedderError):
    """The checkpoint is damaged, or has a part that the export cannot honour."""


class ParityError(EmbedderError):
    """The artifact's vectors are not those of sentence-transformers."""


class OutputError(EmbedderError):
    """The output directory cannot be written, or holds something else than an artifact."""
