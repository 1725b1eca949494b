"""The layers of sparse models, which give a text a weight for each word of the vocabulary."""

from dataclasses import dataclass

import onnx_ir as ir

from embedder_export.checkpoint.weights import Floats

# The pooling strategies and the activations of sentence-transformers' SpladePooling.
STRATEGIES = MAX, SUM = ("max", "sum")
ACTIVATIONS = RELU, LOG1P_RELU = ("relu", "log1p_relu")


@dataclass(frozen=True)
class WordScores:
    """The head of a masked language model: words @ norm(activation(dense(token))) + bias, for each token.

    Attributes:
        dense: weight of the first linear layer, float32 (width of a word, width of a token).
        dense_bias: its bias, float32 (width of a word,). None if it has none.
        activation: one of `graph.operators.ACTIVATIONS`.
        norm: weight and bias of the layer normalisation, float32 (width of a word,) each.
        norm_epsilon: added to the variance in it.
        words: float32 (words, width of a word). It is read only when it is written.
        bias: float32 (words,).
    """

    dense: Floats
    dense_bias: Floats | None
    activation: str
    norm: tuple[Floats, Floats]
    norm_epsilon: float
    words: ir.TensorProtocol
    bias: Floats


@dataclass(frozen=True)
class SpladePooling:
    """Pools log(1 + relu(number)) of each word over the tokens (SPLADE: https://arxiv.org/abs/2109.10086).

    Attributes:
        strategy: one of `STRATEGIES`.
        activation: one of `ACTIVATIONS`. "log1p_relu" takes the logarithm twice.
    """

    strategy: str = MAX
    activation: str = RELU


@dataclass(frozen=True)
class TokenWeights:
    """Gives each token id of a text relu(weight @ token + bias), its largest one if it is there more than once.

    It is the sparse output of BGE-M3 (Chen et al., 2024: https://arxiv.org/abs/2402.03216), as FlagEmbedding computes
    it.

    Attributes:
        weight: float32 (1, width of a token).
        bias: float32 (1,).
        left_out: the token ids that get no weight.
        vocabulary_size: number of token ids.
    """

    weight: Floats
    bias: Floats
    left_out: tuple[int, ...]
    vocabulary_size: int


@dataclass(frozen=True)
class StaticWeights:
    """Gives each token id that a text has its own weight. No transformer is needed.

    Attributes:
        weights: float32 (token ids,).
    """

    weights: Floats
