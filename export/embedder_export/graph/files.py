"""Graphs as files: the graph, and its weights in a second file that onnxruntime can map instead of copy.

The weights of a large model need not fit in memory, and do not fit in one protobuf message, which ends at 2 GB. So
the tensors of a graph refer to files. They are read when they are written to another file.
"""

from pathlib import Path

import onnx_ir as ir

# Smaller tensors stay in the graph, where onnxruntime's own optimisations can see them.
_MIN_EXTERNAL_BYTES = 1024
# The smallest that onnx_ir takes. Pages of memory and cache lines divide it.
_ALIGNMENT_BYTES = 4096


def save_graph(model: ir.Model, directory: Path, name: str = "model.onnx") -> Path:
    """Write `model` to a new `directory` by `name`, and return its path."""
    directory.mkdir()
    path = directory / name
    weights_of(path).touch()  # onnx_ir makes none for a graph without large tensors
    ir.save(
        model,
        path,
        external_data=weights_of(path).name,
        size_threshold_bytes=_MIN_EXTERNAL_BYTES - 1,
        alignment=_ALIGNMENT_BYTES,
        align_threshold=_ALIGNMENT_BYTES,
    )
    return path


def weights_of(path: Path) -> Path:
    """Return where the weights of the graph at `path` lie.

    Example:
        >>> weights_of(Path("model.onnx")).name
        'model.onnx.data'
    """
    return path.with_name(f"{path.name}.data")
