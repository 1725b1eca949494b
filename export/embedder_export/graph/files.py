"""Graphs as files: the graph itself, and its weights beside it, where onnxruntime can map them instead of copying.

The weights of a large model must never be all in memory, nor in one protobuf message, which ends at 2 GB. So the
stages work on graphs of which the tensors refer to files, and are read when they are written to another.
"""

from pathlib import Path

import onnx_ir as ir

# Smaller tensors stay in the graph, where onnxruntime's own optimisations can see them.
_EXTERNAL_BYTES = 1024
# The least that onnx_ir takes, of which the page of memory and the cache line are divisors.
_ALIGNMENT = 4096


def save_graph(model: ir.Model, directory: Path, name: str = "model.onnx") -> Path:
    """Write `model` to a new `directory` by `name`, and return its path."""
    directory.mkdir()
    path = directory / name
    weights_of(path).touch()  # onnx_ir makes none for a graph without large tensors
    ir.save(
        model,
        path,
        external_data=weights_of(path).name,
        size_threshold_bytes=_EXTERNAL_BYTES - 1,
        alignment=_ALIGNMENT,
        align_threshold=_ALIGNMENT,
    )
    return path


def weights_of(path: Path) -> Path:
    """Where the weights of the graph at `path` lie."""
    return path.with_name(f"{path.name}.data")
