"""A prepacked form: a graph with its prepacked weights, for one version of onnxruntime and one kind of CPU.

A form replaces the artifact's own graph and weights, for which the manifest has digests. Nothing in the form shows
which weights it was made from. So a form is used only if its origin is known:

- A form in the artifact is used only if the manifest vouches for it under `extra`. So whoever trusts a manifest trusts
  every byte that is loaded. A form that was added to an artifact later, or that is left from an earlier model, is
  ignored. Whoever can write the manifest can name any graph there, also without prepacked weights. Forms are never
  fetched from the Hub.
- A form in the user's cache is used only if nobody else can have written there; see `embedder.common.cache`.

A form has one of two shapes:

- A directory of its own holds the graph, the weights, and a record of their digests. `embedder prepack` and the cache
  have these. The manifest has the digest of the record, which is the text that it has for the form.
- A shared form is one more graph in the directory of the artifact. Its weights are in the artifact's own file, which
  holds both the plain and the packed ones. So the artifact runs everywhere, and has each weight once. The manifest has
  the name, the size and the digest of the graph. The exporter writes such artifacts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import IMAGE, File, Graph
from embedder.backends.backend import CheckedGraph, GraphFiles
from embedder.backends.cpu_kind import cpu_kind
from embedder.backends.onnxruntime_package import is_before
from embedder.backends.sessions import runtime_version
from embedder.common.decode import decode
from embedder.common.digests import CheckedFile, check_digest
from embedder.common.files import is_staging, read_regular
from embedder.common.json_text import parse_json
from embedder.errors import ArtifactError, EmbedderError

# Name of the directory in the artifact and in the cache, and of the field under `extra` in the manifest.
FOLDER = "prepacked"
GRAPH_NAME, WEIGHTS_NAME, RECORD_NAME = "model.onnx", "model.onnx.data", "prepacked.json"
# These errors mean that there is no prepacked form in a place, or that it is damaged.
UNUSABLE = (OSError, ValueError, KeyError, TypeError, EmbedderError)
_MAX_RECORD_BYTES = 1000
# Older versions crash when they load the prepacked weights of some models, such as MPNet and T5.
_OLDEST_VERSION = (1, 32)


def can_prepack(graph: Graph) -> bool:
    """Return whether the weights of `graph` are packed alike on all CPUs of a kind.

    Kernels for AVX2 and for AVX-512 may pack weights of 4 bits in different ways. So those are packed at each load.

    Example:
        >>> can_prepack(manifest.graphs[0])  # doctest: +SKIP
        True
    """
    return graph.dtype != "int4"


def form_name(graph: Graph) -> str | None:
    """Return the name of the form of `graph` on this machine, or None if weights cannot be prepacked here.

    The name is `<digest of the graph>-<onnxruntime's version>-<kind of CPU>`.

    Example:
        >>> form_name(artifact.manifest.graphs[0])  # doctest: +SKIP
        '1f3a...9c07-1.32.0-x86_64-avx2-fma'
    """
    kind = None if _is_old() or not can_prepack(graph) else cpu_kind(convolutions=graph.modality == IMAGE)
    if kind is None:
        return None
    return f"{content_of(graph)}-{runtime_version()}-{kind.replace(' ', '-')}"


def known_name(graph: Graph) -> str:
    """Return the name of the form of `graph` on this machine.

    Raises:
        ArtifactError: weights cannot be prepacked here. The message says why.
    """
    name = form_name(graph)
    if name is not None:
        return name
    if _is_old():
        oldest = ".".join(map(str, _OLDEST_VERSION))
        raise ArtifactError(
            f"weights cannot be prepacked here: onnxruntime {runtime_version()} is too old for it, and {oldest} or "
            "later is needed. Without prepacked weights a model has the same vectors, and loads more slowly"
        )
    raise ArtifactError(
        "weights cannot be prepacked here: /proc/cpuinfo does not show the features of the CPU, so nothing would "
        "say where they are right"
    )


def _is_old() -> bool:
    return is_before(runtime_version(), _OLDEST_VERSION)


def content_of(graph: Graph) -> str:
    """Return a digest of the graph and its weights. 128 bits of each, so that nobody can make another graph fit it."""
    return graph.file.sha256[:32] + graph.weights.sha256[:32]


def forms_in(root: Path) -> list[Path]:
    """Return the directories of all forms in `root`, which may be missing."""
    return sorted(path for path in root.iterdir() if not is_staging(path.name)) if root.is_dir() else []


def form_in(directory: Path, record_sha256: str | None = None) -> CheckedGraph:
    """Return the form in `directory`, with the digests of its record.

    Args:
        directory: the directory of a form.
        record_sha256: the digest that the record should have, if the manifest has one.

    Raises:
        One of `UNUSABLE`.
    """
    digests = _read_record(directory, record_sha256)
    return CheckedGraph(
        CheckedFile(directory / GRAPH_NAME, digests[GRAPH_NAME]),
        CheckedFile(directory / WEIGHTS_NAME, digests[WEIGHTS_NAME], recorded=True),
    )


def vouched_form(files: GraphFiles, name: str) -> CheckedGraph:
    """Return the form of `files` in the artifact for which the manifest vouches. Raises one of `UNUSABLE`."""
    entry = entries(files.artifact)[name]
    if not isinstance(entry, dict):
        return form_in(files.artifact.directory / FOLDER / name, str(entry))
    graph = _decode_shared(entry)
    # The same object as for the plain graph, so that the weights are read and checked once.
    sha256 = graph.sha256 if files.verify else None
    return CheckedGraph(CheckedFile(files.artifact.path(graph), sha256), files.checked.weights)


def entries(artifact: Artifact) -> dict[str, Any]:
    """Return what the manifest has for each form, by its name."""
    found = artifact.manifest.extra.get(FOLDER)
    return found if isinstance(found, dict) else {}


def shared_entry(graph: File) -> dict[str, object]:
    """Return what the manifest has for a shared form. `graph` is the file of its graph."""
    return asdict(graph)


def shared_graphs(artifact: Artifact) -> dict[str, File]:
    """Return the graphs of the shared forms of `artifact`, by the names of the forms. They need not be here."""
    found = {}
    for name, entry in entries(artifact).items():
        with suppress(ValueError):
            if isinstance(entry, dict):
                found[name] = _decode_shared(entry)
    return found


def check_all(directory: Path, record_sha256: str | None) -> None:
    """Read every file of a form. Raises one of `UNUSABLE` unless they have the right digests."""
    digests = _read_record(directory, record_sha256)
    for name in (GRAPH_NAME, WEIGHTS_NAME):
        check_digest(directory / name, digests[name])


def _decode_shared(entry: object) -> File:
    graph: File = decode(File, entry)
    if not graph.name.endswith(".onnx"):  # onnxruntime reads a file of another ending in another format
        raise ValueError(f"{graph.name!r} does not end in .onnx")
    return graph


def _read_record(directory: Path, sha256: str | None) -> Any:
    """Return the digests in the record of a form. `sha256` is the record's own digest, if it is known."""
    content = read_regular(directory / RECORD_NAME, _MAX_RECORD_BYTES)
    import hashlib  # here, as it takes milliseconds of the start of every process

    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError("the manifest has another digest for it")
    return parse_json(content)
