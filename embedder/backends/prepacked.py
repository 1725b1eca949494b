"""Graphs with their weights packed as this machine's kernels want them, kept as files.

onnxruntime packs the weights of each product when it loads a graph: into memory of its own, in every process and every
session anew. From a file that has them packed they are mapped: sooner loaded, and in memory once for all who load it.
Such a file fits one version of onnxruntime and one kind of CPU, so it is made where the model runs, of files that were
found whole, and never instead of them: by `embedder prepack` in the artifact, or by a first load in the user's cache.
"""

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from embedder.artifact.locate import Artifact
from embedder.artifact.manifest import Graph
from embedder.backends.session import runtime_version, save_prepacked
from embedder.common.digests import cache_directory, check_digest, check_digest_once, sha256_of
from embedder.errors import EmbedderError

_GRAPH, _WEIGHTS, _RECORD = "model.onnx", "model.onnx.data", "prepacked.json"
# In the artifact, and in the cache.
FOLDER = "prepacked"
# A larger copy is no first load's to make: it would fill somebody's disk unasked.
_MOST_BYTES = 1_000_000_000


def prepacked_graph(artifact: Artifact, graph: Graph) -> Path | None:
    """The packed form of `graph`, of which the caller has found the files whole.

    If there is none it is made in the user's cache. None where that cannot be: the disk is read-only or full, the
    weights have more than a gigabyte, or `EMBEDDER_PREPACK` is 0.
    """
    if os.environ.get("EMBEDDER_PREPACK") == "0":
        return None
    name = _name(graph)
    for root in (artifact.directory / FOLDER, *_cache()):
        with suppress(OSError, ValueError, KeyError, TypeError, EmbedderError):  # there is none, or it is damaged
            return _checked(root / name)
    if graph.weights.size > _MOST_BYTES:
        return None
    for root in _cache():
        with suppress(OSError, EmbedderError):
            return _make(artifact, graph, root)
    return None


def prepack(artifact: Artifact) -> list[Path]:
    """Pack every graph of `artifact` into its own directory, for this CPU and version of onnxruntime.

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
    with suppress(RuntimeError):  # where the user has no home
        return [cache_directory() / FOLDER]
    return []


def _name(graph: Graph) -> str:
    """The graph, before a dash, and what its packed form depends on besides."""
    content = hashlib.sha256((graph.file.sha256 + graph.weights.sha256).encode()).hexdigest()
    machine = hashlib.sha256(f"{runtime_version()}\n{_cpu()}".encode()).hexdigest()
    return f"{content[:32]}-{machine[:32]}"


def _cpu() -> str:
    """What tells one kind of CPU from another."""
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
    import shutil  # here, as it takes milliseconds of the start of every process

    root.mkdir(parents=True, exist_ok=True)
    directory, partial = root / _name(graph), root / f".{os.getpid()}-{time.monotonic_ns()}"
    partial.mkdir()
    try:
        save_prepacked(artifact.path(graph.file), partial / _GRAPH)
        record = {name: sha256_of(partial / name) for name in (_GRAPH, _WEIGHTS)}
        (partial / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        _remove_others(root, directory.name.partition("-")[0])
        partial.rename(directory)
    except OSError:
        if not (directory / _RECORD).exists():  # another process may have been sooner
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory / _GRAPH


def _remove_others(root: Path, graph: str) -> None:
    """Those of the same graph are damaged, or for a version of onnxruntime or a CPU that was here before."""
    import shutil  # as above

    for directory in root.glob(f"{graph}-*"):
        shutil.rmtree(directory, ignore_errors=True)
