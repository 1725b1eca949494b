"""Read the layers after the transformer: the other modules of modules.json, from their directories."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from embedder.artifact.manifest import Head

from embedder_export.checkpoint.files import read_json
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
    """A linear layer with an activation: activation(x @ weight.T + bias).

    Attributes:
        weight: float32 (outputs, inputs).
        bias: float32 (outputs,), or None.
        activation: one of `graph.operators.ACTIVATIONS`.
        feature: the vectors that it reads and writes: `TOKENS` for each token, or `SENTENCE` for the pooled vector.
        gives_scores: whether its result is the scores of a cross-encoder.
    """

    weight: Floats
    bias: Floats | None
    activation: str
    feature: str
    gives_scores: bool = False


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
    """Scales the pooled vector to length 1."""


@dataclass(frozen=True)
class Truncate:
    """Keeps the first `dimension` components of the pooled vector."""

    dimension: int


Layer: TypeAlias = Pooling | Dense | LayerNorm | Normalize | Truncate


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
        (Normalize(),)
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
    found = [layer for layer in layers if isinstance(layer, Pooling)]
    pooling = found[0] if found else Pooling((own_pooling or "",), include_prompt=True)
    descriptions = tuple(_describe_layer(layer) for layer in layers if layer is not pooling)
    return Head(pooling.modes, pooling.include_prompt, descriptions)


def _describe_layer(layer: Layer) -> str:
    if isinstance(layer, Dense):
        outputs, inputs = layer.weight.shape
        tokens = " of each token" if layer.feature == TOKENS else ""
        return f"dense({inputs}, {outputs}, {layer.activation.lower()}){tokens}"
    if isinstance(layer, Truncate):
        return f"truncate({layer.dimension})"
    return "layer norm" if isinstance(layer, LayerNorm) else "normalize"


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
        needs_tokens = isinstance(layer, Dense) and layer.feature == TOKENS
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


def _read_dense(directory: Path) -> Dense:
    path = directory / "config.json"
    config = read_json(path, dict)
    inputs, outputs = (_read_size(path, config, name) for name in ("in_features", "out_features"))
    name = config.get("activation_function", "torch.nn.Tanh")
    activation = TORCH_ACTIVATION.fullmatch(name) if isinstance(name, str) else None
    if activation is None or activation[1] not in ACTIVATIONS:
        raise CheckpointError(f"{path} has the activation {name!r:.80}, which is not supported")
    feature, output = config.get("module_input_name", SENTENCE), config.get("module_output_name")
    gives_scores = feature == SENTENCE and output == SCORES
    if feature not in (TOKENS, SENTENCE) or not (output in (None, feature) or gives_scores):
        raise CheckpointError(f"{path} reads {feature!r:.80} to another output, which is not supported")
    if config.get("use_residual", False) is not False:
        raise CheckpointError(f"{path} has a residual connection (use_residual), which is not supported")
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outputs, inputs)}
    if config.get("bias", True):
        shapes["linear.bias"] = (outputs,)
    weights = read_arrays(directory, shapes)
    return Dense(weights["linear.weight"], weights.get("linear.bias"), activation[1], feature, gives_scores)


def _read_layer_norm(directory: Path) -> LayerNorm:
    path = directory / "config.json"
    dimension = _read_size(path, read_json(path, dict), "dimension")
    weights = read_arrays(directory, {"norm.weight": (dimension,), "norm.bias": (dimension,)})
    return LayerNorm(weights["norm.weight"], weights["norm.bias"])


def _read_normalize(directory: Path) -> Normalize:
    return Normalize()


def _read_dropout(directory: Path) -> None:
    """Return None. Dropout acts only in training."""


def _read_size(path: Path, config: dict[str, Any], name: str) -> int:
    size = config.get(name)
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{path} has {size!r} as {name}")
    return size


# Modules that have no file of weights.
WEIGHTLESS = ("Pooling", "Normalize", "Dropout")
# By the name of the class in sentence-transformers.
_READERS: dict[str, Callable[[Path], Layer | None]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
    "Dropout": _read_dropout,
}
