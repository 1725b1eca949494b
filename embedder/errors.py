"""The errors that embedder raises; each message says what was wrong, with which value, and what to do.

EmbedderError
├── ModelNotFoundError    no artifact under that name or path
├── ArtifactError         an artifact or an index cannot be used: a file is missing, truncated or altered
│   └── FormatError       its format is one that this version does not read
├── InputError            a text, an image or an option that cannot be used (also a ValueError)
│   └── ImageError        some images cannot be read; it has the embeddings of the others
├── SettingError          an attribute that cannot be set (also an AttributeError and a TypeError)
├── ProviderError         an execution provider that is unknown or not available here
├── WorkerError           a process of a pool died or failed
└── DependencyError       a package is not installed (also an ImportError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_MAX_REASONS_SHOWN = 3


class EmbedderError(Exception):
    """Base of every error that embedder raises on purpose."""


class ModelNotFoundError(EmbedderError):
    """No artifact was found under the given name or path."""


class ArtifactError(EmbedderError):
    """The artifact, or the index, was found but cannot be used."""


class FormatError(ArtifactError):
    """The format version of a manifest or an index is not one that this version of embedder reads."""


class InputError(EmbedderError, ValueError):
    """A text, an image or an option given by the caller cannot be used."""


class ImageError(InputError):
    """Some of the images could not be read. All other inputs have been encoded.

    Attributes:
        reasons: what is wrong with each image, by its index in the caller's inputs.
        indices: int64 (k,), the indices of the inputs that have been encoded.
        embeddings: float32 (k, dimension), their vectors.
    """

    def __init__(self, reasons: dict[int, str], indices: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        self.reasons, self.indices, self.embeddings = reasons, indices, embeddings
        first = "; ".join(f"inputs[{index}]: {reason}" for index, reason in list(reasons.items())[:_MAX_REASONS_SHOWN])
        more = f"; and {len(reasons) - _MAX_REASONS_SHOWN} more" if len(reasons) > _MAX_REASONS_SHOWN else ""
        super().__init__(
            f"{first}{more}. The vectors of the other {len(indices)} inputs are in this error's embeddings and "
            "indices; encode_readable returns them"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the attributes. By default pickle would make the error from its message alone."""
        return type(self), (self.reasons, self.indices, self.embeddings)


class SettingError(EmbedderError, AttributeError, TypeError):
    """An attribute cannot be set. The message says what to do instead."""


class ProviderError(EmbedderError):
    """The execution provider is unknown, or not available on this machine."""


class WorkerError(EmbedderError):
    """A process of a pool died, or failed in a way of its own."""


class DependencyError(EmbedderError, ImportError):
    """A package that the call needs is not installed."""
