"""Fuse operators of a traced graph, by onnxruntime's fusions for transformers.

Fusing everything is not fastest on every machine and for every model. So this module makes several forms of the same
graph, and `dtype.fp32` times them.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from embedder_export.graph.operators import MICROSOFT

# Fusing copies the graph as one protobuf message. A message holds at most 2 GB.
_MAX_FUSED_BYTES = 1_500_000_000


@dataclass(frozen=True)
class AttentionSizes:
    """Sizes that the fusions need.

    Attributes:
        width: length of a token's vector.
        heads: number of attention heads. 0 if it is not known.
    """

    width: int
    heads: int


def fused_forms(path: Path, sizes: AttentionSizes) -> Iterator[tuple[str, ir.Model]]:
    """Yield the graph at `path` as "traced", with fused attention, and with everything fused except the embeddings.

    The fusions compute with the weights, so they need them in memory, except for the tables of embeddings. If the graph
    is too large for that, or the fusions do not know it, "traced" is its only form.

    Example:
        >>> [form for form, _ in fused_forms(Path("model.onnx"), AttentionSizes(384, 12))]  # doctest: +SKIP
        ['traced', 'attention', 'full']
    """
    yield "traced", ir.load(path)
    for form, options in _fusions().items():
        graph = _load_for_fusing(path)
        fused = None if graph is None else _fuse(graph, sizes, options)
        if fused is not None:
            model = ir.from_proto(fused)
            ir.external_data.set_base_dir(model.graph, path.parent)
            yield form, model


def _fusions() -> dict[str, FusionOptions]:
    attention, full = FusionOptions("bert"), FusionOptions("bert")
    attention.use_multi_head_attention = True
    attention.enable_skip_layer_norm = False
    attention.enable_bias_skip_layer_norm = False
    for options in (attention, full):
        options.enable_embed_layer_norm = False  # it gains nothing, and reads the tables of embeddings
    return {"attention": attention, "full": full}


def _load_for_fusing(path: Path) -> onnx.ModelProto | None:
    """Load the graph with its weights, except for the tables of embeddings. Return None if it is too large."""
    graph = onnx.load(path, load_external_data=False)
    tables = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    loaded = [tensor for tensor in graph.graph.initializer if uses_external_data(tensor) and tensor.name not in tables]
    if sum(map(_size_bytes, loaded)) > _MAX_FUSED_BYTES:
        return None
    for tensor in loaded:
        load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return graph


def _size_bytes(tensor: onnx.TensorProto) -> int:
    size: int = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size


def _fuse(graph: onnx.ModelProto, sizes: AttentionSizes, options: FusionOptions) -> onnx.ModelProto | None:
    """Return the fused graph, or None if the fusions fail on it."""
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    # The optimizer asserts that the heads divide the width. That is wrong for some T5. With zeros it reads both sizes
    # from the graph.
    known = sizes.heads > 0 and sizes.width % sizes.heads == 0
    try:
        optimized = optimize_model(
            graph,
            model_type="bert",  # the name of the pattern, which fits all descendants of BERT
            num_heads=sizes.heads if known else 0,
            hidden_size=sizes.width if known else 0,
            optimization_options=options,
            opt_level=0,
        )
    except Exception:  # the optimizer raises any class; this block holds only its call
        return None
    fused: onnx.ModelProto = optimized.model
    # ONNX demands that a graph declares the domains of its operators. The optimizer omits onnxruntime's own domain.
    if all(opset.domain != MICROSOFT for opset in fused.opset_import):
        fused.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return fused
