"""What the commands share: their parsers, and the model that they load."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from embedder.errors import InputError

if TYPE_CHECKING:
    from embedder import Embedder

# Defined here again, so that `--help` does not import the model's code.
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
