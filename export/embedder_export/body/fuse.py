"""onnxruntime's transformer fusions of a traced graph, in several degrees.

Fusing everything is not fastest on every machine and model, so this offers a few forms of the same graph, and `choose`
times them.
"""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from embedder_export.graph.operators import MICROSOFT

# Fusing copies the graph as a protobuf message, of which the limit is 2 GB.
_MOST_BYTES = 1_500_000_000


def fused_forms(path: Path, hidden_size: int, attention_heads: int) -> Iterator[tuple[str, ir.Model]]:
    """The graph at `path` itself, as "traced"; with its attention fused; and with everything fused but the embeddings.

    The fusions compute with the weights, so these are in memory then, all but tables of embeddings; a graph with more
    than fits has no fused form, nor has one that the fusions do not know.
    """
    yield "traced", ir.load(path)
    for form, options in _fusions().items():
        graph = _load_for_fusing(path)
        if graph is None:
            continue
        try:
            fused = ir.from_proto(_fused(graph, hidden_size, attention_heads, options))
        except Exception:  # the optimizer asserts what holds for BERT
            continue
        ir.external_data.set_base_dir(fused.graph, path.parent)
        yield form, fused


def _fusions() -> dict[str, FusionOptions]:
    attention, full = FusionOptions("bert"), FusionOptions("bert")
    attention.use_multi_head_attention = True
    attention.enable_skip_layer_norm = False
    attention.enable_bias_skip_layer_norm = False
    for options in (attention, full):
        options.enable_embed_layer_norm = False  # it gains nothing, and reads the tables of embeddings
    return {"attention": attention, "full": full}


def _load_for_fusing(path: Path) -> onnx.ModelProto | None:
    graph = onnx.load(path, load_external_data=False)
    tables = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    wanted = [tensor for tensor in graph.graph.initializer if uses_external_data(tensor) and tensor.name not in tables]
    if sum(map(_size, wanted)) > _MOST_BYTES:
        return None
    for tensor in wanted:
        load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return graph


def _size(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _fused(graph: onnx.ModelProto, hidden_size: int, attention_heads: int, options: FusionOptions) -> onnx.ModelProto:
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    # It insists that the heads divide the width, as they need not in a T5; with zeros it finds out by itself.
    known = attention_heads > 0 and hidden_size % attention_heads == 0
    fused = optimize_model(
        graph,
        model_type="bert",  # the pattern's name: it covers the BERT family's descendants too
        num_heads=attention_heads if known else 0,
        hidden_size=hidden_size if known else 0,
        optimization_options=options,
        opt_level=0,
    ).model
    # The optimizer uses onnxruntime's own operators but leaves their domain undeclared, which ONNX does not allow.
    if all(opset.domain != MICROSOFT for opset in fused.opset_import):
        fused.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return fused
