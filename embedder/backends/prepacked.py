"""Prepacked weights: weights in the layout of this machine's kernels, kept as files.

When onnxruntime loads a graph, it packs the weights of each matrix product into memory of its own, for every session
again. Weights that lie packed in a file are mapped instead: the graph loads sooner, and processes share the memory.

Such a file fits one version of onnxruntime and one kind of CPU. So it is made where the model runs, after the digests
of the graph's files were checked: by `embedder prepack` in the artifact, or by a first load in the user's cache.
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
from embedder.common.files import replacing
from embedder.errors import EmbedderError

# The directory's name in the artifact and in the cache.
FOLDER = "prepacked"
_GRAPH, _WEIGHTS, _RECORD = "model.onnx", "model.onnx.data", "prepacked.json"
# Models with larger weights are not prepacked by a first load: that would fill the user's disk unasked.
_MAX_CACHED_BYTES = 1_000_000_000


def find_prepacked(artifact: Artifact, graph: Graph) -> Path | None:
    """Return the prepacked form of `graph`. If there is none, make it in the user's cache.

    The caller has checked the digests of the graph's files. The answer is None where no file can be made: the disk is
    read-only or full, the weights exceed a gigabyte, or the variable EMBEDDER_PREPACK is 0.
    """
    if os.environ.get("EMBEDDER_PREPACK") == "0":
        return None
    name = _name(graph)
    for root in (artifact.directory / FOLDER, *_cache()):
        with suppress(OSError, ValueError, KeyError, TypeError, EmbedderError):  # there is none, or it is damaged
            return _checked(root / name)
    if graph.weights.size > _MAX_CACHED_BYTES:
        return None
    for root in _cache():
        with suppress(OSError, EmbedderError):
            return _make(artifact, graph, root)
    return None


def prepack(artifact: Artifact) -> list[Path]:
    """Prepack every graph of `artifact` into its own directory, and return the paths of the new graphs.

    Raises:
        ArtifactError: a file is damaged.
        OSError: the directory cannot be written.
    """
    made = []
    for graph in artifact.manifest.graphs:
        for file in (graph.file, graph.weights):
            check_digest(artifact.path(file), file.sha256)
        made.append(_make(artifact, graph, artifact.directory / FOLDER))
    return made


def _cache() -> list[Path]:
    with suppress(RuntimeError):  # the user has no home directory
        return [cache_directory() / FOLDER]
    return []


def _name(graph: Graph) -> str:
    """A digest of the graph, a dash, and a digest of what the prepacked form depends on besides."""
    content = hashlib.sha256((graph.file.sha256 + graph.weights.sha256).encode()).hexdigest()
    machine = hashlib.sha256(f"{runtime_version()}\n{_cpu()}".encode()).hexdigest()
    return f"{content[:32]}-{machine[:32]}"


def _cpu() -> str:
    """Lines that differ between kinds of CPU."""
    lines = [platform.machine()]
    with suppress(OSError):
        core = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        told = ("vendor_id", "model", "stepping", "flags", "Features", "CPU")
        lines += [line for line in core.splitlines() if line.startswith(told)]
    return "\n".join(lines)


def _checked(directory: Path) -> Path:
    record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
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
        if not (directory / _RECORD).exists():  # else another process was sooner
            raise
    return directory / _GRAPH


def _remove_outdated(root: Path, graph: str) -> None:
    """Remove forms of the same graph that are damaged, or for another version of onnxruntime or another CPU."""
    import shutil  # here, as it takes milliseconds of the start of every process

    for directory in root.glob(f"{graph}-*"):
        shutil.rmtree(directory, ignore_errors=True)


def save_prepacked(graph: Path, target: Path) -> None:
    """Write `graph` to `target`, with its weights beside it, as onnxruntime optimises and prepacks them on this CPU.

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
