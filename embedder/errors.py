"""The errors that embedder raises. Each message says what is wrong, with which value, and what to do.

EmbedderError
├── ModelNotFoundError    no artifact under that name or path
├── ArtifactError         an artifact or an index cannot be used: a file is missing, truncated or altered
│   └── FormatError       this version of embedder cannot read its format version
├── InputError            a text, an image or an option cannot be used (also a ValueError)
│   └── ImageError        some images cannot be read; the error holds the vectors of the other inputs
├── ConflictError         another process has changed the file that would be overwritten
├── SettingError          an attribute cannot be set (also an AttributeError and a TypeError)
├── ProviderError         an execution provider is unknown or not available here
├── DeviceMemoryError     a device has too little memory for an input or for the model
├── WorkerError           a worker process of a pool died or failed
└── DependencyError       a package is not installed (also an ImportError)

CutTextWarning is a warning, not an error: texts are longer than the model reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedder.common.escapes import escape_message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_MAX_REASONS_SHOWN = 3


class EmbedderError(Exception):
    r"""Base class of all errors of embedder.

    A message may quote a file that a stranger wrote. Its control characters are shown as escapes, so that they cannot
    drive a terminal.

    Example:
        >>> issubclass(ImageError, EmbedderError)
        True
        >>> print(EmbedderError("the model '\x1b[2J'"))
        the model '\x1b[2J'
    """

    def __str__(self) -> str:
        return escape_message(super().__str__())


class ModelNotFoundError(EmbedderError):
    """No artifact was found under the given name or path.

    Example:
        >>> embedder.Embedder("./no-such-model")
        Traceback (most recent call last):
        ...
        embedder.errors.ModelNotFoundError: no exported model at './no-such-model': there is no ...
    """


class ArtifactError(EmbedderError):
    """The artifact, or the index, was found but cannot be used.

    Example:
        >>> embedder.Embedder("damaged")  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.ArtifactError: damaged/tokenizer.json is missing: export or copy the model again
    """


class FormatError(ArtifactError):
    """This version of embedder cannot read the format version of the manifest or the index.

    Example:
        >>> issubclass(FormatError, ArtifactError)
        True
    """


class InputError(EmbedderError, ValueError):
    """A text, an image or an option given by the caller cannot be used.

    Example:
        >>> embedder.EncodeSettings(batch_size=0)
        Traceback (most recent call last):
        ...
        embedder.errors.InputError: batch_size should be a whole number, at least 1, not 0
    """


class ImageError(InputError):
    """Some of the images could not be read. All other inputs have been encoded.

    Attributes:
        reasons: why an image could not be read, by the index of the input.
        indices: int64 (k,), the indices of the inputs that have been encoded.
        embeddings: float32 (k, dimension), the vectors of these inputs.

    Example:
        >>> try:  # doctest: +SKIP
        ...     vectors = model.encode(paths)
        ... except ImageError as error:
        ...     vectors, unreadable = error.embeddings, [paths[index] for index in error.reasons]
    """

    def __init__(self, reasons: dict[int, str], indices: NDArray[np.int64], embeddings: NDArray[np.float32]) -> None:
        self.reasons, self.indices, self.embeddings = reasons, indices, embeddings
        first = "; ".join(f"inputs[{index}]: {reason}" for index, reason in list(reasons.items())[:_MAX_REASONS_SHOWN])
        more = f"; and {len(reasons) - _MAX_REASONS_SHOWN} more" if len(reasons) > _MAX_REASONS_SHOWN else ""
        super().__init__(
            f"{first}{more}. This error holds the vectors of the other {len(indices)} inputs (embeddings, indices). "
            "encode_readable leaves out images that cannot be read"
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the attributes. By default pickle keeps the message alone."""
        return type(self), (self.reasons, self.indices, self.embeddings)


class ConflictError(EmbedderError):
    """Another process has changed a file since it was read, and saving would undo that change.

    Example:
        >>> index.save("notes.index")  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.ConflictError: notes.index has changed since this index was loaded from it or saved to it, ...
    """


class CutTextWarning(UserWarning):
    """The model did not read all of some texts. `encode(..., warn_if_cut=True)` gives this warning once a call.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", CutTextWarning)  # from here on, it is an error
    """


class SettingError(EmbedderError, AttributeError, TypeError):
    """An attribute cannot be set. The message says what to do instead.

    Example:
        >>> model.truncate_dim = 64  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.SettingError: Embedder.truncate_dim cannot be set: pass truncate_dim= to Embedder(...) or ...
    """


class ProviderError(EmbedderError):
    """The execution provider is unknown or not available on this machine.

    Example:
        >>> embedder.Embedder(provider="tpu")  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.ProviderError: unknown provider 'tpu': choose from 'cpu', 'cuda'
    """


class DeviceMemoryError(EmbedderError):
    """The device has too little memory for the model, or for a single input.

    A batch that does not fit is halved and run again. So during a call, this error means that one input alone is too
    large.

    Example:
        >>> model.encode(long_text)  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.DeviceMemoryError: the device 'cuda' has too little free memory for input 0 ...
    """


class WorkerError(EmbedderError):
    """A worker process of a pool died, or raised an error that is not one of embedder.

    Example:
        >>> pool.stop()  # doctest: +SKIP
        >>> pool.encode("a text")  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.WorkerError: the pool has been stopped. Start another
    """


class DependencyError(EmbedderError, ImportError):
    """A package that the call needs is not installed.

    Example:
        >>> model.encode(Path("cat.png"))  # doctest: +SKIP
        Traceback (most recent call last):
        ...
        embedder.errors.DependencyError: Reading images needs PIL, which is not installed. Run: pip install ...
    """
