"""Read the weights of the heads of sparse models."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx_ir as ir

from embedder_export.checkpoint.files import are_weights_blank, read_json
from embedder_export.checkpoint.sparse_layers import (
    ACTIVATIONS,
    MAX,
    RELU,
    STRATEGIES,
    SpladePooling,
    TokenWeights,
    WordScores,
)
from embedder_export.checkpoint.torch_format.read import read_torch_file
from embedder_export.checkpoint.weights import Floats, Weights, is_finite, read_arrays, read_weights
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.family import Family, WordHead
from embedder_export.families.settings import ACTIVATION_NAMES

# The file of the sparse head of BGE-M3.
SPARSE_LINEAR = "sparse_linear.pt"
# The tokens that get no weight there, by the names of their settings, with XLM-RoBERTa's defaults.
_LEFT_OUT = {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
_POOLING_SETTINGS = {"pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension"}


def read_splade_pooling(directory: Path) -> SpladePooling:
    """Read the pooling of a SPLADE from its directory.

    Raises:
        CheckpointError: its settings are missing, damaged or unknown.

    Example:
        >>> read_splade_pooling(Path("splade-v3/1_SpladePooling"))  # doctest: +SKIP
        SpladePooling(strategy='max', activation='relu')
    """
    path = directory / "config.json"
    config = read_json(path, dict)
    strategy, activation = config.get("pooling_strategy", MAX), config.get("activation_function", RELU)
    unknown = config.keys() - _POOLING_SETTINGS
    if unknown:
        raise CheckpointError(f"{path} has the unknown setting {min(unknown)!r:.80}")
    if strategy not in STRATEGIES or activation not in ACTIVATIONS:
        raise CheckpointError(f"{path} has the pooling {strategy!r:.40} with {activation!r:.40}, which is not known")
    return SpladePooling(strategy, activation)


def read_word_scores(directory: Path, config: Mapping[str, Any], family: Family[Any]) -> WordScores:
    """Read the head of a masked language model.

    Args:
        directory: the transformer's directory.
        config: the content of its config.json.
        family: its family.

    Raises:
        CheckpointError: the head of the family is not known; or a weight is missing, damaged, not finite, or has
            another size than the others.

    Example:
        >>> read_word_scores(Path("splade-v3"), config, BERT).bias.shape  # doctest: +SKIP
        (30522,)
    """
    if family.word_head is None:
        raise CheckpointError(f"the masked language model of {config.get('model_type')!r:.80} is not supported")
    try:
        head = family.word_head(family.read_settings(config, family.settings))
        if are_weights_blank():
            return _blank_word_scores(head)
        weights = {_new_name(name): tensor for name, tensor in family.rename(read_weights(directory)).items()}
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    words = _words(weights, head, is_tied=config.get("tie_word_embeddings", True) is not False)
    count, width = words.shape.numpy()
    dense = _array(weights, f"{head.dense}.weight", (width, None))
    bias = f"{head.decoder}.bias"
    if bias not in weights and head.bias is not None:
        bias = head.bias
    return WordScores(
        dense=dense,
        dense_bias=_array(weights, f"{head.dense}.bias", (width,)) if head.dense_has_bias else None,
        activation=ACTIVATION_NAMES[head.activation],
        norm=(
            _array(weights, f"{head.norm}.weight", (width,)),
            _array(weights, f"{head.norm}.bias", (width,)) if head.norm_has_bias else np.zeros(width, np.float32),
        ),
        norm_epsilon=head.norm_epsilon,
        words=words,
        bias=_array(weights, bias, (count,)) if head.decoder_has_bias else np.zeros(count, np.float32),
    )


def _blank_word_scores(head: WordHead) -> WordScores:
    one = np.zeros(1, np.float32)
    words = ir.tensor(np.zeros((1, 1), np.float32))
    return WordScores(one[:, None], None, ACTIVATION_NAMES[head.activation], (one, one), head.norm_epsilon, words, one)


def _words(weights: Weights, head: WordHead, *, is_tied: bool) -> ir.TensorProtocol:
    """Return the weight of the last linear layer, which may be the table of word embeddings.

    If both are there and differ, transformers 5 does not tie them.
    """
    own = f"{head.decoder}.weight"
    name = own if own in weights or not is_tied else head.embeddings
    if name not in weights:
        raise CheckpointError(f"the weights lack {name}, a part of the head of a masked language model")
    tensor = weights[name]
    if len(tensor.shape.numpy()) != 2:
        raise CheckpointError(f"the weights have {name} of shape {tensor.shape.numpy()}, which is no table")
    if not is_finite(tensor):
        raise CheckpointError(f"the weights are not finite: {name} has NaN or infinity in it")
    return tensor


def _new_name(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _array(weights: Weights, name: str, shape: tuple[int | None, ...]) -> Floats:
    if name not in weights:
        raise CheckpointError(f"the weights lack {name}, a part of the head of a masked language model")
    array: Floats = weights[name].numpy()
    if len(array.shape) != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, array.shape, strict=True)
    ):
        raise CheckpointError(f"the weights have {name} of shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise CheckpointError(f"the weights are not finite: {name} has NaN or infinity in it")
    return array


def read_token_weights(path: Path, transformer: Path, config: Mapping[str, Any]) -> TokenWeights:
    """Read the sparse head of BGE-M3.

    Args:
        path: the file of its weights.
        transformer: the directory of the transformer and of the tokenizer.
        config: the content of the transformer's config.json.

    Raises:
        CheckpointError: the weights or the tokenizer cannot be read, or do not fit the transformer.

    Example:
        >>> read_token_weights(Path("bge-m3/sparse_linear.pt"), Path("bge-m3"), config).left_out  # doctest: +SKIP
        (0, 1, 2, 3)
    """
    width, count = config.get("hidden_size"), config.get("vocab_size")
    if type(width) is not int or type(count) is not int:
        raise CheckpointError(f"config.json has {width!r:.40} as hidden_size and {count!r:.40} as vocab_size")
    try:
        weights: Weights = dict(read_torch_file(path))
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    weight, bias = (
        _array(weights, name, shape).astype(np.float32) for name, shape in (("weight", (1, width)), ("bias", (1,)))
    )
    return TokenWeights(weight, bias, _left_out(transformer), count)


def _left_out(directory: Path) -> tuple[int, ...]:
    """Return the ids of the special tokens that get no weight."""
    from embedder_export.tokenizer.native import read_natively  # here, as the tokenizer imports the checkpoint

    settings: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        settings |= read_json(directory / name, dict, default={})
    try:
        backend = read_natively(directory).backend
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    tokens = [settings.get(key) or default for key, default in _LEFT_OUT.items()]
    contents = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    ids = [backend.token_to_id(content) for content in contents if isinstance(content, str)]
    return tuple(sorted({token_id for token_id in ids if token_id is not None}))


def read_static_weights(directory: Path) -> Floats:
    """Return the weight of each token id of a SparseStaticEmbedding, float32 (token ids,).

    Raises:
        CheckpointError: the weights are missing or damaged, or there is not one for each token.

    Example:
        >>> read_static_weights(Path("query_0_SparseStaticEmbedding")).shape  # doctest: +SKIP
        (30522,)
    """
    from embedder_export.tokenizer.native import read_natively  # here, as the tokenizer imports the checkpoint

    path = directory / "config.json"
    config = read_json(path, dict, default={})
    unknown = config.keys() - {"frozen", "path"}
    if unknown:
        raise CheckpointError(f"{path} has the unknown setting {min(unknown)!r:.80}")
    if are_weights_blank():
        return np.zeros(1, np.float32)
    try:
        backend = read_natively(directory).backend
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    vocabulary = backend.get_vocab(with_added_tokens=True)
    name = config.get("path")
    if isinstance(name, str) and name.endswith(".json"):
        return _read_idf(directory / PurePosixPath(name).name, vocabulary)
    return read_arrays(directory, {"weight": (len(vocabulary),)})["weight"]


def _read_idf(path: Path, vocabulary: Mapping[str, int]) -> Floats:
    """Read a weight for each token from a JSON object."""
    content = read_json(path, dict)
    weights = np.zeros(len(vocabulary), np.float32)
    for token, weight in content.items():
        if token not in vocabulary or not isinstance(weight, int | float) or not np.isfinite(weight):
            raise CheckpointError(f"{path} has the weight {weight!r:.40} for the token {token!r:.40}")
        weights[vocabulary[token]] = weight
    return weights
