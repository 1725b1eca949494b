"""Third stage: onnxruntime's transformer fusions, in several degrees.

Fusing everything is not fastest on every machine and model, so this stage offers a few forms of the same graph, and
`choose` times them.
"""

import logging

import onnx
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.optimizer import optimize_model

from embedder_export.convert import BodyShape

_OWN_DOMAIN = "com.microsoft"


def fused_forms(body: onnx.ModelProto, shape: BodyShape) -> dict[str, onnx.ModelProto]:
    """`body` itself as "traced"; with its attention fused; and with everything fused that onnxruntime can."""
    return {"traced": body} | {form: _fused(body, shape, options) for form, options in _fusions().items()}


def _fusions() -> dict[str, FusionOptions]:
    attention = FusionOptions("bert")
    attention.use_multi_head_attention = True
    attention.enable_embed_layer_norm = False
    attention.enable_skip_layer_norm = False
    attention.enable_bias_skip_layer_norm = False
    return {"attention": attention, "full": FusionOptions("bert")}


def _fused(body: onnx.ModelProto, shape: BodyShape, options: FusionOptions) -> onnx.ModelProto:
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    fused = optimize_model(
        _copy(body),
        model_type="bert",  # the pattern's name: it covers the BERT family's descendants too
        num_heads=shape.attention_heads,
        hidden_size=shape.hidden_size,
        optimization_options=options,
        opt_level=0,
    ).model
    # The optimizer uses onnxruntime's own operators but leaves their domain undeclared, which ONNX does not allow.
    if all(opset.domain != _OWN_DOMAIN for opset in fused.opset_import):
        fused.opset_import.append(onnx.helper.make_opsetid(_OWN_DOMAIN, 1))
    return fused


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy
