"""`embedder verify`: check all files of a model, and run each of its graphs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from embedder.cli.commands import Commands, add_command, add_revision_option
from embedder.cli.console import print_text
from embedder.errors import ArtifactError, DependencyError, EmbedderError

if TYPE_CHECKING:
    from embedder.artifact.artifact import Artifact
    from embedder.artifact.manifest import Graph
    from embedder.inputs import Item

_DESCRIPTION = """Check the SHA-256 of all files of a model on this machine. Then load its
tokenizer and its graphs on the CPU, and encode a text or an image with each
graph. Nothing is fetched. The exit status is 1 if anything is wrong."""
_EXAMPLE = "  embedder verify all-MiniLM-L6-v2"
_IMAGE_SIZE = 64


def add_parser(commands: Commands) -> None:
    """Add `embedder verify`."""
    parser = add_command(
        commands,
        "verify",
        "check all files of a model and run its graphs",
        usage="MODEL",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL", help="name or path of a model")
    add_revision_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Check a model. Print a line for each file and each graph."""
    from embedder.artifact.hub_access import HubAccess
    from embedder.artifact.locate import open_artifact
    from embedder.backends.prepacked import check_prepacked

    access = HubAccess(options.revision, local_files_only=True)
    artifact = open_artifact(options.model, access, may_export=False)
    checks = dict(_file_checks(artifact)) | dict(_graph_checks(artifact))
    checks["prepacked weights"] = partial(check_prepacked, artifact)
    failed = [name for name, check in checks.items() if not _passes(name, check)]
    if failed:
        raise ArtifactError(f"{artifact.directory} is damaged or incomplete. Failed: {', '.join(failed)}")


def _file_checks(artifact: Artifact) -> list[tuple[str, Callable[[], object]]]:
    """Return the check of each file, by its name. A graph may be left out, but only with both of its files."""
    from embedder.common.digests import check_digest

    manifest = artifact.manifest
    left_out = {
        file
        for graph in manifest.graphs
        for file in (graph.file, graph.weights)
        if not artifact.has(graph.file) and not artifact.has(graph.weights)
    }
    present = [file for file in manifest.files if file not in left_out]
    return [(file.name, partial(check_digest, artifact.path(file), file.sha256)) for file in present]


def _graph_checks(artifact: Artifact) -> list[tuple[str, Callable[[], object]]]:
    """Return the check of each graph that is here, by its modality and dtype. A modality needs a graph."""
    manifest, here = artifact.manifest, artifact.graphs_here()
    checks: list[tuple[str, Callable[[], object]]] = []
    for modality in manifest.modalities:
        graphs = [graph for graph in here if graph.modality == modality] or list(manifest.graphs_of(modality))[:1]
        checks += [(f"{modality} graph of {graph.dtype}", partial(_run_graph, artifact, graph)) for graph in graphs]
    return checks


def _passes(name: str, check: Callable[[], object]) -> bool:
    """Run a check, and print what comes of it."""
    try:
        check()
    except DependencyError as error:
        print_text(f"skipped  {name}: {error}")
    except EmbedderError as error:
        print_text(f"WRONG    {name}: {error}")
        return False
    else:
        print_text(f"ok       {name}")
    return True


def _run_graph(artifact: Artifact, graph: Graph) -> None:
    """Load a graph on the CPU, and encode one input with it."""
    from embedder.engine.engine import Engine
    from embedder.inputs import Pair
    from embedder.options import EncodeSettings, LoadSettings

    manifest = artifact.manifest
    # The engine needs a graph for each modality, and loads only what an input needs.
    others = [manifest.graphs_of(modality)[0] for modality in manifest.modalities if modality != graph.modality]
    alone = replace(artifact, manifest=replace(manifest, graphs=(graph, *others)))
    if graph.modality == "image":
        item = _image()
    else:
        item = Pair("a question", "an answer") if manifest.task == "rank" else "a text"
    engine = Engine(alone, LoadSettings(provider="cpu"))
    try:
        for block in engine.run([item], EncodeSettings()):
            if block.reasons:
                raise ArtifactError(f"a grey image cannot be encoded: {block.reasons[0]}")
    finally:
        engine.close()


def _image() -> Item:
    """Return a grey image."""
    import numpy as np

    from embedder.inputs import InputKinds, check_list

    return check_list([np.full((_IMAGE_SIZE, _IMAGE_SIZE, 3), 128, np.uint8)], InputKinds(images=True))[0]
