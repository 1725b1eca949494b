"""A sample of the activations that a graph's matrix products are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import Floats
from embedder_export.errors import GraphError
from embedder_export.graph.run import Feed, Session

# Rows of one text or image, so that a long text does not outweigh many short ones.
_MAX_ROWS_PER_INPUT = 16


def sample_activations(path: Path, names: Sequence[str], singles: Sequence[Feed]) -> dict[str, Floats]:
    """Return the values called `names` of the graph at `path`, as float32 (rows, width) each.

    A row is one token's. It is of the same tokens of each input for every name.

    Args:
        path: of the graph.
        names: of values of its nodes.
        singles: single inputs.

    Raises:
        GraphError: onnxruntime fails on the graph, or a number is not finite.
    """
    session = _session_with_outputs(path, names)
    generator = np.random.default_rng(0)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for feed in singles:
        chosen: dict[int, NDArray[np.int64]] = {}
        for name, output in zip(names, session.run(feed, names), strict=True):
            rows = output.reshape(-1, output.shape[-1])
            # The last layer of a CLIP has a row for one token only.
            indices = chosen.setdefault(len(rows), generator.permutation(len(rows))[:_MAX_ROWS_PER_INPUT])
            found[name].append(rows[indices])
    samples = {name: np.concatenate(parts) for name, parts in found.items()}
    if not all(np.isfinite(sample).all() for sample in samples.values()):
        raise GraphError("the fp32 graph gives numbers that are not finite on sample inputs")
    return samples


def _session_with_outputs(path: Path, names: Sequence[str]) -> Session:
    """Return a session of the graph at `path` that has the values `names` as outputs too."""
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in names:
        values[name].dtype = ir.DataType.FLOAT
        model.graph.outputs.append(values[name])
    copy = path.with_name(f"{path.stem}.activations.onnx")  # beside the original, where its weights lie
    ir.save(model, copy)
    session = Session(copy)
    copy.unlink()
    return session
