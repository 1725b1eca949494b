"""The errors of the export. Each message says what is wrong, and what to do if there is something to do.

EmbedderError             of `embedder`, the base of all
├── CheckpointError       the checkpoint is damaged, or has a part that the export cannot honour
├── NotNativeError        no native builder, or no native tokenizer, for something in the checkpoint
├── NeedsTorchError       a package of the extra [torch] is needed and not installed
├── GraphError            onnxruntime cannot load or run a graph
├── NoReferenceError      the reference fails, so that there is nothing to compare with
├── ParityError           the artifact's vectors are not those of the reference
└── OutputError           the output directory cannot be written, or holds something else than an artifact
"""

from embedder.errors import EmbedderError


class CheckpointError(EmbedderError):
    """The checkpoint is damaged, or has a part that the export cannot honour."""


class NotNativeError(EmbedderError):
    """The checkpoint has something that the export itself does not know. optimum or transformers may know it."""


class NeedsTorchError(EmbedderError):
    """A package of the extra [torch] is needed, and is not installed."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: that needs torch and more, the extra [torch]. Run: pip install './export[torch]'; with make: "
            "make export TORCH=1 MODEL=..."
        )


class GraphError(EmbedderError):
    """A graph cannot be loaded or run by onnxruntime, or its numbers are not usable."""


class NoReferenceError(EmbedderError):
    """The reference fails, so that there is nothing to compare with."""


class ParityError(EmbedderError):
    """The artifact's vectors are not those of the reference."""


class OutputError(EmbedderError):
    """The output directory cannot be written, or holds something else than an artifact."""
