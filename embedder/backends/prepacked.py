"""Prepacked weights: weights in the layout of this machine's kernels, kept as files.

When onnxruntime opens a session, it packs the weights of each matrix product into new memory. Weights that are packed
in a file are mapped instead: the graph loads faster, and processes share the memory.

Such a file is valid for one version of onnxruntime and one kind of CPU. `embedder prepack` writes it into the artifact.
The first load of a model writes it into the user's cache. `prepacked_form` describes the files, and says which of them
may be trusted. Each form was made from files that had the digests of the manifest, both before and after packing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import MANIFEST_NAME, File, Graph, Manifest, read_manifest, write_manifest
from embedder.backends.backend import CheckedGraph, GraphFiles
from embedder.backends.prepacked_form import (
    FOLDER,
    GRAPH_NAME,
    RECORD_NAME,
    UNUSABLE,
    WEIGHTS_NAME,
    can_prepack,
    check_all,
    content_of,
    entries,
    form_in,
    form_name,
    forms_in,
    known_name,
    shared_entry,
    shared_graphs,
    vouched_form,
)
from embedder.backends.sessions import CPU_EXECUTION_PROVIDER, open_session, session_options
from embedder.common.cache import make_trusted_cache, trusted_cache
from embedder.common.digests import check_digest, sha256_of
from embedder.common.files import discard, remove_leftovers, replacing
from embedder.errors import ArtifactError, EmbedderError

# A load does not prepack larger weights, because that would fill the user's disk unasked.
_MAX_CACHED_BYTES = 1_000_000_000
# A form in the cache is removed if it has not been loaded for this long. The time of its last load is noted once a day.
_MAX_IDLE_S = 30 * 24 * 60 * 60
_NOTE_INTERVAL_S = 24 * 60 * 60


def find_prepacked(files: GraphFiles) -> CheckedGraph | None:
    """Return the prepacked form of a graph. If there is none, make it in the user's cache.

    Returns None if onnxruntime is too old, the kind of CPU is unknown, or the variable EMBEDDER_PREPACK is 0. Returns
    None too if there is no form that can be trusted, and none can be made: the disk is read-only or full, the cache is
    not private, a damaged form cannot be removed, the weights exceed a gigabyte, or the artifact's files are not
    verified. If one of them is replaced meanwhile, the opening of the graph will notice.
    """
    if os.environ.get("EMBEDDER_PREPACK") == "0":
        return None
    name = form_name(files.graph)
    if name is None:
        return None
    with suppress(*UNUSABLE):
        return _intact(vouched_form(files, name))
    root = trusted_cache(FOLDER)
    if root is None:
        return None
    with suppress(*UNUSABLE):
        return _used(_intact(form_in(root / name)))
    # A form in the cache serves every later load, so it must come from files that were verified.
    if files.graph.weights.size > _MAX_CACHED_BYTES or not files.verify:
        return None
    with suppress(OSError, EmbedderError):
        root = make_trusted_cache(FOLDER)
        remove_leftovers(root)
        form = _make(files, root / name)
        _remove_idle(root)
        return form
    return None


def prepack(artifact: Artifact) -> list[Path]:
    """Prepack every graph of `artifact` that is here into the artifact's directory. Return the paths of the graphs.

    Graphs in int4 are left out: see `can_prepack`.

    The manifest then vouches for these forms. Forms that are right already are kept. All others are removed.

    Raises:
        ArtifactError: weights cannot be prepacked here; a file is damaged, or was replaced meanwhile; or the folder
            of the forms is a link.
        OSError: the directory cannot be written.

    Example:
        >>> prepack(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        [PosixPath('artifacts/all-MiniLM-L6-v2/prepacked/1f3a...9c07-1.32.0-x86_64-avx2-fma/model.onnx')]
    """
    root = artifact.directory / FOLDER
    if root.is_symlink():  # all other forms are removed, and a stranger's link may lead to any directory
        raise ArtifactError(f"{root} is a link. Remove it, and run embedder prepack again")
    graphs, before = tuple(filter(can_prepack, artifact.graphs_here())), entries(artifact)
    # The shared forms of other machines stay: the weights file has their weights in any case.
    contents = tuple(content_of(graph) for graph in graphs)
    after = {name: before[name] for name in shared_graphs(artifact) if name.startswith(contents)}
    made = []
    for graph in graphs:
        files, name = GraphFiles(artifact, graph), known_name(graph)
        for file in (graph.file, graph.weights):
            check_digest(artifact.path(file), file.sha256)
        try:
            form = _intact(vouched_form(files, name))
            after[name] = before[name]
        except UNUSABLE:
            root.mkdir(exist_ok=True)
            form = _make(files, root / name)
            after[name] = sha256_of(root / name / RECORD_NAME)
        made.append(form.file.path)
    _vouch(artifact, after)
    own_directory = {name for name, entry in after.items() if isinstance(entry, str)}
    for directory in forms_in(root):
        if directory.name not in own_directory:
            discard(directory)
    return made


def with_shared_form(manifest: Manifest, graph: Graph, packed: File) -> Manifest:
    """Return `manifest`, which now vouches for a shared form of this machine; see `prepacked_form`.

    Args:
        manifest: a manifest.
        graph: one of its graphs. The file of its weights holds the packed ones too.
        packed: the graph that takes the packed weights from that file.

    Raises:
        ArtifactError: weights cannot be prepacked here.

    Example:
        >>> with_shared_form(manifest, manifest.graphs[0], packed).extra  # doctest: +SKIP
        {'prepacked': {'1f3a...9c07-1.32.0-x86_64-avx2-fma': {'name': 'model.prepacked.onnx', ...}}}
    """
    forms = manifest.extra.get(FOLDER, {}) | {known_name(graph): shared_entry(packed)}
    return replace(manifest, extra={**manifest.extra, FOLDER: forms})


def without_forms(manifest: Manifest) -> Manifest:
    """Return `manifest` without what vouches for prepacked forms.

    Example:
        >>> without_forms(manifest).extra  # doctest: +SKIP
        {}
    """
    return replace(manifest, extra={name: value for name, value in manifest.extra.items() if name != FOLDER})


def check_prepacked(artifact: Artifact) -> list[Path]:
    """Read the prepacked forms of `artifact`, and check their digests. Return their directories.

    These are all forms in the artifact, and those in the user's cache that a load would use on this machine. A shared
    form has its weights in a file of the artifact. This file is not read here.

    Raises:
        ArtifactError: a form is damaged, or lies in the artifact and the manifest does not vouch for it.

    Example:
        >>> check_prepacked(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        []
    """
    shared = [file for file in shared_graphs(artifact).values() if artifact.has(file)]
    for file in shared:
        check_digest(artifact.path(file), file.sha256)
    in_artifact = forms_in(artifact.directory / FOLDER)
    for directory in in_artifact:
        try:
            check_all(directory, str(entries(artifact)[directory.name]))
        except UNUSABLE as error:
            raise ArtifactError(
                f"{directory} is not used: it is damaged, or the manifest does not vouch for it. Run embedder prepack, "
                "or remove it"
            ) from error
    cache = trusted_cache(FOLDER)
    names = {form_name(graph) for graph in artifact.manifest.graphs}
    in_cache = [] if cache is None else [directory for directory in forms_in(cache) if directory.name in names]
    for directory in in_cache:
        try:
            check_all(directory, None)
        except UNUSABLE as error:
            raise ArtifactError(f"{directory} is damaged. Remove it; the next load makes it again") from error
    return [*(artifact.directory for _ in shared), *in_artifact, *in_cache]


def describe_prepacked(artifact: Artifact) -> list[str]:
    """Return a line for each prepacked form that is in `artifact`: where it lies, and whether it is for this machine.

    Example:
        >>> describe_prepacked(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        ['model.int8.prepacked.onnx, for this CPU']
    """
    shared, own = shared_graphs(artifact), {form_name(graph) for graph in artifact.manifest.graphs}
    lines = []
    for name in entries(artifact):
        place = shared[name].name if name in shared else f"{FOLDER}/{name}"
        if os.path.exists(artifact.directory / place):
            lines.append(f"{place}, for {'this CPU' if name in own else 'another CPU or another onnxruntime'}")
    return lines


def remove_cached(graphs: Iterable[Graph]) -> list[Path]:
    """Remove all forms of `graphs` from the user's cache. Return their directories.

    Raises:
        OSError: a directory cannot be removed.

    Example:
        >>> remove_cached([])
        []
    """
    cache, contents = trusted_cache(FOLDER), tuple(f"{content_of(graph)}-" for graph in graphs)
    found = [] if cache is None else [path for path in forms_in(cache) if path.name.startswith(contents)]
    for directory in found:
        discard(directory)
    return found


def _intact(form: CheckedGraph) -> CheckedGraph:
    """Check the digests of a form, and return it. Raises one of `UNUSABLE`."""
    form.check()
    return form


def _vouch(artifact: Artifact, forms: dict[str, object]) -> None:
    """Write what vouches for `forms`, by their names, into the manifest."""
    manifest = replace(artifact.manifest, extra={**artifact.manifest.extra, FOLDER: forms})
    if manifest == artifact.manifest:
        return
    if read_manifest(artifact.directory) != artifact.manifest:
        raise ArtifactError(f"{artifact.directory / MANIFEST_NAME} has changed meanwhile. Run embedder prepack again")
    write_manifest(manifest, artifact.directory)


def _used(form: CheckedGraph) -> CheckedGraph:
    """Note that a form in the cache has been loaded, and return it."""
    record = form.file.path.with_name(RECORD_NAME)
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
            files.checked.open(lambda graph: save_prepacked(graph, partial / GRAPH_NAME))
            record = {name: sha256_of(partial / name) for name in (GRAPH_NAME, WEIGHTS_NAME)}
            (partial / RECORD_NAME).write_text(json.dumps(record), encoding="utf-8")
    except OSError:
        if not directory.exists():
            raise
        # Another process made it first.
    try:
        return form_in(directory)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{directory} is damaged: {error}") from error


def _remove_idle(root: Path) -> None:
    """Remove the forms in `root` that have not been loaded for long, such as those of earlier versions or models.

    Forms of other versions are not removed at once: two versions may be in use, and so may two machines that share the
    cache.
    """
    for directory in forms_in(root):
        with suppress(OSError):
            record = directory / RECORD_NAME
            if time.time() - (record if record.exists() else directory).stat().st_mtime > _MAX_IDLE_S:
                discard(directory)


def save_prepacked(graph: Path, target: Path, weights: str | None = None) -> None:
    """Optimise and prepack `graph` for this CPU.

    Args:
        graph: the graph.
        target: the file of the new graph.
        weights: name of the file of its weights, which lies beside it; default: `<target>.data`.

    Raises:
        ArtifactError: onnxruntime cannot load the graph, or cannot write.
    """
    weights = weights or f"{target.name}.data"
    options = session_options(1)
    options.optimized_model_filepath = str(target)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": weights,
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    open_session(graph, CPU_EXECUTION_PROVIDER, options)
    target.with_name(weights).touch()  # onnxruntime writes no such file for a graph without large tensors
