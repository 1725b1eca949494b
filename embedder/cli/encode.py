"""`embedder encode`: encode the texts of a file, or the images of a directory."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from embedder.cli.commands import (
    DEFAULT_MODEL,
    Commands,
    add_command,
    add_model_options,
    check_takes_images,
    load_model,
)
from embedder.cli.console import say, warn_of_image
from embedder.cli.outputs import is_stream, open_stream
from embedder.cli.stopping import stopped_by_signals
from embedder.cli.texts import add_format_options, text_source
from embedder.common.counted import counted
from embedder.common.progress import is_watched
from embedder.errors import InputError
from embedder.files.directories import image_files
from embedder.files.encoding import encode_rows, job_of
from embedder.files.formats import EMBEDDING, PRECISIONS, Layout, RowFields
from embedder.files.inputs import DEFAULT_COLUMN, STDIO
from embedder.files.journal import Tally
from embedder.files.outputs import OUTPUT_FORMATS, check_ranged, open_files, output_format
from embedder.files.partial_file import Output
from embedder.files.sources import Texts, check_apart, find_files, image_pairs, open_sources

if TYPE_CHECKING:
    from embedder import Embedder, EncodeSettings

_DESCRIPTION = """Turn texts or images into vectors, in the order of the input.

input formats (by the ending of the file name, or by --input-format):
  lines  .txt            Each line is a text. An empty line is an empty text.
                         Standard input has this format.
  jsonl  .jsonl .ndjson  Each line is a JSON object. Blank lines are allowed
                         only at the end.
  csv    .csv            The first line has the names of the columns. The
                         delimiter is a comma. If a comma does not give the
                         header the wanted column, ; tab and | are tried.
                         With one column, a blank line is an empty text. With
                         several columns, blank lines are allowed only at the
                         end.
  tsv    .tsv .tab       Like csv, but the first delimiter to try is a tab.
  parquet  .parquet .pq  A column of strings. The other columns are kept.
All texts are UTF-8. A CSV field in double quotes may contain line breaks and
delimiters. INPUT may also be a directory, or a pattern such as "data/*.csv":
the records of its files follow each other.

output formats (by the ending of the file name, or by --output-format):
  jsonl  .jsonl          Each line is a record of the input. The field
                         "embedding" has its vector, and replaces a field of
                         this name. Standard output has this format.
  npy    .npy            One NumPy array with a row for each vector.
  parquet  .parquet .pq  The columns of the input, and the column "embedding",
                         a list of a fixed size. A directory (its name ends in
                         "/") gets many such files, of some 100,000 rows each.

An input file is checked to its end before the model is loaded. A pipe cannot
be checked first. If it has a bad record, all records before it are encoded
and written.

The finished vectors wait in FILE.partial, and FILE.journal says which they
are. FILE changes only when all is done. After an error, Ctrl-C or a kill, the
same command with --resume goes on from there. It refuses to go on with another
model, other options or another input. If nothing waits, --resume begins anew,
but a complete FILE of the same model, options and input stays. For this,
FILE.journal stays beside .npy and .jsonl.

With --images, the images are sorted by their paths. In jsonl, the field
"image" has the path. Images that cannot be read are reported and left out,
and the exit status is 1. A text is never read as a file name."""
_EXAMPLE = """  embedder encode reviews.csv --column review --output reviews.npy
  embedder encode in.parquet --output out.parquet --resume
  embedder encode --model clip-ViT-B-32 --images photos --output photos.jsonl"""


def add_parser(commands: Commands) -> None:
    """Add `embedder encode`."""
    parser = add_command(
        commands,
        "encode",
        "turn texts or images into vectors",
        usage="[INPUT]",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("input", nargs="?", default=STDIO, metavar="INPUT", help="files of texts; default: stdin")
    source.add_argument("--images", metavar="DIR", help="encode the images in this directory and its subdirectories")
    add_format_options(parser, column="text")
    parser.add_argument(
        "-o", "--output", default=STDIO, metavar="FILE", help="the file or DIR/ to write; default: stdout"
    )
    parser.add_argument("--output-format", choices=OUTPUT_FORMATS, help="default: by the file name")
    parser.add_argument("--resume", action="store_true", help="go on with what an earlier run has left or completed")
    group = parser.add_argument_group("vectors")
    group.add_argument("--prompt", metavar="TEXT", help="put TEXT before each text")
    group.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt NAME before each text")
    group.add_argument("--batch-size", type=int, metavar="N", help="at most N inputs in one call of the model")
    group.add_argument("--warn-if-cut", action="store_true", help="say how many texts are longer than the model reads")
    group.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    group.add_argument("--normalize", action="store_true", help="scale each vector to length 1")
    group.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="float32, float16, or one bit for each dimension: binary (int8) or ubinary (uint8); to .parquet also int8 "
        "or uint8",
    )
    add_model_options(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Encode the inputs and write their vectors."""
    format = options.output_format or _output_format(options.output)
    _check_precision(options.precision, options.output, format)
    if options.resume and is_stream(options.output):
        raise InputError("--resume goes on with a file. Name it with --output")
    with stopped_by_signals(), _open_inputs(options, format) as inputs:
        model = load_model(options, options.model)
        if options.images is not None:
            check_takes_images(model)
        from embedder import EncodeSettings  # here, as it imports NumPy

        settings = EncodeSettings(**_encode_options(options))
        layout = Layout.of(format, options.truncate_dim or model.dimension, options.precision)
        with _open_output(options, model, settings, layout, inputs) as output:
            if output.start.inputs:
                say(f"note: {counted(output.start.inputs, 'input')} done by an earlier run")
            tally = encode_rows(model, inputs.rows(), output, settings, _warn_of_image)
    _report(tally, model)


def _report(tally: Tally, model: Embedder) -> None:
    """Say which inputs have no vector, or one of a part alone."""
    if tally.first_cut is not None:
        say(
            f"warning: {counted(tally.cut, 'text')} cut after {model.max_seq_length:,} tokens. The first is text "
            f"{tally.first_cut + 1:,} of the input"
        )
    if tally.unreadable:
        raise InputError(
            f"{counted(tally.unreadable, 'image')} cannot be read, see the warnings. The vectors of the others are "
            "written"
        )


def _warn_of_image(fields: RowFields, reason: str) -> None:
    warn_of_image(fields.values()["image"], reason)


def _output_format(path: str) -> str:
    return "jsonl" if path == STDIO else output_format(path)


def _open_output(
    options: argparse.Namespace, model: Embedder, settings: EncodeSettings, layout: Layout, inputs: Texts
) -> AbstractContextManager[Output]:
    """Open the output: a stream, a file or a directory."""
    if is_stream(options.output):
        return open_stream(options.output, layout)
    column = "" if options.images is not None else options.column or DEFAULT_COLUMN
    job = job_of(model, settings, layout, column, options.precision)
    return open_files(options.output, job, layout, inputs, resume=options.resume)


@contextmanager
def _open_inputs(options: argparse.Namespace, format: str) -> Iterator[Texts]:
    """Open the inputs to encode.

    Raises:
        InputError: an input, or an option that describes the inputs, is wrong.
        OSError: a file or a directory cannot be read.
    """
    if options.images is not None:
        for name in ("column", "input_format", "delimiter", "prompt", "prompt_name"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} is for texts. It cannot be used with --images")
        paths = image_files(options.images)
        yield Texts(image_pairs(paths), len(paths))
        return
    column = options.column or DEFAULT_COLUMN
    if format != "npy" and column == EMBEDDING:
        raise InputError(f"--column {EMBEDDING}: the vectors are written to this column. Rename the column")
    found = find_files(options.input)
    if not is_stream(options.output):
        check_apart(options.input, found, options.output)
    sources = [text_source(options, path, column) for path in found]
    with open_sources(sources, format) as texts:
        yield texts


def _check_precision(precision: str, output: str, format: str) -> None:
    if precision not in PRECISIONS:
        raise InputError(f"--precision should be one of {', '.join(PRECISIONS)}, not {precision!r:.60}")
    check_ranged(precision, output, format, "--precision")


def _encode_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the request."""
    return {
        "prompt": options.prompt,
        "prompt_name": options.prompt_name,
        "batch_size": options.batch_size,
        "truncate_dim": options.truncate_dim,
        "normalize_embeddings": options.normalize,
        "precision": options.precision if options.precision in ("binary", "ubinary") else "float32",
        "show_progress_bar": is_watched(),
        "read_paths": False,
        "warn_if_cut": options.warn_if_cut,
    }
