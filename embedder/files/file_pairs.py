"""Jobs of many files: each file of texts gets a Parquet file of vectors. Any process may take any of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from embedder.common.file_locks import try_lock
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.directories import files_below
from embedder.files.inputs import TextSource, input_format
from embedder.files.journal import Job, differences, read_journal
from embedder.files.object_store import is_remote, is_remote_file, list_remote
from embedder.files.outputs import PARQUET
from embedder.files.parquet import ENDINGS, read_tallies
from embedder.files.row_stream import RowStream
from embedder.files.sources import GLOB_CHARACTERS, check_apart, find_files, open_sources
from embedder.files.targets import target_of


@frozen
class FilePair:
    """A file of texts, and the file of its vectors.

    Attributes:
        input: the path of the texts.
        output: the path of the vectors, a Parquet file. Both are absolute: the processes of a cluster may have other
            working directories.
    """

    input: str
    output: str


def pair_files(inputs: str, directory: str) -> list[FilePair]:
    """Return each input with the output that it gets in a directory: the same name, with the ending .parquet.

    The directory is made, with the subdirectories that the inputs are in.

    Args:
        inputs: a file of texts, a directory of them, or a pattern such as "data/*.parquet".
        directory: where the outputs go; it may be in an object store.

    Raises:
        InputError: there are no inputs, or two of them would get the same output; the directory has a Parquet file that
            no input gets, or cannot be made; or it lies in that of the inputs.
        OSError: a directory cannot be read.
        DependencyError: pyarrow is not installed.

    Example:
        >>> pair_files("/data/texts/*.parquet", "/data/vectors")  # doctest: +SKIP
        [FilePair(input='/data/texts/1.parquet', output='/data/vectors/1.parquet')]
    """
    inputs, directory = _absolute(inputs), _absolute(directory).rstrip("/") or "/"
    found = find_files(inputs)
    if not (is_remote(inputs) or os.path.lexists(found[0])):
        raise InputError(f"{inputs} is not there")
    check_apart(inputs, found, f"{directory}/")
    root = _root(inputs)
    pairs: dict[str, FilePair] = {}
    for path in found:
        input_format(path)  # it checks the ending
        output = f"{directory}/{os.path.splitext(path[len(root) :])[0]}.parquet"
        if output in pairs:
            raise InputError(f"{path} and {pairs[output].input} would both get {output}. Rename one")
        pairs[output] = FilePair(path, output)
    if strays := [path for path in _outputs_in(directory) if path not in pairs]:
        raise InputError(
            f"{strays[0]} is there, and no input has this name. Choose an empty directory, or remove the file: its "
            "vectors would be among those of this job"
        )
    if not is_remote(directory):
        _make_directories(directory, pairs)
    return list(pairs.values())


def rows_done(pair: FilePair, job: Job) -> int | None:
    """Return the number of rows of a complete output. None if the output is not there yet.

    The texts are read to their end, to check that the output has their vectors. What a process has left of the output
    that was killed later is removed.

    Args:
        pair: the two files.
        job: what decides the vectors.

    Raises:
        InputError: the output, or what a stopped run has left of it, is of another job; the input has changed since; or
            the output was not written by embedder.
        OSError: a file cannot be read.

    Example:
        >>> rows_done(FilePair("texts/1.parquet", "vectors/1.parquet"), encoder.job())  # doctest: +SKIP
        100000
    """
    if not (is_remote_file(pair.output) if is_remote(pair.output) else os.path.lexists(pair.output)):
        _check_left(pair.output, job)
        return None
    old, start, tally = read_tallies(pair.output)
    _check_same(pair.output, old, job)
    with open_sources([TextSource(pair.input, input_format(pair.input), job["column"])], PARQUET) as texts:
        count, digest = _read_all(texts.rows())
    if start.inputs or (count, digest) != (tally.inputs, tally.digest):
        raise InputError(
            f"{pair.input} has changed since {pair.output} was written. Delete the output to encode the input again"
        )
    _remove_parts(pair.output)
    return count


def _absolute(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)


def _root(inputs: str) -> str:
    """Return the part of a path that its files have in common, with the separator at its end."""
    if not is_remote(inputs) and os.path.isdir(inputs):
        return os.path.join(inputs, "")
    first = min((inputs.find(character) for character in GLOB_CHARACTERS if character in inputs), default=len(inputs))
    return inputs[: inputs.rfind("/", 0, first) + 1]


def _outputs_in(directory: str) -> list[str]:
    if is_remote(directory):
        return list_remote(f"{directory}/", ENDINGS)
    try:
        return [str(path) for path in files_below(directory, ENDINGS, "Parquet files")]
    except InputError:  # there is none
        return []


def _make_directories(directory: str, outputs: dict[str, FilePair]) -> None:
    try:
        for folder in sorted({directory, *map(os.path.dirname, outputs)}):
            Path(folder).mkdir(parents=folder != directory, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror}") from error


def _check_left(output: str, job: Job) -> None:
    """Raise InputError if a run with another job was stopped while it wrote `output`."""
    target = target_of(output)
    try:
        journal = read_journal(target.journal.read_bytes())
    except FileNotFoundError:
        return
    if journal is not None and target.partial.exists():
        _check_same(str(target.partial), journal.job, job)


def _remove_parts(output: str) -> None:
    """Remove the parts beside a complete output. A process that was cut off may have begun it once more."""
    target = target_of(output)
    with suppress(OSError), target.journal.open("r+b") as log:
        try_lock(log.fileno())  # it raises an error if a process still writes
        target.remove_parts()


def _check_same(path: str, old: Job, new: Job) -> None:
    if changes := differences(old, new):
        raise InputError(
            f"{path} is of another run: {'; '.join(changes)}. Give the same options, or choose an empty directory"
        )


def _read_all(rows: RowStream) -> tuple[int, str]:
    """Return the number of the records and their digest, as a tally has them."""
    count = 0
    for _ in rows:
        rows.take(count)
        count += 1
    if rows.error is not None:
        raise rows.error
    return count, rows.digest if count else ""
