"""How large the parts of a zip are, and what was left out: the table that the build prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from deploy.aws_lambda.builder.needless import files_in

_MEGABYTE = 1_000_000
# The parts, by the patterns of their paths. The first one that fits counts.
_PARTS = (
    ("onnxruntime", ("onnxruntime*",)),
    ("NumPy's linear algebra (OpenBLAS)", ("numpy.libs/*",)),
    ("NumPy", ("numpy*",)),
    ("tokenizers", ("tokenizers*",)),
    ("embedder, and the handler", ("embedder/*", "*lambda_function*")),
    ("the model", ("model/*",)),
)


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the zip: what, why, and its bytes."""

    what: str
    why: str
    size: int


def size_of(directory: Path) -> int:
    """Return the bytes of all files in `directory`."""
    return sum(file.stat().st_size for file in files_in(directory))


def parts_of(directory: Path) -> dict[str, int]:
    """Return the bytes of each part of a zip that was unpacked into `directory`, by its name.

    Example:
        >>> parts_of(Path("task"))["tokenizers"]  # doctest: +SKIP
        7992016
    """
    sizes = dict.fromkeys((name for name, _ in _PARTS), 0)
    for file in files_in(directory):
        path = file.relative_to(directory).as_posix()
        sizes[next(name for name, patterns in _PARTS if _fits(path, patterns))] += file.stat().st_size
    return sizes


def table_of_parts(parts: dict[str, int]) -> str:
    """Return a table in Markdown of the sizes of the parts.

    Example:
        >>> print(table_of_parts({"the model": 34_700_000}))
        | part | MB |
        |---|---:|
        | the model | 34.7 |
        | all | 34.7 |
    """
    rows = [f"| {name} | {_megabytes(size)} |" for name, size in {**parts, "all": sum(parts.values())}.items()]
    return "\n".join(["| part | MB |", "|---|---:|", *rows])


def table_of_left_out(items: Iterable[LeftOut]) -> str:
    """Return a table in Markdown of what is not in the zip.

    Example:
        >>> print(table_of_left_out([LeftOut("tests", "they test", 4_000_000)]))
        | left out | why it is not needed | MB |
        |---|---|---:|
        | tests | they test | 4.0 |
    """
    rows = [f"| {item.what} | {item.why} | {_megabytes(item.size)} |" for item in items]
    return "\n".join(["| left out | why it is not needed | MB |", "|---|---|---:|", *rows])


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.1f}"
