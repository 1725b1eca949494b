"""What the commands share: their parsers, and the model that they load."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from embedder.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embedder import Embedder, EncodeOptions

# Stand here too, so that `--help` need not import the model's code.
DEFAULT_MODEL, DEFAULT_IMAGE_MODEL = "all-MiniLM-L6-v2", "clip-ViT-B-32"
Commands = Any
"""What `argparse.ArgumentParser.add_subparsers` returns."""


def add_command(commands: Commands, name: str, help: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """Add the parser of a command. `description` and `example` are shown as they are written."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_model_options(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options that say which model runs, and on what."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", default=default, help="its path or name; default: %(default)s")
    group.add_argument("--provider", metavar="NAME", help="what computes, such as cpu; default: a GPU if there is one")
    group.add_argument(
        "--dtype", metavar="NAME", help="fp32, fp16, int8, or auto for the fastest; default: the exact one"
    )
    group.add_argument("--threads", type=int, metavar="N", help="at most N threads on a CPU; default: one a core")


def load_model(options: argparse.Namespace, model: str) -> Embedder:
    """Load `model` as the options of `add_model_options` say."""
    from embedder import Embedder

    return Embedder(model, provider=options.provider, dtype=options.dtype, threads=options.threads)


def check_takes_images(model: Embedder) -> None:
    """Raise InputError unless the model takes images."""
    if "image" not in model.modalities:
        name = model.manifest.source.model
        raise InputError(f"{name!r} takes no images. Choose --model, such as {DEFAULT_IMAGE_MODEL}")


@dataclass(frozen=True)
class Result:
    """Embeddings of a part of the inputs, as `Embedder.iter_results` gives them.

    Attributes:
        embeddings: (k, dim).
        indices: of their inputs, int64 (k,), counted from the first input of the stream.
        errors: why each other image of the part cannot be read, by its index.
    """

    embeddings: NDArray[Any]
    indices: NDArray[np.int64]
    errors: dict[int, str]


def iter_results(model: Embedder, inputs: Iterable[Any], options: EncodeOptions) -> Iterator[Result]:
    """Encode a stream. Images that cannot be read are left out and reported.

    Stands for `model.iter_results(inputs, **options)` until every model has that method.
    """
    if hasattr(model, "iter_results"):
        return cast("Iterator[Result]", model.iter_results(inputs, **options))
    known = dict(options)
    precision = str(known.pop("precision", "float32"))
    return _iter_results(model.encode_iter(inputs, errors="skip", **known), precision)  # type: ignore[call-overload]


def _iter_results(pairs: Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]], precision: str) -> Iterator[Result]:
    from embedder import quantize_embeddings

    with _logged_errors() as errors:
        for embeddings, indices in pairs:
            found = dict(errors)
            errors.clear()
            quantized = embeddings if precision == "float32" else quantize_embeddings(embeddings, precision)
            yield Result(quantized, indices, found)


@contextmanager
def _logged_errors() -> Iterator[dict[int, str]]:
    """Collect what the encoder logs of images that it skips, in the place of printing it."""
    errors: dict[int, str] = {}

    def collect(record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            index, reason = record.args
            errors[int(str(index))] = str(reason)
        return False

    logger = logging.getLogger("embedder.encoder")
    logger.addFilter(collect)
    try:
        yield errors
    finally:
        logger.removeFilter(collect)
