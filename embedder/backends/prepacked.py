"""Prepacked weights: weights in the layout of this machine's kernels, kept as files.

When onnxruntime opens a session, it packs the weights of each matrix product into new memory. Weights that are packed
in a file are mapped instead: the graph loads faster, and processes share the memory.

Such a file is valid for one version of onnxruntime and one kind of CPU. So it is made on the machine that runs the
model. `embedder prepack` writes it into the artifact. The first load of a model writes it into the user's cache.

A prepacked form is a graph with its prepacked weights. It replaces the artifact's own graph and weights, for which the
manifest has digests. Nothing in the form shows which weights it was made from. So a form is used only if its origin is
known:

- A form in the artifact is used only if the manifest vouches for it: `embedder prepack` writes the digest of the form's
  record under `extra` in the manifest, and the record has the digests of its files. So whoever trusts a manifest trusts
  every byte that is loaded. A form that was added to an artifact later, or that is left from an earlier model, is
  ignored. Whoever can write the manifest can name any graph there, also without prepacked weights. Forms are never
  fetched from the Hub.
- A form in the user's cache is used only if nobody else can have written there; see `embedder.common.cache`.
- Each form was made from files that had the digests of the manifest, both before and after packing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedder.artifact.locate import Artifact
from embedder.artifact.manifest import MANIFEST_NAME, Graph, read_manifest, write_manifest
from embedder.backends.backend import CheckedGraph, GraphFiles
from embedder.backends.sessions import CPU_EXECUTION_PROVIDER, open_session, runtime_version, session_options
from embedder.common.cache import make_trusted_cache, trusted_cache
from embedder.common.digests import CheckedFile, check_digest, sha256_of
from embedder.common.files import discard, is_staging, read_regular, remove_leftovers, replacing
from embedder.common.json_text import parse_json
from embedder.errors import ArtifactError, EmbedderError

# Name of the directory in the artifact and in the cache, and of the field under `extra` in the manifest.
FOLDER = "prepacked"
_GRAPH, _WEIGHTS, _RECORD = "model.onnx", "model.onnx.data", "prepacked.json"
# A load does not prepack larger weights, because that would fill the user's disk unasked.
_MAX_CACHED_BYTES = 1_000_000_000
_MAX_RECORD_BYTES = 1000
# A form in the cache is removed if it has not been loaded for this long. The time of its last load is noted once a day.
_MAX_IDLE_S = 30 * 24 * 60 * 60
_NOTE_INTERVAL_S = 24 * 60 * 60
# These errors mean that there is no prepacked form in a place, or that it is damaged.
_UNUSABLE = (OSError, ValueError, KeyError, TypeError, EmbedderError)


def find_prepacked(files: GraphFiles) -> CheckedGraph | None:
    """Return the prepacked form of a graph. If there is none, make it in the user's cache.

    Returns None if there is no form that can be trusted, and none can be made: the disk is read-only or full, the cache
    is not private, a damaged form cannot be removed, the weights exceed a gigabyte, or the variable EMBEDDER_PREPACK is
    0. If a file of the artifact is replaced meanwhile, the opening of the graph will notice.
    """
    if os.environ.get("EMBEDDER_PREPACK") == "0":
        return None
    name = _name(files.graph)
    with suppress(*_UNUSABLE):
        return _intact(_vouched_form(files.artifact, name))
    root = trusted_cache(FOLDER)
    if root is None:
        return None
    remove_leftovers(root)
    with suppress(*_UNUSABLE):
        return _used(_intact(_form(root / name)))
    if files.graph.weights.size > _MAX_CACHED_BYTES:
        return None
    with suppress(OSError, EmbedderError):
        root = make_trusted_cache(FOLDER)
        form = _make(files, root / name)
        _remove_idle(root)
        return form
    return None


def prepack(artifact: Artifact) -> list[Path]:
    """Prepack every graph of `artifact` that is here into the artifact's directory. Return the paths of the graphs.

    The manifest then vouches for these forms. Forms that are right already are kept. All others are removed.

    Raises:
        ArtifactError: a file is damaged, or was replaced meanwhile; or the folder of the forms is a link.
        OSError: the directory cannot be written.

    Example:
        >>> prepack(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        [PosixPath('artifacts/all-MiniLM-L6-v2/prepacked/1f3a...-9c07.../model.onnx')]
    """
    root = artifact.directory / FOLDER
    if root.is_symlink():  # all other forms are removed, and a stranger's link may lead to any directory
        raise ArtifactError(f"{root} is a link. Remove it, and run embedder prepack again")
    records, made = {}, []
    for graph in artifact.graphs_here():
        files, name = GraphFiles(artifact, graph), _name(graph)
        for file in (graph.file, graph.weights):
            check_digest(artifact.path(file), file.sha256)
        root.mkdir(exist_ok=True)
        try:
            form = _intact(_vouched_form(artifact, name))
        except _UNUSABLE:
            form = _make(files, root / name)
        records[name] = sha256_of(root / name / _RECORD)
        made.append(form.file.path)
    _vouch(artifact, records)
    for directory in _forms_in(root):
        if directory.name not in records:
            discard(directory)
    return made


def check_prepacked(artifact: Artifact) -> list[Path]:
    """Read the prepacked forms of `artifact`, and check their digests. Return their directories.

    These are all forms in the artifact, and those in the user's cache that a load would use on this machine.

    Raises:
        ArtifactError: a form is damaged, or lies in the artifact and the manifest does not vouch for it.

    Example:
        >>> check_prepacked(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        []
    """
    in_artifact = _forms_in(artifact.directory / FOLDER)
    for directory in in_artifact:
        try:
            _check_all(directory, _vouched_record(artifact, directory.name))
        except _UNUSABLE as error:
            raise ArtifactError(
                f"{directory} is not used: it is damaged, or the manifest does not vouch for it. Run embedder prepack, "
                "or remove it"
            ) from error
    cache = trusted_cache(FOLDER)
    names = {_name(graph) for graph in artifact.manifest.graphs}
    in_cache = [] if cache is None else [directory for directory in _forms_in(cache) if directory.name in names]
    for directory in in_cache:
        try:
            _check_all(directory, None)
        except _UNUSABLE as error:
            raise ArtifactError(f"{directory} is damaged. Remove it; the next load makes it again") from error
    return [*in_artifact, *in_cache]


def remove_cached(graphs: Iterable[Graph]) -> list[Path]:
    """Remove all forms of `graphs` from the user's cache. Return their directories.

    Raises:
        OSError: a directory cannot be removed.

    Example:
        >>> remove_cached([])
        []
    """
    cache, contents = trusted_cache(FOLDER), tuple(f"{_content(graph)}-" for graph in graphs)
    found = [] if cache is None else [path for path in _forms_in(cache) if path.name.startswith(contents)]
    for directory in found:
        discard(directory)
    return found


def _name(graph: Graph) -> str:
    """Return `<digest of the graph>-<digest of onnxruntime's version and the CPU>`."""
    machine = hashlib.sha256(f"{runtime_version()}\n{_cpu()}".encode()).hexdigest()
    return f"{_content(graph)}-{machine[:32]}"


def _content(graph: Graph) -> str:
    """Return the digest of the graph and its weights."""
    return hashlib.sha256((graph.file.sha256 + graph.weights.sha256).encode()).hexdigest()[:32]


def _cpu() -> str:
    """Return a text that differs between kinds of CPU."""
    lines = [platform.machine()]
    with suppress(OSError):
        core = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        fields = ("vendor_id", "model", "stepping", "flags", "Features", "CPU")
        lines += [line for line in core.splitlines() if line.startswith(fields)]
    return "\n".join(lines)


def _forms_in(root: Path) -> list[Path]:
    """Return the directories of all forms in `root`, which may be missing."""
    return sorted(path for path in root.iterdir() if not is_staging(path.name)) if root.is_dir() else []


def _vouched_record(artifact: Artifact, name: str) -> str:
    """Return the digest that the manifest has for the record of the form `name`. Raises KeyError or TypeError."""
    return str(artifact.manifest.extra[FOLDER][name])


def _vouched_form(artifact: Artifact, name: str) -> CheckedGraph:
    return _form(artifact.directory / FOLDER / name, _vouched_record(artifact, name))


def _vouch(artifact: Artifact, records: dict[str, str]) -> None:
    """Write the digests of `records`, by the names of their forms, into the manifest."""
    manifest = replace(artifact.manifest, extra={**artifact.manifest.extra, FOLDER: records})
    if manifest == artifact.manifest:
        return
    if read_manifest(artifact.directory) != artifact.manifest:
        raise ArtifactError(f"{artifact.directory / MANIFEST_NAME} has changed meanwhile. Run embedder prepack again")
    write_manifest(manifest, artifact.directory)


def _form(directory: Path, record_sha256: str | None = None) -> CheckedGraph:
    """Return the form in `directory`, with the digests of its record. Raises one of `_UNUSABLE`."""
    digests = _read_record(directory, record_sha256)
    return CheckedGraph(
        CheckedFile(directory / _GRAPH, digests[_GRAPH]),
        CheckedFile(directory / _WEIGHTS, digests[_WEIGHTS], recorded=True),
    )


def _intact(form: CheckedGraph) -> CheckedGraph:
    """Check the digests of a form, and return it. Raises one of `_UNUSABLE`."""
    form.check()
    return form


def _check_all(directory: Path, record_sha256: str | None) -> None:
    """Read every file of a form. Raises one of `_UNUSABLE` unless they have the right digests."""
    digests = _read_record(directory, record_sha256)
    for name in (_GRAPH, _WEIGHTS):
        check_digest(directory / name, digests[name])


def _read_record(directory: Path, sha256: str | None) -> Any:
    """Return the digests in the record of a form. `sha256` is the record's own digest, if it is known."""
    content = read_regular(directory / _RECORD, _MAX_RECORD_BYTES)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ArtifactError("the manifest has another digest for it")
    return parse_json(content)


def _used(form: CheckedGraph) -> CheckedGraph:
    """Note that a form in the cache has been loaded, and return it."""
    record = form.file.path.with_name(_RECORD)
    with suppress(OSError):
        if time.time() - record.stat().st_mtime > _NOTE_INTERVAL_S:
            os.utime(record)
    return form


def _make(files: GraphFiles, directory: Path) -> CheckedGraph:
    """Pack a graph into `directory`. What is there already is damaged.

    Raises:
        ArtifactError: the graph's files are damaged or were replaced meanwhile, or onnxruntime fails.
        OSError: the directory cannot be replaced or written.
    """
    if os.path.lexists(directory):
        discard(directory)  # before it is packed, because packing takes seconds, and removing may fail
    try:
        with replacing(directory) as partial:
            partial.mkdir()
            # The record must not vouch for weights that were replaced while they were packed.
            files.checked.open(lambda graph: save_prepacked(graph, partial / _GRAPH))
            record = {name: sha256_of(partial / name) for name in (_GRAPH, _WEIGHTS)}
            (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
    except OSError:
        if not directory.exists():
            raise
        # Another process made it first.
    try:
        return _form(directory)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{directory} is damaged: {error}") from error


def _remove_idle(root: Path) -> None:
    """Remove the forms in `root` that have not been loaded for long, such as those of earlier versions or models.

    Forms of other versions are not removed at once: two versions may be in use, and so may two machines that share the
    cache.
    """
    for directory in _forms_in(root):
        with suppress(OSError):
            record = directory / _RECORD
            if time.time() - (record if record.exists() else directory).stat().st_mtime > _MAX_IDLE_S:
                discard(directory)


def save_prepacked(graph: Path, target: Path) -> None:
    """Optimise and prepack `graph` for this CPU. Write it to `target`, and its weights to the file beside it.

    Raises:
        ArtifactError: onnxruntime cannot load the graph, or cannot write.
    """
    options = session_options(1)
    options.optimized_model_filepath = str(target)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": f"{target.name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    open_session(graph, CPU_EXECUTION_PROVIDER, options)
