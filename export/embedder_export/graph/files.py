"""Save a graph to two files: the graph, and its weights. onnxruntime can map the second file instead of copying it.

A large model's weights may not fit in memory. They do not fit in one protobuf message, which holds at most 2 GB. So a
graph's tensors refer to files. Their values are read only while they are written to another file.
"""

from pathlib import Path

import onnx_ir as ir

# Smaller tensors stay in the graph, because onnxruntime's optimisations read them there.
_MIN_EXTERNAL_BYTES = 1024
# onnx_ir's smallest alignment. It is a multiple of a memory page and of a cache line.
_ALIGNMENT_BYTES = 4096


def save_graph(model: ir.Model, directory: Path, name: str = "model.onnx") -> Path:
    """Write `model` to a file `name` in a new `directory`, and return the file's path.

    Raises:
        OSError: a file cannot be written, or a file of weights is too short.

    Example:
        >>> save_graph(model, Path("body"))  # doctest: +SKIP
        PosixPath('body/model.onnx')
    """
    directory.mkdir()
    path = directory / name
    weights_of(path).touch()  # onnx_ir writes no such file for a graph without large tensors
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
    """Return the path of the weights of the graph at `path`.

    Example:
        >>> weights_of(Path("model.onnx")).name
        'model.onnx.data'
    """
    return path.with_name(f"{path.name}.data")
