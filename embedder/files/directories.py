"""Find the files of a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from embedder.errors import InputError


def image_files(directory: str) -> list[Path]:
    """Return the image files in `directory` and its subdirectories; see `files_below`."""
    from embedder.images.sources import IMAGE_ENDINGS

    return files_below(directory, IMAGE_ENDINGS, "images")


def files_below(directory: str, endings: tuple[str, ...], kind: str) -> list[Path]:
    """Return the files in `directory` and its subdirectories whose names have one of `endings`, sorted by path.

    Links to directories are not followed, and hidden directories such as .git are left out. A broken link to a file is
    returned too, so that it is reported later.

    Raises:
        InputError: `directory` is not a directory, or has no such files. The message calls the files `kind`.
        OSError: a subdirectory cannot be read.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory} is not a directory")
    found = (Path(folder, name) for folder, names in _walk(directory) for name in names)
    named = (path for path in found if path.suffix.lower() in endings)
    files = sorted(path for path in named if path.is_file() or not path.exists())
    if not files:
        raise InputError(f"there are no {kind} in {directory}. Names of {kind} end in {', '.join(endings)}")
    return files


def _walk(directory: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each directory from `directory` on that is not hidden, with the names of its files."""
    for folder, below, names in os.walk(directory, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]  # os.walk goes into what is left
        yield folder, names


def _raise(error: OSError) -> None:
    raise error
