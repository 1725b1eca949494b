"""`embedder prepack`: write the weights in the layout of this CPU's kernels."""

from __future__ import annotations

import argparse

from embedder.cli.commands import Commands, add_command, add_revision_option
from embedder.cli.console import print_path

_DESCRIPTION = """Write a second copy of the weights on this machine, in the layout of its CPU's
kernels. The model then loads faster, and all processes that load it share one
copy in memory. The directory of each graph is printed.

Use this command for container images and cloud functions, where the disk is
read-only later. Elsewhere, the first load writes the same files to the user's
cache. The files are for one kind of CPU and one version of onnxruntime."""
_EXAMPLE = "  embedder prepack artifacts/all-MiniLM-L6-v2"


def add_parser(commands: Commands) -> None:
    """Add `embedder prepack`."""
    parser = add_command(
        commands,
        "prepack",
        "prepare an artifact to load fast",
        usage="MODEL",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("artifact", metavar="MODEL", help="name or path of a model")
    add_revision_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prepack the weights of an artifact, and print their directories."""
    from embedder.artifact.hub_access import HubAccess
    from embedder.artifact.locate import open_artifact
    from embedder.backends.prepacked import prepack

    artifact = open_artifact(options.artifact, HubAccess(options.revision))
    if not artifact.graphs_here():
        artifact.ensure(artifact.manifest.files)
    for path in prepack(artifact):
        print_path(str(path.parent))
