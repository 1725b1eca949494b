"""Functions that several commands use: they build parsers and load the model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from embedder.errors import InputError

if TYPE_CHECKING:
    from embedder import Embedder

# `Embedder` has the same default. It is repeated here, so that `--help` does not import the model's code.
DEFAULT_MODEL, DEFAULT_IMAGE_MODEL = "all-MiniLM-L6-v2", "clip-ViT-B-32"
# The result of `argparse.ArgumentParser.add_subparsers`. Its class is private.
Commands = Any


def add_command(commands: Commands, name: str, help: str, *, description: str, example: str) -> argparse.ArgumentParser:
    """Add and return the parser of a command. Its help shows `description` and `example` line by line, as they are."""
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
    """Add the options that choose the model, its dtype and its device."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", default=default, help="name or path of a model; default: %(default)s")
    add_revision_option(group)
    group.add_argument("--provider", metavar="NAME", help="the device, such as cpu; default: a GPU if one works")
    group.add_argument(
        "--dtype", metavar="NAME", help="fp32, fp16, int8, or auto for the fastest; default: fp32 if the model has it"
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="at most N threads on a CPU; default: one for each core"
    )


def add_revision_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the option that chooses the revision of a model of the Hub."""
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the model on the Hub")


def load_model(options: argparse.Namespace, model: str) -> Embedder:
    """Load `model` with the options of `add_model_options`."""
    from embedder import Embedder

    return Embedder(
        model, provider=options.provider, dtype=options.dtype, threads=options.threads, revision=options.revision
    )


def check_takes_images(model: Embedder) -> None:
    """Raise InputError unless the model takes images."""
    if "image" not in model.modalities:
        name = model.manifest.source.model
        raise InputError(f"{name!r} takes no images. Choose another --model, such as {DEFAULT_IMAGE_MODEL}")
