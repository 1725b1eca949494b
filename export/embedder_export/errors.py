"""The errors of the export."""

from embedder.errors import EmbedderError


class CheckpointError(EmbedderError):
    """The checkpoint is damaged, or has a part that the export cannot honour."""


class NotNativeError(EmbedderError):
    """The checkpoint has something that this program does not know, and optimum or transformers may."""


class NeedsTorchError(EmbedderError):
    """What the checkpoint has needs torch, or a library that is built on it, and that is not installed."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: that needs torch and more, the extra [torch]. Run: pip install './export[torch]'; with make: "
            "make export TORCH=1 MODEL=..."
        )


class NoReferenceError(EmbedderError):
    """What was to be compared with fails."""


class ParityError(EmbedderError):
    """The artifact's vectors are not those of the reference."""


class OutputError(EmbedderError):
    """The output directory cannot be written, or holds something else than an artifact."""
