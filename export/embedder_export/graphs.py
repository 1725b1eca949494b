"""Graphs as files: the graph itself, and its weights beside it, where onnxruntime can map them instead of copying."""

from pathlib import Path

import onnx

# Smaller tensors stay in the graph, where onnxruntime's own optimisations can see them.
_EXTERNAL_BYTES = 1024


def save_graph(graph: onnx.ModelProto, directory: Path) -> Path:
    """Write `graph` to a new `directory` and return its path; `graph` loses its weights by that."""
    directory.mkdir()
    path = directory / "model.onnx"
    onnx.save_model(
        graph,
        path,
        save_as_external_data=True,
        location=weights_of(path).name,
        size_threshold=_EXTERNAL_BYTES,
    )
    return path


def weights_of(path: Path) -> Path:
    """Where the weights of the graph at `path` lie."""
    return path.with_name(f"{path.name}.data")
