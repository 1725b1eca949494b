"""A sample of what the products of a graph are given, on real texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from embedder.manifest import GRAPH_INPUTS, POOLING_MASK

# Of a text, so that a long one does not count for many short ones.
_MOST_TOKENS, _MOST_ROWS = 128, 16


def activations(path: Path, names: Sequence[str], texts: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The values called `names` of the graph at `path` for `texts`, token ids: float32 (rows, width) each.

    A row is that of a token, the same tokens of each text for every name.
    """
    model = ir.load(path)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in names:
        values[name].dtype = ir.DataType.FLOAT
        model.graph.outputs.append(values[name])
    # Beside the original, of which the weights are.
    everything = path.with_name(f"{path.stem}.activations.onnx")
    ir.save(model, everything)
    session = onnxruntime.InferenceSession(str(everything), providers=["CPUExecutionProvider"])
    known = {value.name for value in session.get_inputs()}
    generator = np.random.default_rng(0)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for text in texts:
        ids = np.array([text[:_MOST_TOKENS]], np.int64)
        mask = np.ones_like(ids)
        feed = {GRAPH_INPUTS[0]: ids, GRAPH_INPUTS[1]: mask, POOLING_MASK: mask}
        rows = generator.permutation(ids.size)[:_MOST_ROWS]
        outputs = session.run(list(names), {name: feed[name] for name in known})
        for name, output in zip(names, outputs, strict=True):
            found[name].append(output.reshape(-1, output.shape[-1])[rows])
    everything.unlink()
    return {name: np.concatenate(parts) for name, parts in found.items()}
