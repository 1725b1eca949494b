"""Describe a family of models: its settings, its graph builders, its tokenizer and its modalities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import onnx_ir as ir
from embedder.artifact.manifest import TEXT

from embedder_export.body.contract import NATIVE, Body, BodyRequest, BodySizes
from embedder_export.body.gpu_network import GpuNetwork
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import Weights
from embedder_export.families.settings import read_settings
from embedder_export.graph.operators import new_graph, new_model

SettingsT = TypeVar("SettingsT")
# Writes a transformer's graph from the weights, the settings, and what the later stages need.
Builder = Callable[[Weights, SettingsT, BodyRequest], Body]


@dataclass(frozen=True)
class ImageProcessor:
    """A family's image processor.

    Attributes:
        classes: the names of its class in transformers. The first is the default.
        defaults: the values of the settings that preprocessor_config.json lacks.
    """

    classes: tuple[str, ...]
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class TracedTower:
    """A tower of a model, for tracing. A model with several transformers has a tower for each modality.

    Attributes:
        model_class: the name of its class in transformers.
        onnx_config: the name of its class in `optimum.exporters.onnx.model_configs`.
        config_name: the attribute of the model's configuration that holds the tower's configuration.
        output: the name of the output to keep.
        sizes: returns its sizes from its configuration.
    """

    model_class: str
    onnx_config: str
    config_name: str
    output: str
    sizes: Callable[[Any], BodySizes]


@dataclass(frozen=True)
class RankHead:
    """A family's head for sequence classification: out(norm(activation(dense(pooled)))).

    Attributes:
        dense: the name of its first linear layer, as a checkpoint has it. None for out(pooled).
        activation: one of `graph.operators.ACTIVATIONS`.
        out: the name of the linear layer that gives the logits.
        pooling: the name of the pooling. "cls" is the first token.
        padding_id: as in `Pooling`.
        pools_last: whether the pooling is after the first linear layer and its activation.
        out_has_bias: whether the layer that gives the logits has a bias.
        has_bias: whether its first linear layer has a bias.
        norm: the name of its layer normalisation. None if it has none.
        norm_has_bias: whether the normalisation has a bias.
        norm_epsilon: added to the variance in the normalisation.
    """

    dense: str | None
    activation: str
    out: str
    pooling: str = "cls"
    padding_id: int | None = None
    pools_last: bool = False
    out_has_bias: bool = True
    has_bias: bool = True
    norm: str | None = None
    norm_has_bias: bool = True
    norm_epsilon: float = 1e-5


@dataclass(frozen=True)
class WordHead:
    """A family's head for masked language models, which gives each token a number for each word of the vocabulary.

    It computes decoder(norm(activation(dense(token)))).

    Attributes:
        dense: the name of its first linear layer, as a checkpoint has it.
        norm: the name of its layer normalisation.
        decoder: the name of its last linear layer. Its weight may be that of the word embeddings.
        embeddings: the name of the word embeddings, with the family's prefix.
        activation: transformers' name of the activation.
        norm_epsilon: added to the variance in the normalisation.
        bias: another name of the decoder's bias. None if it has no other one.
        dense_has_bias: whether its first linear layer has a bias.
        norm_has_bias: whether the normalisation has a bias.
        decoder_has_bias: whether its last linear layer has a bias.
    """

    dense: str
    norm: str
    decoder: str
    embeddings: str
    activation: str
    norm_epsilon: float
    bias: str | None = None
    dense_has_bias: bool = True
    norm_has_bias: bool = True
    decoder_has_bias: bool = True


def _keep_names(weights: Weights) -> Weights:
    return weights


@dataclass(frozen=True)
class Family(Generic[SettingsT]):
    """A family of models. `families.table.FAMILIES` lists the families by config.json's model_type.

    Attributes:
        prefix: the prefix of its weights' names in the checkpoint of a larger model.
        tokenizer_class: transformers' tokenizer class, for checkpoints that name none.
        settings: the dataclass of its settings.
        builders: the native builder of each modality. Empty if there is none.
        modalities: the manifest's modalities that it takes.
        aliases: other names of settings in config.json, each with the setting's name.
        read_settings: reads the settings from config.json's content.
        own_pooling: the name of its own pooling. None if a head has to pool.
        has_match_logits: whether its weights make a probability of the cosine of an image and a text.
        pads_texts: whether each text is padded to the longest length, as the model was trained.
        module_classes: sentence-transformers' classes that may be the first module in its modules.json.
        image_processor: its image processor. None if it takes no images.
        towers: the tower of each modality. Empty if it has only one transformer.
        has_token_types: whether it has embeddings of token types.
        rank_head: its head for sequence classification, or a function that returns it from config.json's content. None
            if it is not known; then the head is traced.
        word_head: returns its head for masked language models from the settings. None if there is none here.
        rename: returns a checkpoint's weights under the names of transformers' newest class.
        remote_classes: the classes of this family in the code of repositories on the Hub, by their names in auto_map of
            config.json. That code is never run.
        is_remote: returns whether only such code reads the content of a config.json. Then sentence-transformers cannot
            load the checkpoint, so it is no reference.
    """

    prefix: str
    tokenizer_class: str
    settings: type[SettingsT]
    builders: Mapping[str, Builder[SettingsT]]
    modalities: tuple[str, ...] = (TEXT,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    read_settings: Callable[[Mapping[str, Any], type[SettingsT]], SettingsT] = read_settings
    own_pooling: str | None = None
    has_match_logits: bool = False
    pads_texts: bool = False
    module_classes: tuple[str, ...] = ("Transformer",)
    image_processor: ImageProcessor | None = None
    towers: Mapping[str, TracedTower] = field(default_factory=dict)
    has_token_types: bool = False
    rank_head: RankHead | Callable[[Mapping[str, Any]], RankHead] | None = None
    word_head: Callable[[SettingsT], WordHead] | None = None
    rename: Callable[[Weights], Weights] = _keep_names
    remote_classes: tuple[str, ...] = ()
    is_remote: Callable[[Mapping[str, Any]], bool] = lambda config: False


def native_body(write: Callable[[type[Network]], ir.Model], sizes: BodySizes) -> Body:
    """Return the result of a native builder.

    Args:
        write: writes the graph with networks of this class.
        sizes: the transformer's sizes.

    Example:
        >>> native_body(write, bert.body_sizes(settings)).forms[0][0]  # doctest: +SKIP
        'native'
    """
    return Body([(NATIVE, write(Network))], sizes, lambda: write(GpuNetwork))


def text_builder(
    equations: Callable[[Network, SettingsT], ir.Value],
    sizes: Callable[[SettingsT], BodySizes],
    *,
    is_rotary: bool = False,
) -> Mapping[str, Builder[SettingsT]]:
    """Return the builders of a family that takes only texts and gives token vectors.

    Args:
        equations: writes the equations into a network, and returns the token vectors, (batch, sequence, width). If
            the network gives only the first tokens, they have the shape (batch, width).
        sizes: returns the transformer's sizes from the settings.
        is_rotary: whether the equations rotate queries and keys. The checkpoint then has no table of positions, and
            the graph serves texts of `max_position_embeddings` or `max_seq_length` tokens, whichever is more.

    Example:
        >>> list(text_builder(bert.token_vectors, bert.body_sizes))  # doctest: +SKIP
        ['text']
    """

    def build(weights: Weights, settings: SettingsT, request: BodyRequest) -> Body:
        body_sizes, pooled = sizes(settings), request.first_token_only
        longest = max(body_sizes.max_position_embeddings or 0, request.max_seq_length or 0) if is_rotary else 0
        if is_rotary:
            body_sizes = replace(body_sizes, usable_positions=longest)

        def write(network: type[Network]) -> ir.Model:
            graph = new_graph(token_types=request.token_types)
            net = network(graph, weights, first_token_only=pooled, longest_text=longest)
            net.fills_up = request.fills_up
            vectors = equations(net, settings)
            return new_model(graph, vectors, body_sizes.width, pooled=pooled)

        return native_body(write, body_sizes)

    return {TEXT: build}
