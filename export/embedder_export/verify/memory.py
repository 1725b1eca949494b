"""Measure how much memory a long text needs on a CPU. The runtime asks for it before it begins with a long text.

A process of its own runs the graph on texts of three lengths, as memory of earlier calls would count too. Linux says
how much memory a process had at most since a time that the process chooses. Other systems do not, and there nothing is
measured.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import GRAPH_INPUTS, TEXT, Graph, Manifest
from embedder.artifact.positions import positions
from embedder.artifact.text_memory import TextMemory, with_text_memory
from embedder.backends import Backend, select_device
from embedder.backends.backend import GraphFiles

_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")
# Tokens of the texts that are measured. Shorter texts need little memory.
_LENGTHS = 1024, 2048, 4096
# Below this share of the memory, what grows with the square of the length is noise.
_LEAST_SHARE = 0.25


def measure_text_memory(artifact: Path, manifest: Manifest, report: Callable[[str], None]) -> Manifest:
    """Return `manifest` with the memory that long texts need, for each graph of texts that can read long ones.

    Args:
        artifact: the artifact's directory, with the files of all graphs.
        manifest: its manifest.
        report: called with a line for each graph. A large model takes minutes.

    Example:
        >>> measure_text_memory(Path("artifacts/qwen3"), manifest, print).extra["text_memory"]  # doctest: +SKIP
        {'model.onnx': {'bytes_per_token': 86400, 'bytes_per_pair': 0}}
    """
    if positions(manifest) < _LENGTHS[-1] or not _RESET_PEAK.exists():
        return manifest
    found = {}
    for graph in manifest.graphs_of(TEXT):
        report(f"measuring the memory that {graph.file.name} takes for texts of up to {_LENGTHS[-1]:,} tokens")
        found[graph.file.name] = _measure_in_process(artifact, graph)
        if found[graph.file.name] is None:
            report(f"the memory of {graph.file.name} could not be measured, so long texts are not checked")
    return with_text_memory(manifest, {name: memory for name, memory in found.items() if memory is not None})


def fit(lengths: tuple[int, int, int], peaks_bytes: tuple[int, int, int]) -> TextMemory:
    """Return the memory for each token and each pair of tokens, from the memory of three texts.

    The peak is a constant, which may be negative as earlier calls left free memory, plus these two terms.

    Args:
        lengths: the numbers of tokens, rising.
        peaks_bytes: the largest memory of the process up to the end of each text.

    Example:
        >>> fit((1024, 2048, 4096), (52_400_000, 154_800_000, 359_600_000))
        TextMemory(bytes_per_token=100000, bytes_per_pair=0)
    """
    first, second = np.diff(peaks_bytes) / np.diff(lengths)
    pair = (second - first) / (lengths[2] - lengths[0])
    if pair * lengths[2] < _LEAST_SHARE * second:
        return TextMemory(max(0, round(max(first, second))), 0)
    return TextMemory(max(0, round(first - pair * (lengths[0] + lengths[1]))), round(pair))


def _measure_in_process(artifact: Path, graph: Graph) -> TextMemory | None:
    """Return the memory of a graph. None if the process could not measure it."""
    # -P: a file of the user's with the name of a module must not take its place.
    command = [sys.executable, "-P", "-m", __name__, str(artifact), graph.dtype]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    first, second, third = map(int, found.stdout.split())
    return fit(_LENGTHS, (first, second, third))


def _main(directory: str, dtype: str) -> None:
    """Print the memory in bytes that a text of each length takes."""
    artifact = open_artifact(directory)
    (graph,) = (each for each in artifact.manifest.graphs_of(TEXT) if each.dtype == dtype)
    backend = select_device("cpu").open(GraphFiles(artifact, graph, verify=False))
    _run(backend, graph, 16)
    before = _status_bytes("VmRSS:")
    _RESET_PEAK.write_text("5")  # see proc(5)
    for length in _LENGTHS:  # the later one takes more, so its peak is its own
        _run(backend, graph, length)
        print(_status_bytes("VmHWM:") - before)


def _run(backend: Backend, graph: Graph, length: int) -> None:
    feeds = {name: np.zeros((1, length), np.int64) for name in graph.inputs}
    feeds[GRAPH_INPUTS[1]][:] = 1
    backend.run(feeds, single_batch=True)


def _status_bytes(field: str) -> int:
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii").splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == field)


if __name__ == "__main__":
    _main(*sys.argv[1:])
