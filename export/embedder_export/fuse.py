"""Third stage: onnxruntime's transformer fusions, in several degrees.

Fusing everything is not fastest on every machine and model, so this stage offers a few forms of the same graph, and
`choose` times them.
"""

import logging
from collections.abc import Iterator

import onnx
from onnx.external_data_helper import uses_external_data
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from embedder_export.convert import Body
from embedder_export.graphs import load_tensor, tensor_bytes

_OWN_DOMAIN = "com.microsoft"
# Fusing copies the graph as a protobuf message, of which the limit is 2 GB.
_MOST_BYTES = 1_500_000_000


def fused_forms(body: Body) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graph of `body` itself, as "traced"; with its attention fused; and with everything fused but the embeddings.

    The fusions compute with the weights, so these are in memory then, all but tables of embeddings; a graph with more
    than fits has no fused form, nor has one that the fusions do not know.
    """
    yield "traced", onnx.load(body.graph, load_external_data=False)
    for form, options in _fusions().items():
        graph = _load_for_fusing(body)
        if graph is None:
            continue
        try:
            fused = _fused(graph, body, options)
        except Exception:  # the optimizer asserts what holds for BERT
            continue
        yield form, fused


def _fusions() -> dict[str, FusionOptions]:
    attention, full = FusionOptions("bert"), FusionOptions("bert")
    attention.use_multi_head_attention = True
    attention.enable_skip_layer_norm = False
    attention.enable_bias_skip_layer_norm = False
    for options in (attention, full):
        options.enable_embed_layer_norm = False  # it gains nothing, and reads the tables of embeddings
    return {"attention": attention, "full": full}


def _load_for_fusing(body: Body) -> onnx.ModelProto | None:
    graph = onnx.load(body.graph, load_external_data=False)
    tables = {node.input[0] for node in graph.graph.node if node.op_type == "Gather"}
    wanted = [tensor for tensor in graph.graph.initializer if uses_external_data(tensor) and tensor.name not in tables]
    if sum(map(tensor_bytes, wanted)) > _MOST_BYTES:
        return None
    for tensor in wanted:
        load_tensor(tensor, body.graph.parent)
    return graph


def _fused(graph: onnx.ModelProto, body: Body, options: FusionOptions) -> onnx.ModelProto:
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    # It insists that the heads divide the width, as they need not in a T5; with zeros it finds out by itself.
    known = body.attention_heads > 0 and body.hidden_size % body.attention_heads == 0
    fused = optimize_model(
        graph,
        model_type="bert",  # the pattern's name: it covers the BERT family's descendants too
        num_heads=body.attention_heads if known else 0,
        hidden_size=body.hidden_size if known else 0,
        optimization_options=options,
        opt_level=0,
    ).model
    # The optimizer uses onnxruntime's own operators but leaves their domain undeclared, which ONNX does not allow.
    if all(opset.domain != _OWN_DOMAIN for opset in fused.opset_import):
        fused.opset_import.append(onnx.helper.make_opsetid(_OWN_DOMAIN, 1))
    return fused
