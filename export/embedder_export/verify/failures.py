"""The errors of an artifact that does not work."""

from collections.abc import Iterator
from contextlib import contextmanager

from embedder.engine.outputs import NotFiniteError
from embedder.errors import ArtifactError

from embedder_export.errors import CheckpointError, ParityError


@contextmanager
def described_failures(name: str, outputs: str = "embeddings") -> Iterator[None]:
    """Raise the exporter's errors instead of the runtime's.

    Args:
        name: the checkpoint's name.
        outputs: what it gives.

    Raises:
        ParityError: the outputs are not finite.
        CheckpointError: the artifact does not work.

    Example:
        >>> with described_failures("all-MiniLM-L6-v2"):
        ...     vectors = model.encode(texts)  # doctest: +SKIP
    """
    try:
        yield
    except NotFiniteError as error:
        raise ParityError(
            f"{name} gives {outputs} that are not finite, although its weights are: its activations exceed the range "
            "of float32"
        ) from error
    except ArtifactError as error:
        raise CheckpointError(f"{name} does not work, as its files do not fit together: {error}") from error
