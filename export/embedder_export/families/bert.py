"""BERT (Devlin et al., 2019: https://arxiv.org/abs/1810.04805), as transformers' BertModel computes it."""

from dataclasses import dataclass
from typing import Annotated

import onnx_ir as ir

from embedder_export.body.contract import BodySizes
from embedder_export.body.network import Network
from embedder_export.body.post_norm import LayerNames, LayerSizes, PostNormLayers, embed, post_norm_layers
from embedder_export.checkpoint.weights import lazy
from embedder_export.errors import CheckpointError
from embedder_export.families.family import Family, RankHead, WordHead, text_builder
from embedder_export.families.settings import Activation, Count, Epsilon, one_of


@dataclass(frozen=True)
class BertSettings:
    """The settings of config.json that the equations below use."""

    vocab_size: Count = 30522
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: Count = 512
    type_vocab_size: Count = 2
    layer_norm_eps: Epsilon = 1e-12
    position_embedding_type: Annotated[str, one_of("absolute")] = "absolute"


_TYPES = "embeddings.token_type_embeddings.weight"


def layer_names(
    up: str = "intermediate.dense",
    down: str = "output.dense",
    output_norm: str = "output.LayerNorm",
    gate: str | None = None,
) -> LayerNames:
    """Return the names of a layer's parts. Models that differ in the feed-forward part give its names.

    Example:
        >>> layer_names().query
        'attention.self.query'
    """
    return LayerNames(
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
        attention_norm="attention.output.LayerNorm",
        up=up,
        down=down,
        output_norm=output_norm,
        gate=gate,
    )


def token_vectors(net: Network, config: BertSettings) -> ir.Value:
    """Write the token vectors, (batch, sequence, hidden_size)."""
    width = config.hidden_size
    positions = with_types(net, net.first_rows(position_table(net, config, width)), config, width)
    x = embed(net, positions, config.vocab_size, width, config.layer_norm_eps)
    return encoder(net, x, config)


def position_table(net: Network, config: BertSettings, width: int) -> ir.Value:
    """Return the position embeddings, as a constant: (positions, width).

    If the graph takes no token type ids, the embedding of token type 0 is added.
    """
    positions = net.tensor("embeddings.position_embeddings.weight", config.max_position_embeddings, width)
    types = net.tensor(_TYPES, config.type_vocab_size, width)
    shape = (config.max_position_embeddings, width)
    if net.token_type_ids is not None:
        return net.op.initializer(positions)
    return net.op.initializer(lazy(lambda: positions.numpy() + types.numpy()[0], shape))


def with_types(net: Network, positions: ir.Value, config: BertSettings, width: int) -> ir.Value:
    """Write positions + embeddings of the token types, if the graph takes token type ids.

    Raises:
        CheckpointError: the model has only one token type.
    """
    if net.token_type_ids is None:
        return positions
    return net.op.Add(_types(net, net.token_type_ids, config.type_vocab_size, width), positions)


def type_embeddings(net: Network, rows: int, width: int) -> ir.Value | None:
    """Write the embeddings of the token types, for models without a table of positions.

    Args:
        net: the network to write into.
        rows: number of token types.
        width: width of the embeddings.

    Returns:
        (batch, sequence, width). If the graph takes no token type ids, the embedding of token type 0: (width,). None
        if the model has no token types.

    Raises:
        CheckpointError: the graph takes token type ids, and the model has only one token type.
    """
    if rows == 0:
        return None
    if net.token_type_ids is not None:
        return _types(net, net.token_type_ids, rows, width)
    table = net.tensor(_TYPES, rows, width)
    return net.op.initializer(lazy(lambda: table.numpy()[0], (width,)))


def _types(net: Network, token_type_ids: ir.Value, rows: int, width: int) -> ir.Value:
    if rows < 2:
        raise CheckpointError(
            "the tokenizer gives the second text of a pair token type 1, and the model has only type 0"
        )
    return net.op.Gather(net.weight(_TYPES, rows, width), token_type_ids)


def layer_sizes(config: BertSettings) -> LayerSizes:
    """Return the sizes that all layers share."""
    return LayerSizes(
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        config.hidden_act,
        config.layer_norm_eps,
    )


def encoder(net: Network, x: ir.Value, config: BertSettings) -> ir.Value:
    """Write all layers, from (tokens, hidden_size). The result is that of `post_norm_layers`."""
    names = [f"encoder.layer.{index}" for index in range(config.num_hidden_layers)]
    return post_norm_layers(net, x, PostNormLayers(names, layer_names(), layer_sizes(config)))


def body_sizes(config: BertSettings) -> BodySizes:
    """Return the sizes of a model with one row of its table for each position."""
    positions = config.max_position_embeddings
    return BodySizes(config.hidden_size, positions, positions, config.vocab_size)


def _word_head(config: BertSettings) -> WordHead:
    name = "cls.predictions"
    return WordHead(
        dense=f"{name}.transform.dense",
        norm=f"{name}.transform.LayerNorm",
        decoder=f"{name}.decoder",
        embeddings="bert.embeddings.word_embeddings.weight",
        activation=config.hidden_act,
        norm_epsilon=config.layer_norm_eps,
        bias=f"{name}.bias",
    )


BERT = Family(
    "bert",
    "BertTokenizer",
    BertSettings,
    text_builder(token_vectors, body_sizes),
    has_token_types=True,
    rank_head=RankHead("bert.pooler.dense", "Tanh", "classifier"),
    word_head=_word_head,
)
