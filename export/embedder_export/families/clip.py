"""CLIP (Radford et al., 2021: https://arxiv.org/abs/2103.00020), as transformers' CLIPModel computes its features.

It has two towers, a transformer for texts and one for images. Each ends in a linear projection, and both projections
share one vector space. In the last layer, keys and values are computed for all tokens, and everything else only for the
pooled token.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import onnx_ir as ir
from embedder.artifact.manifest import IMAGE, TEXT

from embedder_export.body.attention import Attention, check_heads
from embedder_export.body.contract import Body, BodyRequest, BodySizes
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import Weights
from embedder_export.errors import NotNativeError
from embedder_export.families.family import Family, ImageProcessor, TracedTower, native_body
from embedder_export.families.settings import Activation, Count, Epsilon, TokenId, one_of, read_settings
from embedder_export.graph.operators import new_graph, new_image_graph, new_model


@dataclass(frozen=True)
class ClipTowerSettings:
    """The settings that both towers have in their part of config.json."""

    hidden_size: Count = 512
    intermediate_size: Count = 2048
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 8
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5


@dataclass(frozen=True)
class ClipTextSettings(ClipTowerSettings):
    """The settings of text_config that the text tower uses."""

    vocab_size: Count = 49408
    max_position_embeddings: Count = 77
    eos_token_id: TokenId = 49407


@dataclass(frozen=True)
class ClipVisionSettings(ClipTowerSettings):
    """The settings of vision_config that the image tower uses."""

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_attention_heads: Count = 12
    num_channels: Annotated[int, one_of(3)] = 3
    image_size: Count = 224
    patch_size: Count = 32


@dataclass(frozen=True)
class _ProjectionSettings:
    projection_dim: Count = 512


@dataclass(frozen=True)
class ClipSettings:
    """The settings of config.json that the equations below use.

    Attributes:
        projection_dim: length of the vectors that both towers give.
        text: the settings of the text tower.
        vision: the settings of the image tower.
    """

    projection_dim: int = 512
    text: ClipTextSettings = field(default_factory=ClipTextSettings)
    vision: ClipVisionSettings = field(default_factory=ClipVisionSettings)


# Old configurations have this wrong id of the token that ends a text. transformers then ends a text at its highest id.
_WRONG_END_ID = 2


def _read_settings(config: Mapping[str, Any], kind: type[ClipSettings]) -> ClipSettings:
    return kind(
        read_settings(config, _ProjectionSettings).projection_dim,
        read_settings(_part(config, "text_config", ClipTextSettings()), ClipTextSettings),
        read_settings(_part(config, "vision_config", ClipVisionSettings()), ClipVisionSettings),
    )


def _part(config: Mapping[str, Any], name: str, defaults: ClipTowerSettings) -> dict[str, Any]:
    """Return the settings of one tower.

    Old configurations hold them twice, in `name` and in `name`_dict. Then the second part and the defaults count.
    """
    parts = [{} if config.get(key) is None else config[key] for key in (name, f"{name}_dict")]
    if not all(isinstance(part, dict) for part in parts):
        raise NotNativeError(f"config.json has {parts!r:.80} as {name}")
    has_second = config.get(f"{name}_dict") is not None
    return {**parts[0], **(asdict(defaults) if has_second else {}), **parts[1]}


@dataclass(frozen=True)
class _PooledToken:
    """The pooled token of each text or image, and which tokens attend to each other.

    Attributes:
        position: the position of the pooled token, int64 (batch,). None stands for the first position.
        visible: the pooled token attends to the first so many tokens, int64 (batch,). None stands for all.
        mask: which tokens the other tokens attend to, as in `Attention.mask`.
    """

    position: ir.Value | None
    visible: ir.Value | None
    mask: str


def _build_text(weights: Weights, settings: ClipSettings, _: BodyRequest) -> Body:
    config, dimension = settings.text, settings.projection_dim
    positions = config.max_position_embeddings

    def write(network: type[Network]) -> ir.Model:
        graph = new_graph()
        return new_model(graph, _text_features(network(graph, weights), config, dimension), dimension, pooled=True)

    return native_body(write, BodySizes(dimension, positions, positions, config.vocab_size))


def _text_features(net: Network, config: ClipTextSettings, dimension: int) -> ir.Value:
    """Write the features of texts, (batch, dimension)."""
    op, width, name = net.op, config.hidden_size, "text_model"
    words = net.embedding(f"{name}.embeddings.token_embedding.weight", config.vocab_size, width)
    positions = config.max_position_embeddings
    table = net.weight(f"{name}.embeddings.position_embedding.weight", positions, width)
    x = net.flat(op.Add(words, net.first_rows(table)), width)
    pooled = _encoder(net, x, name, config, _text_end(net, config))
    pooled = net.layer_norm(pooled, f"{name}.final_layer_norm", width, config.layer_norm_eps)
    return net.linear(pooled, "text_projection", width, dimension, has_bias=False)


def _text_end(net: Network, config: ClipTextSettings) -> _PooledToken:
    """Write the search for the end token of each text.

    It is the first token with the end's id. Padding may have the same id, or in old models a higher id. On a GPU,
    ArgMax takes only floats. A double holds every id, also in a graph that is converted to fp16.
    """
    op = net.op
    if config.eos_token_id == _WRONG_END_ID:
        ids = op.Cast(op.Mul(net.input_ids, net.attention_mask), to=ir.DataType.DOUBLE)
    else:
        is_end = op.Not(op.differ(net.input_ids, op.constant(config.eos_token_id)))
        ids = op.Cast(is_end, to=ir.DataType.DOUBLE)
    end = op.ArgMax(ids, axis=1, keepdims=0)
    return _PooledToken(end, op.Add(end, op.constant(1)), "causal")


def _build_image(weights: Weights, settings: ClipSettings, _: BodyRequest) -> Body:
    config, dimension = settings.vision, settings.projection_dim
    size, positions = config.image_size, _image_positions(config)
    if config.patch_size > size:
        raise NotNativeError(f"config.json has patches of {config.patch_size} in images of {size}")

    def write(network: type[Network]) -> ir.Model:
        graph = new_image_graph(size, size)
        net = network(graph, weights, positions)
        features = _image_features(net, graph.inputs[0], config, dimension)
        return new_model(graph, features, dimension, pooled=True)

    return native_body(write, BodySizes(dimension, usable_positions=positions, image_size=size))


def _image_features(net: Network, pixels: ir.Value, config: ClipVisionSettings, dimension: int) -> ir.Value:
    """Write the features of images, (batch, dimension)."""
    op, patch, width, name = net.op, config.patch_size, config.hidden_size, "vision_model"
    kernel = net.weight(f"{name}.embeddings.patch_embedding.weight", width, 3, patch, patch)
    patches = op.Conv(pixels, kernel, strides=[patch, patch])
    patches = op.Transpose(op.Reshape(patches, op.constant([0, width, -1])), perm=[0, 2, 1])
    first = net.weight(f"{name}.embeddings.class_embedding", width)
    shape = op.Concat(op.Shape(patches, start=0, end=1), op.constant([1, width]), axis=0)
    table = net.weight(f"{name}.embeddings.position_embedding.weight", _image_positions(config), width)
    x = op.Add(op.Concat(op.Expand(first, shape), patches, axis=1), table)
    x = net.layer_norm(net.flat(x, width), f"{name}.pre_layrnorm", width, config.layer_norm_eps)
    pooled = _encoder(net, x, name, config, _PooledToken(None, None, "none"))
    pooled = net.layer_norm(pooled, f"{name}.post_layernorm", width, config.layer_norm_eps)
    return net.linear(pooled, "visual_projection", width, dimension, has_bias=False)


def _image_positions(config: Any) -> int:
    """Return the number of positions of an image: one for each whole patch, and one for the class token before them."""
    return int(config.image_size // config.patch_size) ** 2 + 1


def _encoder(net: Network, x: ir.Value, name: str, config: ClipTowerSettings, pooled: _PooledToken) -> ir.Value:
    """Write all layers, from (tokens, width) to the vectors of the pooled tokens, (batch, width)."""
    width, heads = config.hidden_size, config.num_attention_heads
    check_heads(heads, width)
    for index in range(config.num_hidden_layers):
        layer = f"{name}.encoder.layers.{index}"
        attention = Attention(
            query=f"{layer}.self_attn.q_proj",
            key=f"{layer}.self_attn.k_proj",
            value=f"{layer}.self_attn.v_proj",
            output=f"{layer}.self_attn.out_proj",
            heads=heads,
            width=width,
            inner=width,
            mask=pooled.mask,
        )
        y = net.layer_norm(x, f"{layer}.layer_norm1", width, config.layer_norm_eps)
        if index < config.num_hidden_layers - 1:
            x = net.add(net.attention(y, attention), x)
        else:
            token, x = (_take(net, vectors, width, pooled.position) for vectors in (y, x))
            x = net.add(net.pooled_attention(y, token, attention, pooled.visible), x)
        y = net.layer_norm(x, f"{layer}.layer_norm2", width, config.layer_norm_eps)
        y = net.linear(y, f"{layer}.mlp.fc1", width, config.intermediate_size)
        y = net.linear(net.activation(y, config.hidden_act), f"{layer}.mlp.fc2", config.intermediate_size, width)
        x = net.add(y, x)
    return x


def _take(net: Network, x: ir.Value, width: int, position: ir.Value | None) -> ir.Value:
    """Write the choice of one token for each text or image, from (tokens, width) to (batch, width)."""
    x = net.unflat(x, width)
    if position is None:
        return net.op.Gather(x, net.op.constant(0), axis=1)
    return net.op.GatherND(x, net.op.Unsqueeze(position, net.op.constant([1])), batch_dims=1)


def _traced_text_sizes(config: Any) -> BodySizes:
    positions = config.max_position_embeddings
    return BodySizes(config.projection_dim, positions, positions, config.vocab_size)


def _traced_image_sizes(config: Any) -> BodySizes:
    positions = _image_positions(config)
    return BodySizes(config.projection_dim, usable_positions=positions, image_size=config.image_size)


_IMAGE_PROCESSOR = ImageProcessor(
    classes=("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
    defaults={
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
)

CLIP = Family(
    "clip",
    "CLIPTokenizer",
    ClipSettings,
    builders={TEXT: _build_text, IMAGE: _build_image},
    modalities=(TEXT, IMAGE),
    read_settings=_read_settings,
    own_pooling="eos",  # a text is pooled by its end token, an image by its first token
    module_classes=("Transformer", "CLIPModel"),
    image_processor=_IMAGE_PROCESSOR,
    towers={
        TEXT: TracedTower(
            "CLIPTextModelWithProjection",
            "CLIPTextWithProjectionOnnxConfig",
            "text_config",
            "text_embeds",
            _traced_text_sizes,
        ),
        IMAGE: TracedTower(
            "CLIPVisionModelWithProjection",
            "CLIPVisionModelOnnxConfig",
            "vision_config",
            "image_embeds",
            _traced_image_sizes,
        ),
    },
)
