"""Read the layers after the transformer: the other modules of modules.json, from their directories."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from embedder.artifact.manifest import Head

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.sparse_layers import SpladePooling, StaticWeights, TokenWeights, WordScores
from embedder_export.checkpoint.weights import Floats, read_arrays
from embedder_export.errors import CheckpointError
from embedder_export.graph.operators import ACTIVATIONS
from embedder_export.head.poolings import POOLINGS

# A class of torch, such as "torch.nn.Tanh" or "torch.nn.modules.activation.Tanh".
TORCH_ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")
_POOLING_SETTINGS = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"}

# sentence-transformers' names of the features that a Dense reads and writes.
TOKENS = "token_embeddings"
SENTENCE, SCORES = "sentence_embedding", "scores"


@dataclass(frozen=True)
class Pooling:
    """Pools the token vectors to one vector. The results of several modes are concatenated.

    Attributes:
        modes: names in `head.poolings.POOLINGS`.
        include_prompt: whether the prompt's tokens are part of the pooling.
        padding_id: for "lasttoken", pool the last token with another id. If there is none, pool the first token. None
            pools the last token.
    """

    modes: tuple[str, ...]
    include_prompt: bool
    padding_id: int | None = None


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation: activation(x @ weight.T + bias), and with a residual, + x @ residual.T.

    Attributes:
        weight: float32 (outputs, inputs).
        bias: float32 (outputs,), or None.
        activation: one of `graph.operators.ACTIVATIONS`.
        feature: the vectors that it reads and writes: `TOKENS` for each token, or `SENTENCE` for the pooled vector.
        gives_scores: whether its result is the scores of a cross-encoder.
        is_residual: whether x is added to the result.
        residual: float32 (outputs, inputs), if x has another length than the result. None adds x as it is.
    """

    weight: Floats
    bias: Floats | None
    activation: str
    feature: str
    gives_scores: bool = False
    is_residual: bool = False
    residual: Floats | None = None


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation of the pooled vector.

    Attributes:
        weight: float32 (dimension,).
        bias: float32 (dimension,).
        epsilon: added to the variance. The default is torch's.
    """

    weight: Floats
    bias: Floats
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Normalize:
    """Scales vectors to length 1.

    Attributes:
        feature: `TOKENS` for the vector of each token, or `SENTENCE` for the pooled vector.
    """

    feature: str = SENTENCE


@dataclass(frozen=True)
class Truncate:
    """Keeps the first `dimension` components of the pooled vector."""

    dimension: int


Layer: TypeAlias = (
    Pooling | Dense | LayerNorm | Normalize | Truncate | WordScores | SpladePooling | TokenWeights | StaticWeights
)


def read_layers(
    modules: Sequence[tuple[str, Path]], *, pooled: bool = False, scores: bool = False
) -> tuple[Layer, ...]:
    """Read the layers of a checkpoint, in their order.

    Args:
        modules: for each module, the name of its class in sentence-transformers and its directory.
        pooled: whether the transformer pools the token vectors by itself.
        scores: whether the last layer gives the scores of a cross-encoder.

    Raises:
        CheckpointError: a module is not supported, a file is missing or damaged, or the order of the modules is wrong.

    Example:
        >>> read_layers([("Normalize", Path("1_Normalize"))], pooled=True)
        (Normalize(feature='sentence_embedding'),)
    """
    for kind, _ in modules:
        if kind not in _READERS:
            raise CheckpointError(f"the module {kind!r} is not supported")
    layers = tuple(layer for kind, directory in modules if (layer := _READERS[kind](directory)) is not None)
    _check_pooling_count(layers, pooled)
    _check_order(layers, pooled)
    _check_scores(layers, scores)
    return layers


def describe(layers: Sequence[Layer], own_pooling: str | None = None) -> Head:
    """Return the manifest's description of `layers`.

    Args:
        layers: the checkpoint's layers.
        own_pooling: the transformer's own pooling, if no layer pools.

    Example:
        >>> describe([Pooling(("mean",), include_prompt=True), Normalize()]).layers
        ('normalize',)
    """
    splade = [layer for layer in layers if isinstance(layer, SpladePooling)]
    if splade:
        return Head((splade[0].strategy,), True, (f"log(1 + {splade[0].activation})",))
    found = [layer for layer in layers if isinstance(layer, Pooling)]
    pooling = found[0] if found else Pooling((own_pooling or "",), include_prompt=True)
    others = [layer for layer in layers if layer is not pooling]
    return Head(pooling.modes, pooling.include_prompt, describe_layers(others))


def describe_layers(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the manifest's descriptions of layers.

    Example:
        >>> describe_layers([Normalize(TOKENS)])
        ('normalize of each token',)
    """
    return tuple(map(_describe_layer, layers))


def _describe_layer(layer: Layer) -> str:
    if isinstance(layer, Truncate):
        return f"truncate({layer.dimension})"
    if isinstance(layer, LayerNorm):
        return "layer norm"
    tokens = " of each token" if isinstance(layer, (Dense, Normalize)) and layer.feature == TOKENS else ""
    if isinstance(layer, Dense):
        outputs, inputs = layer.weight.shape
        residual = ", residual" if layer.is_residual else ""
        return f"dense({inputs}, {outputs}, {layer.activation.lower()}{residual}){tokens}"
    return f"normalize{tokens}"


def _check_pooling_count(layers: Sequence[Layer], pooled: bool) -> None:
    count = sum(isinstance(layer, Pooling) for layer in layers)
    if count != (0 if pooled else 1):
        expected = "none, because its transformer pools by itself" if pooled else "exactly one"
        raise CheckpointError(f"the checkpoint has {count} Pooling modules; it should have {expected}")


def _check_order(layers: Sequence[Layer], pooled: bool) -> None:
    for layer in layers:
        if isinstance(layer, Pooling):
            pooled = True
            continue
        needs_tokens = isinstance(layer, Dense | Normalize) and layer.feature == TOKENS
        if needs_tokens == pooled:
            side = "after" if pooled else "before"
            raise CheckpointError(f"the checkpoint has the module {type(layer).__name__} {side} its pooling")


def _check_scores(layers: Sequence[Layer], scores: bool) -> None:
    found = [isinstance(layer, Dense) and layer.gives_scores for layer in layers]
    if any(found) and not scores:
        raise CheckpointError("the checkpoint has a Dense that gives scores, and is no CrossEncoder")
    if scores and (any(found[:-1]) or not any(found[-1:])):
        raise CheckpointError("the last module of the CrossEncoder should be a Dense that gives the scores")


def _read_pooling(directory: Path) -> Pooling:
    path = directory / "config.json"
    config = read_json(path, dict)
    flags = {pooling.legacy_flag: mode for mode, pooling in POOLINGS.items()}
    unknown = config.keys() - flags.keys() - _POOLING_SETTINGS
    if unknown:
        raise CheckpointError(f"{path} has the unknown setting {min(unknown)!r}")
    modes = config.get("pooling_mode", [mode for flag, mode in flags.items() if config.get(flag)] or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise CheckpointError(f"{path} has the pooling {modes!r:.80}")
    for mode in modes:
        if not isinstance(mode, str) or mode not in POOLINGS:
            raise CheckpointError(f"{path} has the unknown pooling {mode!r}: known are {', '.join(POOLINGS)}")
    include_prompt = config.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise CheckpointError(f"{path} has {include_prompt!r} as include_prompt")
    return Pooling(tuple(modes), include_prompt)


def read_dense(directory: Path, default_feature: str = SENTENCE) -> Dense:
    """Read a Dense from its directory.

    Args:
        directory: the module's directory.
        default_feature: the vectors that it reads if its settings name none, `SENTENCE` or `TOKENS`.

    Raises:
        CheckpointError: a file is missing or damaged, or a setting is not supported.

    Example:
        >>> read_dense(Path("1_Dense"), TOKENS).activation  # doctest: +SKIP
        'Identity'
    """
    path = directory / "config.json"
    config = read_json(path, dict)
    inputs, outputs = (_read_size(path, config, name) for name in ("in_features", "out_features"))
    name = config.get("activation_function", "torch.nn.Tanh")
    activation = TORCH_ACTIVATION.fullmatch(name) if isinstance(name, str) else None
    if activation is None or activation[1] not in ACTIVATIONS:
        raise CheckpointError(f"{path} has the activation {name!r:.80}, which is not supported")
    feature, output = config.get("module_input_name", default_feature), config.get("module_output_name")
    gives_scores = feature == SENTENCE and output == SCORES
    if feature not in (TOKENS, SENTENCE) or not (output in (None, feature) or gives_scores):
        raise CheckpointError(f"{path} reads {feature!r:.80} to another output, which is not supported")
    is_residual = config.get("use_residual", False)
    if not isinstance(is_residual, bool):
        raise CheckpointError(f"{path} has {is_residual!r:.80} as use_residual")
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if config.get("bias", True):
        shapes["linear.bias"] = (outputs,)
    if is_residual and inputs != outputs:
        shapes["residual.weight"] = (outputs, inputs)
    weights = read_arrays(directory, shapes)
    return Dense(
        weights["linear.weight"],
        weights.get("linear.bias"),
        activation[1],
        feature,
        gives_scores,
        is_residual,
        weights.get("residual.weight"),
    )


def _read_layer_norm(directory: Path) -> LayerNorm:
    path = directory / "config.json"
    dimension = _read_size(path, read_json(path, dict), "dimension")
    weights = read_arrays(directory, {"norm.weight": (dimension,), "norm.bias": (dimension,)})
    return LayerNorm(weights["norm.weight"], weights["norm.bias"])


def read_normalize(directory: Path) -> Normalize:
    """Read a Normalize from its directory, which may not exist.

    Raises:
        CheckpointError: its settings are damaged or not supported.

    Example:
        >>> read_normalize(Path("no such directory"))
        Normalize(feature='sentence_embedding')
    """
    path = directory / "config.json"
    config = read_json(path, dict, default={})
    feature = config.get("module_input_name", SENTENCE)
    if feature not in (TOKENS, SENTENCE) or config.get("module_output_name") not in (None, feature):
        raise CheckpointError(f"{path} reads {feature!r:.80} to another output, which is not supported")
    return Normalize(feature)


def _read_dropout(directory: Path) -> None:
    """Return None. Dropout acts only in training."""


def _read_size(path: Path, config: dict[str, Any], name: str) -> int:
    size = config.get(name)
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{path} has {size!r} as {name}")
    return size


# Modules that have no file of weights.
WEIGHTLESS = ("Pooling", "Normalize", "Dropout", "MultiVectorMask", "SpladePooling")
# By the name of the class in sentence-transformers.
_READERS: dict[str, Callable[[Path], Layer | None]] = {
    "Pooling": _read_pooling,
    "Dense": read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": read_normalize,
    "Dropout": _read_dropout,
}
