"""`embedder.encode_to_file`: encode many texts into a file, and go on after a kill."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Unpack

from embedder.common.checks import check_flag, shown
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import InputError
from embedder.files.encoding import encode_rows, job_of
from embedder.files.formats import EMBEDDING, Layout
from embedder.files.inputs import DEFAULT_COLUMN, TextSource, input_format
from embedder.files.outputs import check_ranged, open_files, output_format
from embedder.files.sources import Texts, check_apart, find_files, open_sources, texts_of_program
from embedder.kept_models import get_model
from embedder.options import RANGED_PRECISIONS, EncodeOptions, EncodeSettings
from embedder.results import CutTexts


def encode_to_file(
    inputs: str | os.PathLike[str] | Iterable[str | Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | Embedder = DEFAULT_MODEL,
    column: str = DEFAULT_COLUMN,
    resume: bool = False,
    settings: EncodeSettings | None = None,
    **options: Unpack[EncodeOptions],
) -> int:
    """Write the vectors of many texts to a file, in bounded memory. `embedder encode` does the same.

    The vectors wait in `OUTPUT.partial`, beside `OUTPUT.journal`. If the process is killed, the same call with
    `resume=True` goes on from there. `OUTPUT` changes only when all is done.

    Args:
        inputs: a file of texts (.txt, .jsonl, .csv, .tsv or .parquet), a directory of such files, or a pattern such as
            "data/*.csv". Or the texts themselves: an iterable of texts, or of records, which are mappings with a text
            in the field `column`.
        output: the file to write: .npy, .jsonl or .parquet. Or a directory, which gets Parquet files of about 100,000
            rows; its name ends in "/", or it is there.
        model: a model, or its name or path.
        column: the field of a record with its text.
        resume: go on with what a run has left that was stopped. If nothing is left, begin. A complete output of the
            same job and the same inputs stays as it is. For this, `OUTPUT.journal` stays beside .npy and .jsonl.
        settings: all options as one object, instead of `options`.
        **options: see `EncodeOptions`. The precisions "int8" and "uint8" are for a single file .parquet. Its metadata
            have the ranges of the dimensions.

    Returns:
        The number of vectors in the output.

    Raises:
        InputError: a text is wrong; the output cannot be created; a stopped run has left vectors and `resume` is False;
            or `resume` is True, and that run had another model, other options or other inputs.
        OSError: a file cannot be read or written.
        DependencyError: a file is Parquet, and pyarrow is not installed.
        EmbedderError: as in `Embedder`.

    Example:
        >>> embedder.encode_to_file("reviews.csv", "reviews.npy", column="review", resume=True)  # doctest: +SKIP
        1000000
    """
    settings = EncodeSettings.of(options, settings).refuse_skip()
    check_flag("resume", resume)
    path = os.fspath(output)
    format, precision = output_format(path), settings.precision
    check_ranged(precision, path, format, "precision")
    if precision in RANGED_PRECISIONS:
        settings = replace(settings, precision="float32")  # until all vectors are there
    if format != "npy" and column == EMBEDDING:
        raise InputError(f"column {EMBEDDING!r}: the vectors are written to this column. Rename the column")
    with _opened(inputs, column, format, path) as texts:
        loaded = model if isinstance(model, Embedder) else get_model(model)
        layout = Layout.of(format, settings.truncate_dim or loaded.dimension, precision)
        job = job_of(loaded, settings, layout, column, precision)
        with open_files(path, job, layout, texts, resume=bool(resume)) as file:
            tally = encode_rows(loaded, texts.rows(), file, settings, lambda fields, reason: None)
    CutTexts(tally.cut, tally.first_cut, tally.inputs).warn(loaded.max_seq_length, "inputs")
    return tally.inputs


@contextmanager
def _opened(inputs: Any, column: str, format: str, output: str) -> Iterator[Texts]:
    """Open the inputs.

    Raises:
        InputError: they are neither a path nor many texts; or as in `check_apart` and `open_sources`.
        OSError: a file cannot be read.
    """
    if isinstance(inputs, str | os.PathLike):
        found = find_files(os.fspath(inputs))
        check_apart(os.fspath(inputs), found, output)
        sources = [TextSource(path, input_format(path), column) for path in found]
        with open_sources(sources, format) as texts:
            yield texts
    elif isinstance(inputs, Iterable) and not isinstance(inputs, bytes | Mapping):
        yield texts_of_program(inputs, column, format)
    else:
        raise InputError(f"inputs should be a path, or many texts, not {shown(inputs)}")
