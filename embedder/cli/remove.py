"""`embedder remove`: remove a model from this machine."""

from __future__ import annotations

import argparse

from embedder.cli.commands import Commands, add_command, add_revision_option
from embedder.cli.console import print_path

_DESCRIPTION = """Remove a model from the model directory and from the Hub's cache, and its
prepacked weights from the user's cache. The removed directories are printed.
Directories that you made yourself, such as those in ./artifacts, stay."""
_EXAMPLE = "  embedder remove BAAI/bge-small-en-v1.5"


def add_parser(commands: Commands) -> None:
    """Add `embedder remove`."""
    parser = add_command(
        commands,
        "remove",
        "remove a model from this machine",
        usage="MODEL",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="name of a model")
    add_revision_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Remove a model, and print the directories that are gone."""
    from embedder.artifact.inventory import remove_model
    from embedder.backends.prepacked import remove_cached

    for model in remove_model(options.model, options.revision):
        print_path(str(model.directory))
        if model.artifact is not None:
            for directory in remove_cached(model.artifact.manifest.graphs):
                print_path(str(directory))
