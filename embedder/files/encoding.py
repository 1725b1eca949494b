"""Encode a stream of rows into an output, from the place on where an earlier run was stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from embedder.files.formats import Layout
from embedder.files.journal import Job, Tally

if TYPE_CHECKING:
    from embedder.encoder import Embedder
    from embedder.files.formats import RowFields
    from embedder.files.partial_file import Output
    from embedder.files.row_stream import RowStream
    from embedder.options import EncodeSettings


def job_of(model: Embedder, settings: EncodeSettings, layout: Layout, column: str, precision: str) -> Job:
    """Return what decides the vectors of a job, and how they are written: a run goes on only with the same job.

    The batch size, the threads and the device are not in it. They change the last bits at most.

    Args:
        model: the model.
        settings: the options of the request.
        layout: the format and the size of the vectors.
        column: the field of a record with its text.
        precision: how the vectors are quantised or rounded.

    Raises:
        InputError: the model has no such prompt.

    Example:
        >>> job_of(model, EncodeSettings(), layout, "text", "float32")["prompt"]  # doctest: +SKIP
        ''
    """
    model.iter_results([], settings=settings)  # it checks the options
    name = settings.prompt_name if settings.prompt_name is not None else model.manifest.default_prompt_name
    prompt = settings.prompt if settings.prompt is not None else model.prompts.get(name or "", "")
    return {
        "model": model.manifest.source.model,
        "model_digest": model.digest,
        "dtype": model.dtype,
        "prompt": prompt,
        "dimension": settings.truncate_dim or model.dimension,
        "normalize_embeddings": settings.normalize_embeddings,
        "precision": precision,
        "column": column,
        "format": layout.format,
    }


def encode_rows(
    model: Embedder,
    rows: RowStream,
    output: Output,
    settings: EncodeSettings,
    on_unreadable: Callable[[RowFields, str], None],
) -> Tally:
    """Write the vectors of all rows that `output` does not have yet.

    Args:
        model: the model.
        rows: all inputs of the job.
        output: where the vectors go.
        settings: the options of the request.
        on_unreadable: called with each image that cannot be read, and the reason.

    Returns:
        What has become of all inputs, those of earlier runs included.

    Raises:
        InputError, OSError: a record cannot be read. The vectors of those before it are written.
        InputError: the inputs are not those of the stopped run.

    Example:
        >>> encode_rows(model, rows, output, EncodeSettings(), print).inputs  # doctest: +SKIP
        1024
    """
    rows.skip(output.start)
    tally = output.start
    for result in model.iter_results(rows, settings=settings):
        done = sorted([*result.indices.tolist(), *result.reasons])
        records = {index: rows.take(index) for index in done}
        for index, reason in result.reasons.items():
            on_unreadable(records[index], reason)
        cut = result.cut.tolist()
        first_cut = rows.skipped + cut[0] if tally.first_cut is None and cut else tally.first_cut
        tally = Tally(
            tally.inputs + len(done),
            rows.digest,
            tally.unreadable + len(result.reasons),
            tally.cut + len(cut),
            first_cut,
        )
        output.add([records[index] for index in result.indices.tolist()], result.embeddings, tally)
    if rows.error is not None:
        raise rows.error
    return tally
