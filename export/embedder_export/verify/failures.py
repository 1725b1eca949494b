"""What to do if an artifact does not work, or if its reference cannot be loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from embedder.engine.outputs import NotFiniteError
from embedder.errors import ArtifactError

from embedder_export.errors import CheckpointError, NoReferenceError, ParityError

_Reference = TypeVar("_Reference")


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


def load_if_possible(
    load: Callable[[], _Reference | None], report: Callable[[str], None], *, is_required: bool
) -> _Reference | None:
    """Return the reference that `load` returns. If it cannot be loaded, report why, and return None.

    Args:
        load: loads the reference. It returns None if the reference is not installed.
        report: called with the reason.
        is_required: whether it is an error if the reference cannot be loaded.

    Raises:
        NoReferenceError: the reference is required, and cannot be loaded.

    Example:
        >>> load_if_possible(lambda: "sentence-transformers 6.2", print, is_required=True)
        'sentence-transformers 6.2'
    """
    try:
        return load()
    except NoReferenceError as error:
        if is_required:
            raise
        report(str(error))
        return None
