"""Vectors on a cluster of Ray: classes for `map_batches` of Ray Data, each with one model an actor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from embedder.common.imports import import_optional
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.files.encode_to_file import encode_to_file
from embedder.files.file_pairs import FilePair, rows_done
from embedder.files.formats import EMBEDDING
from embedder.files.journal import Job
from embedder.integrations.sent_model import contents_of, digest_of, unpacked
from embedder.integrations.table_encoder import TableEncoder

import_optional("ray", needed_for=__name__, requirement="ray[data]")

import pyarrow
import ray

_T = TypeVar("_T")

# So long an actor waits for a process of a run that was killed and still ends.
_MAX_WAIT_S = 60.0
_WAIT_STEP_S = 0.2


@frozen
class SentModel:
    """A model in Ray's object store. Make it by `send_model`.

    Attributes:
        digest: identifies the artifact.
        files: the name of each file, and the ray.ObjectRef of its content.
    """

    digest: str
    files: tuple[tuple[str, Any], ...]

    def directory(self) -> Path:
        """Return the directory of the artifact on this node. The first call on a node unpacks it into the cache.

        Raises:
            ArtifactError: a file was damaged on the way.
            ModelNotFoundError: the cache cannot be written.

        Example:
            >>> sent.directory().parent.name  # doctest: +SKIP
            'sent'
        """
        return unpacked(self.digest, ((name, ray.get(content)) for name, content in self.files))


def send_model(encoder: TableEncoder) -> SentModel:
    """Put the files of a model into Ray's object store, once: for nodes that can read them nowhere else.

    Keep the result as long as the job runs: the object store drops what nobody holds.

    Args:
        encoder: it names the model. The model is loaded here.

    Raises:
        EmbedderError: the model cannot be loaded.

    Example:
        >>> sent = send_model(TableEncoder("artifacts/all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
    directory = encoder.directory
    return SentModel(digest_of(directory), tuple((name, ray.put(content)) for name, content in contents_of(directory)))


class EncodeBatches:
    """Adds vectors to the batches of a dataset of Ray. Give the class to `map_batches`, with `batch_format="pyarrow"`.

    Each actor loads the model once. It computes on as many cores as `num_cpus` grants it, if the options of the encoder
    do not say how many.

    Example:
        >>> dataset.map_batches(  # doctest: +SKIP
        ...     EncodeBatches,
        ...     fn_constructor_kwargs={"encoder": TableEncoder("all-MiniLM-L6-v2")},
        ...     batch_format="pyarrow",
        ...     batch_size=1024,
        ...     compute=ray.data.ActorPoolStrategy(size=4),
        ... )
    """

    def __init__(self, encoder: TableEncoder, sent_model: SentModel | None = None) -> None:
        """Load the model.

        Args:
            encoder: the model, its options, and the columns.
            sent_model: the files of the model, if the nodes cannot read them by its name or path.

        Raises:
            EmbedderError: the model cannot be loaded.
        """
        self._encoder = _on_this_node(encoder, sent_model)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Return a batch with its vectors. The order of its rows is kept.

        Raises:
            InputError: the column of texts is missing, has no strings, or has a null.
        """
        if not isinstance(batch, pyarrow.Table):
            raise InputError('EncodeBatches takes tables of Arrow. Give batch_format="pyarrow" to map_batches')
        return self._encoder.encode(batch)


class EncodeFiles:
    """Writes the vectors of files to files. Give the class to `map_batches` of a dataset of pairs of files.

    An actor that is killed loses at most a block of 1,024 rows: the next one goes on with the file. The vectors are in
    the column "embedding".

    Example:
        >>> encoder = TableEncoder("all-MiniLM-L6-v2").pinned()  # doctest: +SKIP
        >>> pairs = unfinished_files(pair_files("texts/", "vectors/"), encoder.job())  # doctest: +SKIP
        >>> ray.data.from_items([asdict(pair) for pair in pairs]).map_batches(  # doctest: +SKIP
        ...     EncodeFiles, fn_constructor_kwargs={"encoder": encoder}, batch_format="pyarrow", batch_size=1
        ... )
    """

    def __init__(self, encoder: TableEncoder, sent_model: SentModel | None = None) -> None:
        """Load the model; see `EncodeBatches`.

        Args:
            encoder: the model and its options. It is pinned, so that all files have the vectors of one model.
            sent_model: the files of the model, if the nodes cannot read them by its name or path.

        Raises:
            InputError: the encoder is not pinned, or has another column for the vectors.
            EmbedderError: the model cannot be loaded.
        """
        if encoder.digest is None:
            raise InputError("EncodeFiles takes an encoder that is pinned. Give encoder.pinned()")
        if encoder.output_column != EMBEDDING:
            raise InputError(f"EncodeFiles writes the vectors to the column {EMBEDDING!r}. Leave output_column out")
        self._encoder = _on_this_node(encoder, sent_model)
        self._job = self._encoder.job()

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Write the outputs of a batch of pairs: a table with the columns "input" and "output".

        Returns:
            The batch with two more columns: "rows", the number of vectors in the output; and "problem". If the texts of
            a file are wrong, or a file cannot be read or written, "problem" says why, and there is no output. Otherwise
            it is null.

        Raises:
            EmbedderError: as in `encode_to_file`.
        """
        pairs = batch.select(["input", "output"]).to_pylist()
        done = [{**pair, **self._write(FilePair(**pair))} for pair in pairs]
        types = {"input": pyarrow.string(), "output": pyarrow.string(), "rows": pyarrow.int64()}
        return pyarrow.Table.from_pylist(done, pyarrow.schema({**types, "problem": pyarrow.string()}))

    def _write(self, pair: FilePair) -> dict[str, Any]:
        try:
            rows = _when_free(lambda: self._rows_of(pair))
        except (InputError, OSError) as error:
            return {"rows": 0, "problem": str(error)}
        return {"rows": rows, "problem": None}

    def _rows_of(self, pair: FilePair) -> int:
        """Write an output, unless another actor has just completed it. Return the number of its rows."""
        encoder = self._encoder
        rows = rows_done(pair, self._job)
        if rows is not None:
            return rows
        return encode_to_file(
            pair.input,
            pair.output,
            model=encoder.embedder,
            column=encoder.column,
            resume=True,
            **encoder.encode_kwargs,
        )


def unfinished_files(pairs: Iterable[FilePair], job: Job) -> list[FilePair]:
    """Return the pairs whose output an earlier run has not completed. The cluster checks all of them at the same time.

    Args:
        pairs: what `pair_files` returned.
        job: what decides the vectors; see `TableEncoder.job`.

    Raises:
        InputError: an output is of another job, or its input has changed since. Nothing has been encoded.
        OSError: a file cannot be read.

    Example:
        >>> unfinished_files(pair_files("texts/", "vectors/"), encoder.job())  # doctest: +SKIP
        [FilePair(input='texts/2.parquet', output='vectors/2.parquet')]
    """
    pairs = list(pairs)
    check = ray.remote(rows_done)
    done = ray.get([check.remote(pair, job) for pair in pairs])
    return [pair for pair, rows in zip(pairs, done, strict=True) if rows is None]


def _on_this_node(encoder: TableEncoder, sent_model: SentModel | None) -> TableEncoder:
    """Return an encoder with a loaded model, and with the threads that Ray grants to this actor."""
    if sent_model is not None:
        encoder = encoder.at(sent_model.directory())
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    if cores:
        encoder = encoder.with_threads(max(1, int(cores)))
    _ = encoder.embedder
    return encoder


def _when_free(write: Callable[[], _T]) -> _T:
    """Call `write`. If another process writes the file, wait: it may be of a killed run, and about to end."""
    give_up = time.monotonic() + _MAX_WAIT_S
    while True:
        try:
            return write()
        except InputError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() >= give_up:
                raise
            time.sleep(_WAIT_STEP_S)
