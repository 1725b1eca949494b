"""SigLIP (Zhai et al., 2023: https://arxiv.org/abs/2303.15343), as transformers' SiglipModel computes its features.

It has two towers, a transformer for texts and one for images, which share one vector space. SigLIP 2 (Tschannen et al.,
2025: https://arxiv.org/abs/2502.14786) has the same towers, except for its NaFlex models.

A text is padded to one length, and its last token is pooled, which may be padding. An image is pooled by attention with
a query that the model has learned. In the last layer of texts, keys and values are computed for all tokens, and
everything else only for the pooled token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import onnx_ir as ir
from embedder.artifact.manifest import IMAGE, TEXT

from embedder_export.body.attention import Attention, check_heads
from embedder_export.body.contract import Body, BodyRequest, BodySizes, TextPadding
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import Weights
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.family import Family, ImageProcessor, native_body
from embedder_export.families.old_names import OldNames, renamer
from embedder_export.families.padded_words import expand_mask, padded_words, padding_mask
from embedder_export.families.settings import Activation, Count, Epsilon, OptionalCount, one_of, read_settings
from embedder_export.graph.operators import new_graph, new_image_graph, new_model


@dataclass(frozen=True)
class SiglipTowerSettings:
    """The settings that both towers have in their part of config.json."""

    hidden_size: Count = 768
    intermediate_size: Count = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: Epsilon = 1e-6


@dataclass(frozen=True)
class SiglipTextSettings(SiglipTowerSettings):
    """The settings of text_config that the text tower uses. projection_size is hidden_size if it is None."""

    vocab_size: Count = 32000
    max_position_embeddings: Count = 64
    projection_size: OptionalCount = None

    @property
    def dimension(self) -> int:
        """Length of the vectors of texts."""
        return self.projection_size or self.hidden_size


@dataclass(frozen=True)
class SiglipVisionSettings(SiglipTowerSettings):
    """The settings of vision_config that the image tower uses."""

    num_channels: Annotated[int, one_of(3)] = 3
    image_size: Count = 224
    patch_size: Count = 16
    vision_use_head: Annotated[bool, one_of(True)] = True

    @property
    def positions(self) -> int:
        """Number of positions of an image: one for each whole patch."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class SiglipSettings:
    """The settings of config.json that the equations below use.

    Attributes:
        text: the settings of the text tower.
        vision: the settings of the image tower.
    """

    text: SiglipTextSettings = field(default_factory=SiglipTextSettings)
    vision: SiglipVisionSettings = field(default_factory=SiglipVisionSettings)


def _read_settings(config: Mapping[str, Any], kind: type[SiglipSettings]) -> SiglipSettings:
    settings = kind(
        read_settings(_part(config, "text_config"), SiglipTextSettings),
        read_settings(_part(config, "vision_config"), SiglipVisionSettings),
    )
    texts, images = settings.text.dimension, settings.vision.hidden_size
    if texts != images:
        raise CheckpointError(
            f"the vectors of texts have {texts} numbers, and those of images {images}, so they cannot be compared"
        )
    return settings


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = {} if config.get(name) is None else config[name]
    if not isinstance(part, dict):
        raise NotNativeError(f"config.json has {part!r:.80} as {name}")
    return part


def _build_text(weights: Weights, settings: SiglipSettings, request: BodyRequest) -> Body:
    config, positions = settings.text, settings.text.max_position_embeddings
    assert request.padding is not None  # the pipeline reads it for each family that pads texts
    padding = replace(request.padding, tokens=min(request.padding.tokens, positions))

    def write(network: type[Network]) -> ir.Model:
        graph = new_graph()
        net = network(graph, weights, padding.tokens)
        return new_model(graph, _text_features(net, config, padding), config.dimension, pooled=True)

    return native_body(write, BodySizes(config.dimension, positions, padding.tokens, config.vocab_size))


def _text_features(net: Network, config: SiglipTextSettings, padding: TextPadding) -> ir.Value:
    """Write the features of texts, (batch, dimension)."""
    op, width, name = net.op, config.hidden_size, "text_model"
    words = padded_words(net, f"{name}.embeddings.token_embedding.weight", (config.vocab_size, width), padding)
    table = net.weight(f"{name}.embeddings.position_embedding.weight", config.max_position_embeddings, width)
    table = op.Slice(table, op.constant([0]), op.constant([padding.tokens]))
    x = net.flat(op.Add(words, table), width)
    mask = padding_mask(net, padding) if padding.is_masked else None
    square = None if mask is None else expand_mask(net, mask, padding)
    for index in range(config.num_hidden_layers - 1):
        x = _layer(net, x, f"{name}.encoder.layers.{index}", config, square)
    pooled = _last_layer(net, x, f"{name}.encoder.layers.{config.num_hidden_layers - 1}", config, mask)
    pooled = net.layer_norm(pooled, f"{name}.final_layer_norm", width, config.layer_norm_eps)
    return net.linear(pooled, f"{name}.head", width, config.dimension)


def _build_image(weights: Weights, settings: SiglipSettings, _: BodyRequest) -> Body:
    config = settings.vision
    size, width = config.image_size, config.hidden_size
    if config.patch_size > size:
        raise NotNativeError(f"config.json has patches of {config.patch_size} in images of {size}")

    def write(network: type[Network]) -> ir.Model:
        graph = new_image_graph(size, size)
        net = network(graph, weights, config.positions)
        return new_model(graph, _image_features(net, graph.inputs[0], config), width, pooled=True)

    return native_body(write, BodySizes(width, usable_positions=config.positions, image_size=size))


def _image_features(net: Network, pixels: ir.Value, config: SiglipVisionSettings) -> ir.Value:
    """Write the features of images, (batch, hidden_size)."""
    op, patch, width, name = net.op, config.patch_size, config.hidden_size, "vision_model"
    kernel = net.weight(f"{name}.embeddings.patch_embedding.weight", width, 3, patch, patch)
    bias = net.weight(f"{name}.embeddings.patch_embedding.bias", width)
    patches = op.Conv(pixels, kernel, bias, strides=[patch, patch])
    patches = op.Transpose(op.Reshape(patches, op.constant([0, width, -1])), perm=[0, 2, 1])
    table = net.weight(f"{name}.embeddings.position_embedding.weight", config.positions, width)
    x = net.flat(op.Add(patches, table), width)
    for index in range(config.num_hidden_layers):
        x = _layer(net, x, f"{name}.encoder.layers.{index}", config, None)
    x = net.layer_norm(x, f"{name}.post_layernorm", width, config.layer_norm_eps)
    return _image_head(net, x, f"{name}.head", op.Shape(pixels, start=0, end=1), config)


def _image_head(net: Network, x: ir.Value, name: str, images: ir.Value, config: SiglipVisionSettings) -> ir.Value:
    """Write the pooling of the patches' vectors, from (patches, width) to (images, width).

    Args:
        net: writes the layers.
        x: the vectors of all patches.
        name: the head's name.
        images: number of images, int64 (1,).
        config: the settings.
    """
    op, width = net.op, config.hidden_size
    probe = op.Reshape(net.weight(f"{name}.probe", 1, 1, width), op.constant([1, width]))
    query = op.Expand(probe, op.Concat(images, op.constant([width]), axis=0))
    attention = Attention(
        query=f"{name}.attention.query",
        key=f"{name}.attention.key",
        value=f"{name}.attention.value",
        output=f"{name}.attention.out_proj",
        heads=config.num_attention_heads,
        width=width,
        inner=width,
        mask="none",
    )
    pooled = net.pooled_attention(x, query, attention, None, one_row=True)
    y = net.layer_norm(pooled, f"{name}.layernorm", width, config.layer_norm_eps)
    return net.add(_feed_forward(net, y, f"{name}.mlp", config, one_row=True), pooled)


def _layer(net: Network, x: ir.Value, name: str, config: SiglipTowerSettings, mask: ir.Value | None) -> ir.Value:
    """Write a layer, from (tokens, width) to (tokens, width). `mask` is the result of `expand_mask`, or None."""
    width, epsilon = config.hidden_size, config.layer_norm_eps
    y = net.layer_norm(x, f"{name}.layer_norm1", width, epsilon)
    x = net.add(net.attention(y, _attention(name, config), mask), x)
    y = net.layer_norm(x, f"{name}.layer_norm2", width, epsilon)
    return net.add(_feed_forward(net, y, f"{name}.mlp", config), x)


def _last_layer(net: Network, x: ir.Value, name: str, config: SiglipTextSettings, mask: ir.Value | None) -> ir.Value:
    """Write a layer for the last token of each text, from (tokens, width) to (batch, width)."""
    width, epsilon = config.hidden_size, config.layer_norm_eps
    y = net.layer_norm(x, f"{name}.layer_norm1", width, epsilon)
    token, last = (_last_tokens(net, vectors, width) for vectors in (y, x))
    last = net.add(net.pooled_attention(y, token, _attention(name, config), None, mask, one_row=True), last)
    y = net.layer_norm(last, f"{name}.layer_norm2", width, epsilon)
    return net.add(_feed_forward(net, y, f"{name}.mlp", config, one_row=True), last)


def _last_tokens(net: Network, x: ir.Value, width: int) -> ir.Value:
    return net.op.Gather(net.unflat(x, width), net.op.constant(-1), axis=1)


def _attention(layer: str, config: SiglipTowerSettings) -> Attention:
    check_heads(config.num_attention_heads, config.hidden_size)
    name = f"{layer}.self_attn"
    return Attention(
        query=f"{name}.q_proj",
        key=f"{name}.k_proj",
        value=f"{name}.v_proj",
        output=f"{name}.out_proj",
        heads=config.num_attention_heads,
        width=config.hidden_size,
        inner=config.hidden_size,
        mask="none",
    )


def _feed_forward(
    net: Network, x: ir.Value, name: str, config: SiglipTowerSettings, *, one_row: bool = False
) -> ir.Value:
    """Write fc2(activation(fc1(x)))."""
    width, inner = config.hidden_size, config.intermediate_size
    y = net.linear(x, f"{name}.fc1", width, inner, one_row=one_row)
    return net.linear(net.activation(y, config.hidden_act), f"{name}.fc2", inner, width, one_row=one_row)


# torch stacks the layers of the queries, the keys and the values of the image head.
_HEAD = "vision_model.head.attention"
_NAMES = OldNames(
    [(rf"^{_HEAD}\.in_proj_(weight|bias)$", rf"{_HEAD}.in_proj.\1")],
    {f"{_HEAD}.in_proj": tuple(f"{_HEAD}.{part}" for part in ("query", "key", "value"))},
)
_IMAGE_PROCESSOR = ImageProcessor(
    classes=("SiglipImageProcessor", "SiglipImageProcessorFast", "SiglipImageProcessorPil"),
    defaults={
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": None,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
)

SIGLIP = Family(
    "siglip",
    "SiglipTokenizer",
    SiglipSettings,
    builders={TEXT: _build_text, IMAGE: _build_image},
    modalities=(TEXT, IMAGE),
    read_settings=_read_settings,
    own_pooling="lasttoken",  # a text is pooled by its last token, an image by attention
    has_match_logits=True,
    pads_texts=True,
    module_classes=("Transformer", "CLIPModel"),
    image_processor=_IMAGE_PROCESSOR,
    rename=renamer(_NAMES),
)
