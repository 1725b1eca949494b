"""Sample the activations that enter a graph's matrix products."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from embedder_export.checkpoint.weights import Floats
from embedder_export.errors import GraphError
from embedder_export.graph.run import Feed, Session

# Most rows that one text or image contributes. Otherwise a long text would outweigh many short ones.
_MAX_ROWS_PER_INPUT = 16


def sample_activations(path: Path, names: Sequence[str], singles: Sequence[Feed]) -> dict[str, Floats]:
    """Run a graph on single inputs, and return a sample of its activations by name, float32 (rows, width) each.

    Each row is the activation of one token. All activations are sampled at the same tokens.

    Args:
        path: the graph's file.
        names: the names of the activations, which are outputs of the graph's nodes.
        singles: single texts or images.

    Raises:
        GraphError: onnxruntime fails on the graph, or a number is not finite.

    Example:
        >>> sample_activations(Path("model.onnx"), ["gelu"], singles)["gelu"].shape  # doctest: +SKIP
        (1920, 1536)
    """
    if not names:  # onnxruntime would return all outputs
        return {}
    session = _session_with_outputs(path, names)
    generator = np.random.default_rng(0)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for feed in singles:
        chosen: dict[int, NDArray[np.int64]] = {}
        for name, output in zip(names, session.run(feed, names), strict=True):
            rows = output.reshape(-1, output.shape[-1])
            # CLIP's last layer has only one row, the pooled token's. So the choice depends on the number of rows.
            indices = chosen.setdefault(len(rows), generator.permutation(len(rows))[:_MAX_ROWS_PER_INPUT])
            found[name].append(rows[indices])
    samples = {name: _joined(parts) for name, parts in found.items()}
    if not all(np.isfinite(sample).all() for sample in samples.values()):
        raise GraphError("the fp32 graph gives numbers that are not finite on sample inputs")
    return samples


def _joined(parts: list[Floats]) -> Floats:
    """Return the rows of all inputs. If there are none, one row of zeros: no token of the sample takes an expert."""
    rows = np.concatenate(parts)
    return rows if len(rows) else np.zeros((1, rows.shape[1]), np.float32)


def _session_with_outputs(path: Path, names: Sequence[str]) -> Session:
    """Return a session of the graph at `path`, with the activations `names` as further outputs."""
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
