"""`embedder list`: the models on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from embedder.cli.commands import Commands, add_command
from embedder.cli.console import print_text, say

if TYPE_CHECKING:
    from embedder.artifact.inventory import Model

_DESCRIPTION = """List the models of the model directory, of ./artifacts and of the Hub's cache.
A line has the name, the dtypes, the task (such as "embed"), the size of the
files on this machine, and the directory. A model whose manifest cannot be read
is listed as damaged."""
_EXAMPLE = "  embedder list"


def add_parser(commands: Commands) -> None:
    """Add `embedder list`."""
    parser = add_command(
        commands, "list", "list the models on this machine", usage="", description=_DESCRIPTION, example=_EXAMPLE
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a line for each model."""
    from embedder.artifact.inventory import list_models

    rows = [_row(model) for model in list_models()]
    if not rows:
        say("no models yet. To get one, run: embedder pull all-MiniLM-L6-v2")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, dtypes, task, size, directory in rows:
        first = f"{name:<{widths[0]}}  {dtypes:<{widths[1]}}  {task:<{widths[2]}}"
        print_text(f"{first}  {size:>{widths[3]}}  {directory}")


def _row(model: Model) -> tuple[str, str, str, str, str]:
    name = model.name if model.revision is None else f"{model.name}@{model.revision}"
    if model.artifact is None:
        return name, "damaged", "", "", model.problem
    manifest = model.artifact.manifest
    dtypes = dict.fromkeys(graph.dtype for graph in model.artifact.graphs_here())
    files = [model.artifact.path(file) for file in manifest.files if model.artifact.has(file)]
    size = sum(path.stat().st_size for path in files)
    return name, ",".join(dtypes) or "none", manifest.task, f"{size / 1e6:.1f} MB", str(model.directory)
