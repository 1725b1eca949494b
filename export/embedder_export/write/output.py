"""The output directory: it changes only when the whole export has passed."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedder.artifact.manifest import MANIFEST_NAME
from embedder.backends.prepacked import FOLDER as PREPACKED
from embedder.common.files import replacing

from embedder_export.errors import OutputError

_OUR_NAMES = (MANIFEST_NAME, "tokenizer.json")
_OUR_EXTENSIONS = (".onnx", ".onnx.data")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a new directory beside `output`. It takes the place of `output` if the body ends without an error.

    Parent directories that are missing are made, and removed again if the body fails.

    Raises:
        OutputError: `output` exists and holds something else than an artifact, or it cannot be written.
    """
    output = _resolve(output)
    _check_ours(output)
    missing = [parent for parent in output.parents if not parent.exists()]
    try:
        with _swapped(output) as stage:
            yield stage
            _check_ours(output)
    except BaseException:
        with suppress(OSError):  # another program may have put something there meanwhile
            for parent in missing:
                parent.rmdir()
        raise


@contextmanager
def _swapped(output: Path) -> Iterator[Path]:
    """Yield a new directory that replaces `output` at the end. Errors of either step become `OutputError`."""
    finished = False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    try:
        with replacing(output, swap_directory=True) as stage:
            _make(stage, output)
            yield stage
            finished = True
    except OSError as error:
        if finished:
            raise OutputError(f"{output} cannot be replaced, and is as it was: {error.strerror}") from error
        raise


def _make(stage: Path, output: Path) -> None:
    try:
        stage.mkdir()
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error


def _resolve(output: Path) -> Path:
    try:
        output = output.resolve()
        output.with_name("a name")  # the root of the file system has no name
    except (RuntimeError, ValueError, OSError) as error:  # RuntimeError and OSError: a loop of links
        raise OutputError(f"{output} cannot be written: {error}") from error
    return output


def _check_ours(output: Path) -> None:
    """Check that `output` does not exist, or holds only what an export writes.

    Raises:
        OutputError: it holds something else.
    """
    try:
        if not output.exists():
            return
        paths = list(output.iterdir()) if output.is_dir() else [output]
    except OSError as error:
        raise OutputError(f"{output} cannot be read: {error.strerror}") from error
    others = [path.name for path in paths if not _is_ours(path)]
    if paths and not others and not (output / MANIFEST_NAME).is_file():
        others = [paths[0].name]  # graphs without a manifest are another program's
    if others:
        raise OutputError(
            f"{output} exists and holds {others[0]!r}, which is no part of an artifact: remove it, or choose another "
            "--output"
        )


def _is_ours(path: Path) -> bool:
    """Whether an export, or `embedder prepack`, may have written `path` into an artifact."""
    if path.name == PREPACKED:
        return path.is_dir()
    return path.is_file() and (path.name in _OUR_NAMES or path.name.endswith(_OUR_EXTENSIONS))
