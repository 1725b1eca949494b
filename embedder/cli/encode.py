"""`embedder encode`: encode the texts of a file, or the images of a directory."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedder.cli.commands import (
    DEFAULT_MODEL,
    Commands,
    add_command,
    add_model_options,
    check_takes_images,
    load_model,
)
from embedder.cli.console import counted, say, warn_of_image
from embedder.cli.inputs import DEFAULT_COLUMN, STDIO, Fields, image_files, open_records
from embedder.cli.outputs import OUTPUT_FORMATS, PRECISIONS, Layout, Writer, open_output, output_format
from embedder.cli.stopping import stopped_by_signals
from embedder.cli.texts import add_format_options, text_source
from embedder.common.progress import is_watched
from embedder.errors import InputError

if TYPE_CHECKING:
    from embedder import EncodeOptions, EncodeResult

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
All inputs are UTF-8. A CSV field in double quotes may contain line breaks and
delimiters.

output formats (by the ending of the file name, or by --output-format):
  jsonl  .jsonl          Each line is a record of the input. The field
                         "embedding" has its vector, and replaces a field of
                         this name. Standard output has this format.
  npy    .npy            One NumPy array with a row for each vector.

An input file is checked to its end before the model is loaded. A pipe cannot
be checked first. If it has a bad record, all records before it are encoded
and written. After an error or Ctrl-C, the finished vectors are kept in
FILE.partial, and FILE does not change.

With --images, the images are sorted by their paths. In jsonl, the field
"image" has the path. Images that cannot be read are reported and left out,
and the exit status is 1. A text is never read as a file name."""
_EXAMPLE = """  embedder encode reviews.csv --column review --output reviews.npy
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
    source.add_argument("input", nargs="?", default=STDIO, metavar="INPUT", help="a file of texts; default: stdin")
    source.add_argument("--images", metavar="DIR", help="encode the images in this directory and its subdirectories")
    add_format_options(parser, column="text")
    parser.add_argument("-o", "--output", default=STDIO, metavar="FILE", help="the file to write; default: stdout")
    parser.add_argument("--output-format", choices=OUTPUT_FORMATS, help="default: by the file name")
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
        help="float32, or one bit for each dimension: binary (int8) or ubinary (uint8)",
    )
    add_model_options(parser, DEFAULT_MODEL)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Encode the inputs and write their vectors."""
    format = options.output_format or output_format(options.output)
    _check_precision(options.precision)
    with stopped_by_signals(), _open_inputs(options, format) as inputs:
        model = load_model(options, options.model)
        if options.images is not None:
            check_takes_images(model)
        layout = Layout.of(format, options.truncate_dim or model.dimension, options.precision)
        results = model.iter_results(inputs, **_encode_options(options))
        with open_output(options.output, layout) as writer:
            unreadable, cut = _write(results, inputs, writer)
    if cut:
        say(
            f"warning: {counted(len(cut), 'text')} cut after {model.max_seq_length:,} tokens. The first is text "
            f"{cut[0] + 1:,} of the input"
        )
    if unreadable:
        raise InputError(
            f"{counted(unreadable, 'image')} cannot be read, see the warnings. The vectors of the others are written"
        )


def _write(results: Iterator[EncodeResult], inputs: Inputs, writer: Writer) -> tuple[int, list[int]]:
    """Write all results with their records.

    Returns:
        The number of inputs that cannot be read, and the indices of the texts that the model did not read to their end.

    Raises:
        InputError, OSError: a record cannot be read. The results before it are written.
    """
    unreadable, cut = 0, list[int]()
    for result in results:
        for index, reason in result.reasons.items():
            warn_of_image(inputs.take(index)["image"], reason)
        unreadable += len(result.reasons)
        cut += result.cut.tolist()
        writer.add([inputs.take(index) for index in result.indices.tolist()], result.embeddings)
    if inputs.error is not None:
        raise inputs.error
    return unreadable, cut


class Inputs:
    """An iterator over the inputs of a model. It keeps the fields of each input until they are taken.

    It is made of pairs: an input, and its fields.

    A record that cannot be read ends the iteration, so that the model still encodes all inputs before it.

    Attributes:
        error: the error that ended the iteration early, or None.
    """

    def __init__(self, pairs: Iterable[tuple[Any, Fields]]) -> None:
        self._pairs = iter(pairs)
        self._waiting: dict[int, Fields] = {}
        self._index = 0
        self.error: Exception | None = None

    def __iter__(self) -> Inputs:
        return self

    def __next__(self) -> Any:
        try:
            item, fields = next(self._pairs)
        except (InputError, OSError) as error:
            self.error = error
            raise StopIteration from error
        self._waiting[self._index] = fields
        self._index += 1
        return item

    def take(self, index: int) -> Fields:
        """Return the fields of an input, and drop them from memory."""
        return self._waiting.pop(index)


class CountedInputs(Inputs):
    """Inputs with a known count, so that the progress bar can show the remaining time."""

    def __init__(self, pairs: Iterable[tuple[Any, Fields]], count: int) -> None:
        super().__init__(pairs)
        self._count = count

    def __len__(self) -> int:
        return self._count


@contextmanager
def _open_inputs(options: argparse.Namespace, format: str) -> Iterator[Inputs]:
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
        yield CountedInputs(((path, {"image": str(path)}) for path in paths), len(paths))
        return
    source = text_source(options, options.input, options.column or DEFAULT_COLUMN)
    if format == "jsonl" and source.column == "embedding":
        raise InputError("--column embedding: JSONL output writes the vectors to this column. Rename the column")
    with open_records(source) as records:
        pairs = ((record.text, record.fields) for record in records.stream)
        yield Inputs(pairs) if records.count is None else CountedInputs(pairs, records.count)


def _check_precision(precision: str) -> None:
    if precision in ("int8", "uint8"):
        raise InputError(
            f"--precision {precision} needs the range of each dimension over all vectors, and search needs the ranges "
            "too. Write float32 vectors, and quantise them with "
            "embedder.quantize_embeddings(embeddings, precision, ranges)"
        )
    if precision not in PRECISIONS:
        raise InputError(f"--precision should be one of {', '.join(PRECISIONS)}, not {precision!r:.60}")


def _encode_options(options: argparse.Namespace) -> EncodeOptions:
    """Return the options of `Embedder.iter_results`."""
    chosen: dict[str, Any] = {
        "prompt": options.prompt,
        "prompt_name": options.prompt_name,
        "batch_size": options.batch_size,
        "truncate_dim": options.truncate_dim,
        "normalize_embeddings": options.normalize,
        "precision": options.precision,
        "show_progress_bar": is_watched(),
        "read_paths": False,
        "warn_if_cut": options.warn_if_cut,
    }
    return chosen  # type: ignore[return-value]
