"""A sample of what the products of a graph are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from embedder_export.dtype.samples import Feed

# Of a text or an image, so that a long text does not count for many short ones.
_MOST_ROWS = 16


def activations(path: Path, names: Sequence[str], singles: Sequence[Feed]) -> dict[str, np.ndarray]:
    """The values called `names` of the graph at `path` for `singles`: float32 (rows, width) each.

    A row is that of a token, the same tokens of each text or image for every name.
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
    for feed in singles:
        outputs = session.run(list(names), {name: feed[name] for name in known})
        chosen: dict[int, np.ndarray] = {}
        for name, output in zip(names, outputs, strict=True):
            rows = output.reshape(-1, output.shape[-1])
            # Of CLIP's last layer there is a row for one token alone.
            at = chosen.setdefault(len(rows), generator.permutation(len(rows))[:_MOST_ROWS])
            found[name].append(rows[at])
    everything.unlink()
    return {name: np.concatenate(parts) for name, parts in found.items()}
