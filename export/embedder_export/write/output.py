"""Replace the output directory at the end of a successful export."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embedder.artifact.manifest import MANIFEST_NAME
from embedder.backends.prepacked_form import FOLDER as PREPACKED
from embedder.common.files import is_staging, replacing

from embedder_export.errors import OutputError

_OUR_NAMES = (MANIFEST_NAME, "tokenizer.json")
_OUR_EXTENSIONS = (".onnx", ".onnx.data")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a new directory beside `output`. If the body of the `with` ends without an error, it replaces `output`.

    Missing parent directories are made. They are removed again if the body fails.

    Raises:
        OutputError: `output` cannot be written, or holds other files than an artifact's.

    Example:
        >>> with staged(Path("artifacts/small")) as stage:  # doctest: +SKIP
        ...     (stage / "embedder.json").write_text(manifest)
    """
    output = _resolve(output)
    _check_ours(output)
    missing = [parent for parent in output.parents if not parent.exists()]
    try:
        with _swapped(output) as stage:
            yield stage
            _check_ours(output)
    except BaseException:
        with suppress(OSError):  # another program may have written there meanwhile
            for parent in missing:
                parent.rmdir()
        raise


@contextmanager
def _swapped(output: Path) -> Iterator[Path]:
    """Yield a new directory that replaces `output` at the end. File errors become `OutputError`."""
    begun = finished = False
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output, swap_directory=True) as stage:
            stage.mkdir()
            begun = True
            yield stage
            finished = True
    except OSError as error:
        if finished:
            raise OutputError(f"{output} cannot be replaced and is unchanged: {error.strerror}") from error
        if not begun:
            raise OutputError(f"{output} cannot be written: {error.strerror}") from error
        raise


def _resolve(output: Path) -> Path:
    try:
        output = output.resolve()
        output.with_name("a name")  # fails for the root of the file system, which has no name
    except (RuntimeError, ValueError, OSError) as error:  # RuntimeError and OSError: a loop of links
        raise OutputError(f"{output} cannot be written: {error}") from error
    return output


def _check_ours(output: Path) -> None:
    """Check that `output` does not exist, or holds only files that an export writes.

    Raises:
        OutputError: `output` holds another file, or cannot be read.
    """
    try:
        if not output.exists():
            return
        paths = list(output.iterdir()) if output.is_dir() else [output]
    except OSError as error:
        raise OutputError(f"{output} cannot be read: {error.strerror}") from error
    others = [path.name for path in paths if not _is_ours(path)]
    if paths and not others and not (output / MANIFEST_NAME).is_file():
        others = [paths[0].name]  # graphs without a manifest come from another program
    if others:
        raise OutputError(
            f"{output} exists and holds {others[0]!r}, which is not part of an artifact: remove it, or choose another "
            "--output"
        )


def _is_ours(path: Path) -> bool:
    """Return whether an export or `embedder prepack` may have written `path`, also if it was killed."""
    if path.name == PREPACKED or is_staging(path.name):
        return path.is_dir()
    return path.is_file() and (path.name in _OUR_NAMES or path.name.endswith(_OUR_EXTENSIONS))
