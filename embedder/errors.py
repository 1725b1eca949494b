"""The errors that embedder raises; each message says what was wrong, with which value, and what to do.

EmbedderError
├── ModelNotFoundError    no artifact under that name or path
├── ArtifactError         an artifact or an index cannot be used: a file is missing, truncated or altered
│   └── FormatError       its format is one that this version does not read
├── InputError            a text or an option that cannot be used (also a ValueError)
├── ProviderError         an execution provider that is unknown or not available here
├── WorkerError           a process of a pool died or failed
└── DependencyError       a package is not installed (also an ImportError)
"""


class EmbedderError(Exception):
    """Base of every error that embedder raises on purpose."""


class ModelNotFoundError(EmbedderError):
    """No artifact was found under the given name or path."""


class ArtifactError(EmbedderError):
    """The artifact, or the index, was found but cannot be used."""


class FormatError(ArtifactError):
    """The format version of a manifest or an index is not one that this version of embedder reads."""


class InputError(EmbedderError, ValueError):
    """A text or an option given by the caller cannot be used."""


class ProviderError(EmbedderError):
    """The execution provider is unknown, or not available on this machine."""


class WorkerError(EmbedderError):
    """A process of a pool died, or failed in a way of its own."""


class DependencyError(EmbedderError, ImportError):
    """A package that the call needs is not installed."""
