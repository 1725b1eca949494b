"""Read what only a cross-encoder has: its labels, the activation of its scores, and the head that gives them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from embedder.artifact.scores import ScoreSettings, default_activation

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.layers import SENTENCE, TOKENS, TORCH_ACTIVATION, Dense, Layer, LayerNorm, Pooling
from embedder_export.checkpoint.modules import Module
from embedder_export.checkpoint.weights import BlankWeights, Floats, Weights, read_weights
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.family import Family, RankHead

CROSS_ENCODER = "CrossEncoder"
# The ending of the names of transformers' classes for sequence classification.
CLASSIFIER = "ForSequenceClassification"
_LANGUAGE_MODEL = "ForCausalLM"
# The manifest's name of an activation, by the name of its class in torch.
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}


def is_cross_encoder(
    declared: Mapping[str, Any], modules: Sequence[Module] | None, architectures: Sequence[str]
) -> bool:
    """Return whether a checkpoint is a cross-encoder.

    sentence-transformers 6 declares it. Older versions save a sequence classifier of transformers, without modules.

    Args:
        declared: the content of config_sentence_transformers.json.
        modules: the modules of modules.json. None if there is no such file.
        architectures: the architectures that config.json names.

    Example:
        >>> is_cross_encoder({}, None, ["BertForSequenceClassification"])
        True
    """
    if modules is not None:
        return declared.get("model_type") == CROSS_ENCODER
    return declared.get("model_type") == CROSS_ENCODER or any(name.endswith(CLASSIFIER) for name in architectures)


def check_classifier(architectures: Sequence[str]) -> None:
    """Check a cross-encoder without modules.json.

    Raises:
        CheckpointError: it is a causal language model. sentence-transformers would score a pair by its next token.

    Example:
        >>> check_classifier(["BertForSequenceClassification"])
    """
    for name in architectures:
        if name.endswith(_LANGUAGE_MODEL):
            raise CheckpointError(f"it is a causal language model ({name:.80}), and such rerankers are not supported")


def read_label_names(config: Mapping[str, Any], architectures: Sequence[str]) -> tuple[str, ...]:
    """Return the name of each label of a sequence classifier, as transformers and sentence-transformers read them.

    Args:
        config: the content of config.json.
        architectures: the architectures that it names.

    Raises:
        CheckpointError: the labels are damaged.

    Example:
        >>> read_label_names({"id2label": {"0": "no", "1": "yes"}}, ["BertForSequenceClassification"])
        ('no', 'yes')
    """
    if not any(name.endswith(CLASSIFIER) for name in architectures):
        return _default_names(1)  # sentence-transformers makes one label of any other model
    names = config.get("id2label")
    if names is None:
        count = config.get("num_labels", 2)
        if type(count) is not int or count < 1:
            raise CheckpointError(f"config.json has {count!r:.80} as num_labels")
        return _default_names(count)
    if not isinstance(names, dict) or not names or {str(key) for key in names} != set(map(str, range(len(names)))):
        raise CheckpointError(f"config.json has {names!r:.80} as id2label")
    ordered = [names[key] for key in sorted(names, key=int)]
    if not all(isinstance(name, str) for name in ordered):
        raise CheckpointError(f"config.json has {names!r:.80} as id2label")
    return tuple(ordered)


def read_scores(label_names: tuple[str, ...], config: Mapping[str, Any], declared: Mapping[str, Any]) -> ScoreSettings:
    """Return the manifest's settings of the scores.

    Args:
        label_names: a name for each label. Names that transformers made up are left out of the result.
        config: the content of config.json.
        declared: the content of config_sentence_transformers.json, or nothing if it does not count.

    Raises:
        CheckpointError: the activation is neither torch's Sigmoid nor Identity.

    Example:
        >>> read_scores(("LABEL_0",), {}, {}).activation_fn
        'sigmoid'
    """
    own = config.get("sentence_transformers")
    name = declared.get("activation_fn")
    if name is None and isinstance(own, dict) and "activation_fn" in own:
        name = own["activation_fn"]
    elif name is None:  # the key of versions before 4
        name = config.get("sbert_ce_default_activation_function")
    count = len(label_names)
    activation_fn = default_activation(count) if name is None else _read_activation(name)
    names = () if label_names == _default_names(count) else label_names
    return ScoreSettings(activation_fn, names, "longest_first", parity=None)


def _read_activation(name: object) -> str:
    found = TORCH_ACTIVATION.fullmatch(name) if isinstance(name, str) else None
    if found is None or found[1] not in _ACTIVATIONS:
        known = " and ".join(f"torch.nn.{known}" for known in _ACTIVATIONS)
        raise CheckpointError(f"its scores have the activation {name!r:.80}, which is not supported; {known} are")
    return _ACTIVATIONS[found[1]]


def _default_names(count: int) -> tuple[str, ...]:
    """Return the names that transformers makes up."""
    return tuple(f"LABEL_{index}" for index in range(count))


def read_head(transformer: Path, family: Family[Any], label_count: int) -> tuple[Layer, ...]:
    """Return the head of a sequence classifier as layers. They are empty if the head of its family is not known.

    Args:
        transformer: the transformer's directory.
        family: its family.
        label_count: number of labels.

    Raises:
        CheckpointError: a weight is missing, damaged, not finite, or has another size.

    Example:
        >>> read_head(Path("checkpoint"), BERT, 1)[0]  # doctest: +SKIP
        Pooling(modes=('cls',), include_prompt=True, padding_id=None)
    """
    head = family.rank_head
    if head is None:
        return ()
    try:
        if not isinstance(head, RankHead):
            head = head(read_json(transformer / "config.json", dict))
        weights = read_weights(transformer)
        if not isinstance(weights, BlankWeights):
            weights = family.rename(weights)
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    width = _array(weights, f"{head.out}.weight", None).shape[-1]
    pooling = Pooling((head.pooling,), include_prompt=True, padding_id=head.padding_id)
    dense = _dense_of(weights, head, width)
    first: tuple[Layer, ...] = (*dense, pooling) if head.pools_last else (pooling, *dense)
    out = _dense(
        weights,
        head.out,
        (label_count, width),
        "Identity",
        has_bias=head.out_has_bias,
        feature=SENTENCE,
        gives_scores=True,
    )
    return *first, *_norms(weights, head, width), out


def _dense_of(weights: Weights, head: RankHead, width: int) -> tuple[Dense, ...]:
    """Return the first linear layer of a head, if it has one."""
    if head.dense is None:
        return ()
    feature = TOKENS if head.pools_last else SENTENCE
    dense = _dense(
        weights,
        head.dense,
        (width, width),
        head.activation,
        has_bias=head.has_bias,
        feature=feature,
        gives_scores=False,
    )
    return (dense,)


def _norms(weights: Weights, head: RankHead, width: int) -> tuple[LayerNorm, ...]:
    """Return the normalisation of a head, if it has one."""
    if head.norm is None:
        return ()
    weight = _array(weights, f"{head.norm}.weight", (width,))
    has_bias = head.norm_has_bias
    bias = _array(weights, f"{head.norm}.bias", (width,)) if has_bias else np.zeros(width, np.float32)
    return (LayerNorm(weight, bias, head.norm_epsilon),)


def _dense(
    weights: Weights,
    name: str,
    shape: tuple[int, int],
    activation: str,
    *,
    has_bias: bool,
    feature: str,
    gives_scores: bool,
) -> Dense:
    weight = _array(weights, f"{name}.weight", shape)
    bias = _array(weights, f"{name}.bias", shape[:1]) if has_bias else None
    return Dense(weight, bias, activation, feature, gives_scores)


def _array(weights: Weights, name: str, shape: tuple[int, ...] | None) -> Floats:
    if isinstance(weights, BlankWeights):
        return np.zeros(shape or (1,), np.float32)
    if name not in weights:
        raise CheckpointError(f"the weights lack {name}, a part of the head that gives the scores")
    array: Floats = weights[name].numpy()
    if shape is not None and array.shape != shape:
        raise CheckpointError(f"the weights have {name} of shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise CheckpointError(f"the weights are not finite: {name} has NaN or infinity in it")
    return array
