"""`embedder pull`: fetch or make a model ahead of its first use."""

from __future__ import annotations

import argparse

from embedder.cli.commands import Commands, add_command, add_revision_option
from embedder.cli.console import print_path

_DESCRIPTION = """Do now what the first use of a model would do: fetch it from the Hub, or export
it into the model directory if the exporter is installed. An artifact that was
fetched before is brought up to date. The model is then loaded, which checks its
files, and its directory is printed."""
_EXAMPLE = "  embedder pull BAAI/bge-small-en-v1.5 --dtype int8"


def add_parser(commands: Commands) -> None:
    """Add `embedder pull`."""
    parser = add_command(
        commands,
        "pull",
        "fetch or make a model ahead of its first use",
        usage="MODEL",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="name of a model")
    parser.add_argument(
        "--dtype", metavar="NAME", help="fp32, fp16, int8, int4 or auto; default: fp32 if the model has it"
    )
    add_revision_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Find, fetch or make a model, load it, and print its directory."""
    from embedder.artifact.hub_access import HubAccess
    from embedder.artifact.locate import open_artifact
    from embedder.engine.engine import Engine
    from embedder.options import LoadSettings

    artifact = open_artifact(options.model, HubAccess(options.revision), refresh=True)
    Engine(artifact, LoadSettings(dtype=options.dtype)).close()
    print_path(str(artifact.directory))
