"""CLIP (Radford et al., 2021: https://arxiv.org/abs/2103.00020), as transformers' CLIPModel computes its features.

Two transformers, of texts and of images, with a linear projection each into one space. What comes after the keys and
values of a last layer is computed for the one token that is pooled, as the others' are not looked at any more.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from embedder.artifact.manifest import IMAGE, TEXT

from embedder_export.body.body import NATIVE, Body
from embedder_export.body.native.network import Attention, Network
from embedder_export.body.native.settings import Settings, activation, choice, count, epsilon, read_settings
from embedder_export.checkpoint.weights import Weights
from embedder_export.errors import NotNativeError
from embedder_export.graph.operators import new_graph, new_image_graph, new_model

PREFIX = "clip"

_SETTINGS = {"projection_dim": count(512)}
_TOWER = {
    "num_hidden_layers": count(12),
    "hidden_act": activation("quick_gelu"),
    "layer_norm_eps": epsilon(1e-5),
}
_TEXT = _TOWER | {
    "vocab_size": count(49408),
    "hidden_size": count(512),
    "intermediate_size": count(2048),
    "num_attention_heads": count(8),
    "max_position_embeddings": count(77),
    "eos_token_id": count(49407, least=0),
}
_VISION = _TOWER | {
    "hidden_size": count(768),
    "intermediate_size": count(3072),
    "num_attention_heads": count(12),
    "num_channels": choice(3),
    "image_size": count(224),
    "patch_size": count(32),
}
# Configurations of old have this, wrongly, for whatever ends a text: it is the highest of its ids then.
_OLD_END = 2


def build_clip(config: Mapping[str, Any], weights: Weights) -> dict[str, Body]:
    """The graphs of texts and of images of the checkpoint with `config`, in float32, each to its projection.

    Raises:
        NotNativeError: a setting is none that is honoured here.
        CheckpointError: weights are missing, or not of the sizes that the settings say.
    """
    dimension = read_settings(config, _SETTINGS).projection_dim
    return {
        TEXT: _text_body(read_settings(_part(config, "text_config", _TEXT), _TEXT), weights, dimension),
        IMAGE: _image_body(read_settings(_part(config, "vision_config", _VISION), _VISION), weights, dimension),
    }


def _part(config: Mapping[str, Any], name: str, settings: Settings) -> dict[str, Any]:
    """The settings of one transformer. Of old they are there twice, and the second, defaults included, counts."""
    parts = [{} if config.get(key) is None else config[key] for key in (name, f"{name}_dict")]
    if not all(isinstance(part, dict) for part in parts):
        raise NotNativeError(f"config.json has {parts!r:.80} as {name}")
    twice = config.get(f"{name}_dict") is not None
    defaults = {key: setting.default for key, setting in settings.items()} if twice else {}
    return {**parts[0], **defaults, **parts[1]}


def _text_body(config: Any, weights: Weights, dimension: int) -> Body:
    graph, width = new_graph(), config.hidden_size
    net = Network(graph, weights)
    op, name = net.op, "text_model"
    words = net.embedding(f"{name}.embeddings.token_embedding.weight", config.vocab_size, width)
    rows = config.max_position_embeddings
    table = net.weight(f"{name}.embeddings.position_embedding.weight", rows, width)
    x = net.flat(op.Add(words, net.first_rows(table)), width)
    # A text ends at the first of what ends texts: padding may have the same id, and, of old, a higher one.
    if config.eos_token_id == _OLD_END:
        ids = op.Cast(op.Mul(net.input_ids, net.attention_mask), to=ir.DataType.INT32)
    else:
        ids = op.Cast(op.Equal(net.input_ids, op.constant(config.eos_token_id)), to=ir.DataType.INT32)
    end = op.ArgMax(ids, axis=1, keepdims=1)
    positions = op.Range(op.constant(0), op.Squeeze(op.Shape(net.input_ids, start=1, end=2)), op.constant(1))
    until_end = op.Cast(op.LessOrEqual(positions, end), to=ir.DataType.INT32)
    pooled = _encoder(net, x, name, config, sees="before", at=op.Squeeze(end, op.constant([1])), mask=until_end)
    pooled = net.layer_norm(pooled, f"{name}.final_layer_norm", width, config.layer_norm_eps)
    features = net.linear(pooled, "text_projection", width, dimension, has_bias=False)
    model = new_model(graph, features, dimension, pooled=True)
    return Body([(NATIVE, model)], dimension, rows, rows, vocabulary_size=config.vocab_size)


def _image_body(config: Any, weights: Weights, dimension: int) -> Body:
    size, patch, width = config.image_size, config.patch_size, config.hidden_size
    if patch > size:
        raise NotNativeError(f"config.json has patches of {patch} in images of {size}")
    graph, positions = new_image_graph(size, size), (size // patch) ** 2 + 1
    net = Network(graph, weights, positions)
    op, name = net.op, "vision_model"
    kernel = net.weight(f"{name}.embeddings.patch_embedding.weight", width, 3, patch, patch)
    patches = op.Conv(graph.inputs[0], kernel, strides=[patch, patch])
    patches = op.Transpose(op.Reshape(patches, op.constant([0, width, -1])), perm=[0, 2, 1])
    first = net.weight(f"{name}.embeddings.class_embedding", width)
    shape = op.Concat(op.Shape(patches, start=0, end=1), op.constant([1, width]), axis=0)
    table = net.weight(f"{name}.embeddings.position_embedding.weight", positions, width)
    x = op.Add(op.Concat(op.Expand(first, shape), patches, axis=1), table)
    x = net.layer_norm(net.flat(x, width), f"{name}.pre_layrnorm", width, config.layer_norm_eps)
    pooled = _encoder(net, x, name, config, sees="all", at=None, mask=None)
    pooled = net.layer_norm(pooled, f"{name}.post_layernorm", width, config.layer_norm_eps)
    features = net.linear(pooled, "visual_projection", width, dimension, has_bias=False)
    return Body([(NATIVE, new_model(graph, features, dimension, pooled=True))], dimension, None, positions, size)


def _encoder(
    net: Network, x: ir.Value, name: str, config: Any, *, sees: str, at: ir.Value | None, mask: ir.Value | None
) -> ir.Value:
    """All layers, from (tokens, width) to the token at the position `at` of each text, or the first: (batch, width)."""
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        raise NotNativeError(f"config.json has {heads} attention heads for a width of {width}")
    for index in range(config.num_hidden_layers):
        layer = f"{name}.encoder.layers.{index}"
        parts = (f"{layer}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj"))
        spec = Attention(*parts, heads=heads, width=width, inner=width, sees=sees)
        y = net.layer_norm(x, f"{layer}.layer_norm1", width, config.layer_norm_eps)
        if index < config.num_hidden_layers - 1:
            x = net.op.Add(net.attention(y, spec), x)
        else:
            token, x = (_pooled(net, vectors, width, at) for vectors in (y, x))
            x = net.op.Add(net.pooled_attention(y, token, spec, mask), x)
        y = net.layer_norm(x, f"{layer}.layer_norm2", width, config.layer_norm_eps)
        y = net.linear(y, f"{layer}.mlp.fc1", width, config.intermediate_size)
        y = net.linear(net.activation(y, config.hidden_act), f"{layer}.mlp.fc2", config.intermediate_size, width)
        x = net.op.Add(y, x)
    return x


def _pooled(net: Network, x: ir.Value, width: int, at: ir.Value | None) -> ir.Value:
    """One token of each text or image, (batch, width), of the vectors (tokens, width)."""
    x = net.unflat(x, width)
    if at is None:
        return net.op.Gather(x, net.op.constant(0), axis=1)
    return net.op.GatherND(x, net.op.Unsqueeze(at, net.op.constant([1])), batch_dims=1)
