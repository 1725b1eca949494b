"""Prepacked weights: weights in the layout of this machine's kernels, kept as files.

When onnxruntime opens a session, it packs the weights of each matrix product into new memory. Weights that are packed
in a file are mapped instead: the graph loads faster, and processes share the memory.

Such a file is valid for one version of onnxruntime and one kind of CPU. So it is made on the machine that runs the
model, after the digests of the graph's files were checked. `embedder prepack` writes it into the artifact. The first
load of a model writes it into the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path

from embedder.artifact.locate import Artifact
from embedder.artifact.manifest import Graph
from embedder.backends.sessions import CPU_EXECUTION_PROVIDER, open_session, runtime_version, session_options
from embedder.common.digests import cache_directory, check_digest, check_digest_once, sha256_of
from embedder.common.files import read_regular, replacing
from embedder.common.json_text import parse_json
from embedder.errors import EmbedderError

# Name of the directory, in the artifact and in the cache.
FOLDER = "prepacked"
_GRAPH, _WEIGHTS, _RECORD = "model.onnx", "model.onnx.data", "prepacked.json"
# A load does not prepack larger weights, because that would fill the user's disk without being asked to.
_MAX_CACHED_BYTES = 1_000_000_000
_MAX_RECORD_BYTES = 1000


def find_prepacked(artifact: Artifact, graph: Graph) -> Path | None:
    """Return the path of the prepacked form of `graph`. If there is none, make it in the user's cache.

    The caller has checked the digests of the graph's files. Returns None if the form cannot be made: the disk is
    read-only or full, the weights exceed a gigabyte, or the variable EMBEDDER_PREPACK is 0.
    """
    if os.environ.get("EMBEDDER_PREPACK") == "0":
        return None
    name = _name(graph)
    for root in (artifact.directory / FOLDER, *_cache()):
        # These errors mean that there is no prepacked form here, or that it is damaged.
        with suppress(OSError, ValueError, KeyError, TypeError, EmbedderError):
            return _checked(root / name)
    if graph.weights.size > _MAX_CACHED_BYTES:
        return None
    for root in _cache():
        with suppress(OSError, EmbedderError):
            return _make(artifact, graph, root)
    return None


def prepack(artifact: Artifact) -> list[Path]:
    """Prepack every graph of `artifact` into the artifact's directory. Return the paths of the new graphs.

    Raises:
        ArtifactError: a file is damaged.
        OSError: the directory cannot be written.

    Example:
        >>> prepack(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        [PosixPath('artifacts/all-MiniLM-L6-v2/prepacked/1f3a...-9c07.../model.onnx')]
    """
    made = []
    for graph in artifact.graphs_here():
        for file in (graph.file, graph.weights):
            check_digest(artifact.path(file), file.sha256)
        made.append(_make(artifact, graph, artifact.directory / FOLDER))
    return made


def _cache() -> list[Path]:
    with suppress(RuntimeError):  # the user has no home directory
        return [cache_directory() / FOLDER]
    return []


def _name(graph: Graph) -> str:
    """Return `<digest of the graph>-<digest of onnxruntime's version and the CPU>`."""
    content = hashlib.sha256((graph.file.sha256 + graph.weights.sha256).encode()).hexdigest()
    machine = hashlib.sha256(f"{runtime_version()}\n{_cpu()}".encode()).hexdigest()
    return f"{content[:32]}-{machine[:32]}"


def _cpu() -> str:
    """Return a text that differs between kinds of CPU."""
    lines = [platform.machine()]
    with suppress(OSError):
        core = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        fields = ("vendor_id", "model", "stepping", "flags", "Features", "CPU")
        lines += [line for line in core.splitlines() if line.startswith(fields)]
    return "\n".join(lines)


def _checked(directory: Path) -> Path:
    record = parse_json(read_regular(directory / _RECORD, _MAX_RECORD_BYTES))
    check_digest(directory / _GRAPH, record[_GRAPH])
    check_digest_once(directory / _WEIGHTS, record[_WEIGHTS])
    return directory / _GRAPH


def _make(artifact: Artifact, graph: Graph, root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    directory = root / _name(graph)
    try:
        with replacing(directory) as partial:
            partial.mkdir()
            save_prepacked(artifact.path(graph.file), partial / _GRAPH)
            record = {name: sha256_of(partial / name) for name in (_GRAPH, _WEIGHTS)}
            (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
            _remove_outdated(root, directory.name.partition("-")[0])
    except OSError:
        if not (directory / _RECORD).exists():  # otherwise another process made it first
            raise
    return directory / _GRAPH


def _remove_outdated(root: Path, graph: str) -> None:
    """Remove all forms of the same graph: damaged ones, and those for another onnxruntime or another CPU."""
    import shutil  # here, as it takes milliseconds of the start of every process

    for directory in root.glob(f"{graph}-*"):
        shutil.rmtree(directory, ignore_errors=True)


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
