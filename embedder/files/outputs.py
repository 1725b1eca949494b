"""Choose the format of an output, and open it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder.errors import InputError
from embedder.files.formats import Format, JsonlFormat, Layout, NpyFormat
from embedder.files.journal import Job
from embedder.files.partial_file import Output, open_single
from embedder.files.targets import target_of

if TYPE_CHECKING:
    from embedder.files.sources import Texts

PARQUET = "parquet"
OUTPUT_FORMATS = ("jsonl", "npy", PARQUET)
_ENDINGS = {".jsonl": "jsonl", ".npy": "npy", ".parquet": PARQUET, ".pq": PARQUET}


def is_directory(path: str) -> bool:
    """Return whether a path names a directory: it ends in a separator, or the directory is there.

    Example:
        >>> is_directory("vectors/"), is_directory("vectors.npy")
        (True, False)
    """
    return path.endswith(("/", os.sep)) or os.path.isdir(path)


def output_format(path: str) -> str:
    """Return the format of an output file by the ending of its name. A directory gets Parquet files.

    Raises:
        InputError: the ending is unknown.

    Example:
        >>> output_format("vectors.npy"), output_format("vectors/")
        ('npy', 'parquet')
    """
    if is_directory(path):
        return PARQUET
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS:
        raise InputError(
            f"the name {path!r} does not show the output format. Let it end in .npy, .jsonl or .parquet, or add "
            "--output-format"
        )
    return _ENDINGS[ending]


def check_ranged(precision: str, path: str, format: str, option: str) -> None:
    """Raise InputError if an output has no room for the ranges that a precision needs.

    Args:
        precision: how the vectors are quantised.
        path: the output.
        format: its format.
        option: what chooses the precision, for the message, such as "--precision".

    Example:
        >>> check_ranged("int8", "vectors.parquet", "parquet", "--precision")
    """
    from embedder.options import RANGED_PRECISIONS  # here, as it imports NumPy

    if precision in RANGED_PRECISIONS and (format != PARQUET or is_directory(path)):
        raise InputError(
            f"{option} {precision} needs the range of each dimension over all vectors, and search needs the ranges "
            "too. One file .parquet has room for them. Or write float32 vectors, and quantise them with "
            "embedder.quantize_embeddings(embeddings, precision, ranges)"
        )


def make_format(layout: Layout, schema: Any = None) -> Format:
    """Return the format that a layout names.

    Args:
        layout: the format and the size of the vectors.
        schema: the columns of the input. None if they are known only from its records.

    Raises:
        DependencyError: the format is Parquet, and pyarrow is not installed.

    Example:
        >>> len(make_format(Layout.of("npy", 384, "float32")).head(0))
        128
    """
    if layout.format == PARQUET:
        from embedder.files.parquet import ParquetFormat

        return ParquetFormat(layout, schema)
    return (JsonlFormat if layout.format == "jsonl" else NpyFormat)(layout)


@contextmanager
def open_files(path: str, job: Job, layout: Layout, texts: Texts, *, resume: bool) -> Iterator[Output]:
    """Open a file of vectors, or a directory of such files.

    With `resume`, an output stays as it is that has the vectors of the same job and the same inputs.

    If the body of the `with` statement raises an error, the written vectors are kept. A note on the error says where.

    Args:
        path: the file, or the directory.
        job: what decides the vectors.
        layout: the format and the size of the vectors.
        texts: the inputs.
        resume: go on with what an earlier run has left.

    Raises:
        InputError: as in `open_single` and `open_shards`; or a directory should get another format than Parquet.
        DependencyError: the format is Parquet, and pyarrow is not installed.
        OSError: a write fails.

    Example:
        >>> with open_files("vectors.npy", job, layout, texts, resume=True) as output:  # doctest: +SKIP
        ...     output.add(records, vectors, tally)
    """
    if not is_directory(path):
        format = make_format(layout, texts.schema)
        with open_single(target_of(path), job, format, resume=resume, coverage=texts.coverage) as file:
            yield file
        return
    if layout.format != PARQUET:
        raise InputError(f"{path} is a directory, which gets Parquet files. Name a file for the format {layout.format}")
    from embedder.files.shards import open_shards

    make_format(layout, texts.schema)  # pyarrow is there, or nothing is made
    with open_shards(path, job, lambda: make_format(layout, texts.schema), resume=resume) as shards:
        yield shards
