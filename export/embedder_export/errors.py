"""The errors of the export. A message says what is wrong and, if there is a remedy, what to do.

EmbedderError             the base of all, from `embedder`
├── CheckpointError       the checkpoint is damaged, or has a part that the export cannot honour
├── NotNativeError        the export's own code does not know a part of the checkpoint
├── NeedsTorchError       a package of the extra [torch] is needed, and is not installed
├── GraphError            onnxruntime cannot load or run a graph, or its numbers are unusable
├── NoReferenceError      the reference fails, so there is nothing to compare with
├── ParityError           the artifact's vectors differ from the reference's
├── OutputError           the output directory cannot be written, or holds other files than an artifact's
└── UploadError           the Hub does not take the artifact
"""

from embedder.errors import EmbedderError


class CheckpointError(EmbedderError):
    """The checkpoint is damaged, or has a part that the export cannot honour."""


class NotNativeError(EmbedderError):
    """The export's own code does not know a part of the checkpoint. optimum or transformers may know it."""


class NeedsTorchError(EmbedderError):
    """A package of the extra [torch] is needed, and is not installed.

    Args:
        reason: what needs the package. The message begins with it.

    Attributes:
        reason: the same.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{reason}: that needs torch and the other packages of the extra [torch]. Run: pip install "
            '"embedder-export[torch]"; or with make: make export TORCH=1 MODEL=...'
        )


class GraphError(EmbedderError):
    """onnxruntime cannot load or run a graph, or the graph gives unusable numbers."""


class NoReferenceError(EmbedderError):
    """The reference fails, so there is nothing to compare with."""


class ParityError(EmbedderError):
    """The artifact's vectors differ from the reference's."""


class OutputError(EmbedderError):
    """The output directory cannot be written, or holds other files than an artifact's."""


class UploadError(EmbedderError):
    """The Hub does not take the artifact."""


def library_failure(problem: str, error: Exception) -> CheckpointError:
    """Return the error for a checkpoint on which another library fails.

    Args:
        problem: what failed. The message begins with it.
        error: the library's error. The message ends with it.

    Example:
        >>> str(library_failure("optimum cannot convert small", ValueError("no such model")))
        'optimum cannot convert small: no such model'
    """
    return CheckpointError(f"{problem}: {str(error) or type(error).__name__}")
