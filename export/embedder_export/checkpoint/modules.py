"""What becomes of the transformer's token vectors: the modules of modules.json that follow it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from embedder.artifact.manifest import Head

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.weights import read_arrays
from embedder_export.errors import CheckpointError
from embedder_export.graph.operators import ACTIVATIONS

# The old flags to the modes; in the order of sentence-transformers, which is that of the results of several.
_OLD_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING_MODES = tuple(_OLD_FLAGS.values())
_TORCH_ACTIVATION = re.compile(r"torch\.nn\.(?:modules\.\w+\.)?(\w+)")

# CLIP's own: the token at which a text ends; of an image the first.
CLIP_POOLING = "eos"
TOKENS = "token_embeddings"
SENTENCE = "sentence_embedding"


@dataclass(frozen=True)
class Pooling:
    """Token vectors to one vector; of several modes, the results end to end."""

    modes: tuple[str, ...]
    include_prompt: bool


@dataclass(frozen=True)
class Dense:
    """activation(x @ weight.T + bias), of the token vectors or of the pooled one as `feature` says.

    weight: float32 (out, in); bias: float32 (out,); activation: one of `operators.ACTIVATIONS`.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str
    feature: str


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation of the pooled vector by torch's epsilon; weight and bias are float32 (dim,)."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Normalize:
    """The pooled vector at length 1."""


@dataclass(frozen=True)
class Truncate:
    """The first dimensions of the pooled vector."""

    dimension: int


Layer = Pooling | Dense | LayerNorm | Normalize | Truncate


def read_layers(modules: list[tuple[str, Path]], *, pooled: bool = False) -> tuple[Layer, ...]:
    """The layers of `modules`, each the name of a class of sentence-transformers and its directory.

    pooled: whether what comes before them has pooled the token vectors already.

    Raises:
        CheckpointError: a module is none that the export can honour, or has a file that is missing or damaged.
    """
    for kind, _ in modules:
        if kind not in _READERS:
            raise CheckpointError(f"the module {kind!r} is not supported")
    layers = tuple(layer for kind, directory in modules if (layer := _READERS[kind](directory)) is not None)
    _check_order(layers, pooled)
    return layers


def describe(layers: tuple[Layer, ...]) -> Head:
    """`layers` in the manifest's words."""
    pooling = next((layer for layer in layers if isinstance(layer, Pooling)), Pooling((CLIP_POOLING,), True))
    words = tuple(_describe(layer) for layer in layers if layer is not pooling)
    return Head(pooling.modes, pooling.include_prompt, words)


def _describe(layer: Layer) -> str:
    if isinstance(layer, Dense):
        outputs, inputs = layer.weight.shape
        tokens = " of each token" if layer.feature == TOKENS else ""
        return f"dense({inputs}, {outputs}, {layer.activation.lower()}){tokens}"
    if isinstance(layer, Truncate):
        return f"truncate({layer.dimension})"
    return {LayerNorm: "layer norm", Normalize: "normalize"}[type(layer)]


def _check_order(layers: tuple[Layer, ...], pooled: bool) -> None:
    poolings = [at for at, layer in enumerate(layers) if isinstance(layer, Pooling)]
    if len(poolings) != (0 if pooled else 1):
        supported = "none is, after one that pools by itself" if pooled else "one is supported"
        raise CheckpointError(f"the checkpoint has {len(poolings)} Pooling modules; {supported}")
    for at, layer in enumerate(layers):
        of_tokens = isinstance(layer, Dense) and layer.feature == TOKENS
        before = not pooled and at < poolings[0]
        if not isinstance(layer, Pooling) and of_tokens != before:
            side = "after" if of_tokens else "before"
            raise CheckpointError(f"the checkpoint has the module {type(layer).__name__} {side} its pooling")


def _read_pooling(directory: Path) -> Pooling:
    path = directory / "config.json"
    config = read_json(path, dict)
    unknown = config.keys() - _OLD_FLAGS.keys() - {
        "embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt"
    }  # fmt: skip
    if unknown:
        raise CheckpointError(f"{path} has the unknown setting {min(unknown)!r}")
    modes = config.get("pooling_mode", [mode for flag, mode in _OLD_FLAGS.items() if config.get(flag)] or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise CheckpointError(f"{path} has the pooling {modes!r:.80}")
    for mode in modes:
        if mode not in POOLING_MODES:
            raise CheckpointError(f"{path} has the unknown pooling {mode!r}: known are {', '.join(POOLING_MODES)}")
    include_prompt = config.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise CheckpointError(f"{path} has {include_prompt!r} as include_prompt")
    return Pooling(tuple(modes), include_prompt)


def _read_dense(directory: Path) -> Dense:
    path = directory / "config.json"
    config = read_json(path, dict)
    inputs, outputs = (_size(path, config, name) for name in ("in_features", "out_features"))
    name = config.get("activation_function", "torch.nn.Tanh")
    activation = _TORCH_ACTIVATION.fullmatch(name) if isinstance(name, str) else None
    if activation is None or activation[1] not in ACTIVATIONS:
        raise CheckpointError(f"{path} has the activation {name!r:.80}, which is not supported")
    feature = config.get("module_input_name", SENTENCE)
    if feature not in (TOKENS, SENTENCE) or config.get("module_output_name") not in (None, feature):
        raise CheckpointError(f"{path} reads {feature!r:.80} to another output, which is not supported")
    shapes = {"linear.weight": (outputs, inputs)}
    if config.get("bias", True):
        shapes["linear.bias"] = (outputs,)
    weights = read_arrays(directory, shapes)
    return Dense(weights["linear.weight"], weights.get("linear.bias"), activation[1], feature)


def _read_layer_norm(directory: Path) -> LayerNorm:
    path = directory / "config.json"
    dimension = _size(path, read_json(path, dict), "dimension")
    weights = read_arrays(directory, {"norm.weight": (dimension,), "norm.bias": (dimension,)})
    return LayerNorm(weights["norm.weight"], weights["norm.bias"])


def _size(path: Path, config: dict[str, Any], name: str) -> int:
    size = config.get(name)
    if type(size) is not int or size < 1:
        raise CheckpointError(f"{path} has {size!r} as {name}")
    return size


# Modules that have no file of weights.
WEIGHTLESS = ("Pooling", "Normalize", "Dropout")
_READERS: dict[str, Callable[[Path], Layer | None]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": lambda directory: Normalize(),
    "Dropout": lambda directory: None,  # it does nothing but in training
}
