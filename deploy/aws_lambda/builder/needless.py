"""What a function does not need: a table, and the functions that take it out of a directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_LICENCES = ("*/licenses/*", "*/LICENSE*", "*/NOTICE*", "*/COPYING*")


@dataclass(frozen=True)
class Needless:
    """A row of the table.

    Attributes:
        what: the files, for people.
        why: why a function does not need them.
        patterns: the files, as paths in the zip. `*` also stands for `/`.
        imported: whether the package imports them all the same. They are then emptied instead of removed.
    """

    what: str
    why: str
    patterns: tuple[str, ...]
    imported: bool = False

    def fits(self, path: str) -> bool:
        """Return whether the row is about the file `path`."""
        return any(fnmatchcase(path, pattern) for pattern in self.patterns)


TABLE = (
    Needless(
        "embedder's server and command line",
        "a function has neither, and no other part of embedder imports them",
        ("embedder/serve/*", "embedder/cli/*", "embedder/__main__.py"),
    ),
    Needless(
        "libonnxruntime.so",
        "for programs in C; Python's module contains the same code",
        ("onnxruntime/capi/libonnxruntime.so*",),
    ),
    Needless(
        "onnxruntime's tools",
        "they make, change and test graphs",
        tuple(f"onnxruntime/{name}/*" for name in ("backend", "datasets", "quantization", "tools", "transformers")),
    ),
    Needless(
        "numpy.random, fft, ma, polynomial",
        "texts become vectors without them, and NumPy imports them only when they are used",
        tuple(f"numpy/{name}/*" for name in ("random", "fft", "ma", "polynomial")),
    ),
    Needless(
        "tests of NumPy",
        "they test NumPy",
        ("numpy/*tests/*", "numpy/testing/*", "numpy/conftest.py", "numpy/_core/_*_tests.*", "numpy/_core/_simd.*"),
    ),
    Needless(
        "numpy.f2py, headers, type stubs",
        "compilers and type checkers read them",
        ("numpy/f2py/*", "numpy/distutils/*", "numpy/_core/include/*", "*.a", "*.h", "*.pyi", "*.pxd", "*/py.typed"),
    ),
    Needless(
        "metadata of the packages",
        "pip reads it; the licences stay",
        ("*.dist-info/*", "bin/*", "onnxruntime/Privacy.md"),
    ),
    Needless(
        "documentation of NumPy's compiled functions",
        "people read it; it takes 5 ms of each start",
        ("numpy/_core/_add_newdocs*.py",),
        imported=True,
    ),
)


def remove_needless(directory: Path) -> dict[str, int]:
    """Remove the files of the table from `directory`. Return the bytes that each row held, by its `what`.

    Example:
        >>> remove_needless(Path("build"))["libonnxruntime.so"]  # doctest: +SKIP
        34824680
    """
    removed = dict.fromkeys((row.what for row in TABLE), 0)
    for file in files_in(directory):
        row = _row_of(file.relative_to(directory).as_posix())
        if row is not None:
            removed[row.what] += file.stat().st_size
            if row.imported:
                file.write_bytes(b"")
            else:
                file.unlink()
    for folder in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return removed


def files_in(directory: Path) -> Iterator[Path]:
    """Yield each file in `directory`, sorted by its path."""
    yield from sorted(path for path in directory.rglob("*") if path.is_file())


def _row_of(path: str) -> Needless | None:
    if any(fnmatchcase(path, licence) for licence in _LICENCES):
        return None
    return next((row for row in TABLE if row.fits(path)), None)
