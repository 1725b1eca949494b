"""config.json, read strictly: what a builder does not honour is not guessed at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from embedder_export.errors import NotNativeError


@dataclass(frozen=True)
class Setting:
    """A setting: what transformers takes where config.json lacks it, and whether a builder honours a value."""

    default: Any
    honours: Callable[[Any], bool]


DERIVED = object()
Settings = Mapping[str, Setting]


def count(default: int, least: int = 1) -> Setting:
    """An integer of at least `least`."""
    return Setting(default, lambda value: type(value) is int and value >= least)


def epsilon(default: float) -> Setting:
    """A small number."""
    return Setting(default, lambda value: type(value) is float and 0 < value < 1)


def derived(kind: type) -> Setting:
    """A setting that follows from others, unless config.json has it; the default is one that no file can hold."""
    return Setting(DERIVED, lambda value: value is DERIVED or type(value) is kind)


def optional(setting: Setting) -> Setting:
    """The same, or nothing, which is the default."""
    return Setting(None, lambda value: value is None or setting.honours(value))


def choice(*values: Any) -> Setting:
    """One of `values`, the first of them by default."""
    return Setting(values[0], lambda value: any(type(value) is type(known) and value == known for known in values))


# By transformers' names, those of `operators.ACTIVATIONS`. Several of its names are one formula.
ACTIVATION_NAMES = {
    "gelu": "GELU",
    "gelu_python": "GELU",
    "gelu_new": "GELUTanh",
    "gelu_fast": "GELUTanh",
    "gelu_accurate": "GELUTanh",
    "gelu_pytorch_tanh": "GELUTanh",
    "gelu_python_tanh": "GELUTanh",
    "quick_gelu": "QuickGELU",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "SiLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "linear": "Identity",
    "leaky_relu": "LeakyReLU",
}


def activation(default: str) -> Setting:
    """The feed-forward layers' activation."""
    return Setting(default, lambda value: isinstance(value, str) and value in ACTIVATION_NAMES)


# Of any model: what would make it another than the one that the builders write.
_COMMON = {
    "is_decoder": choice(False),
    "add_cross_attention": choice(False),
    "pruned_heads": choice({}, None),
    "quantization_config": choice(None),
    "torchscript": choice(False),
    "return_dict": choice(True),
    # These have transformers read other settings, or other files.
    "attribute_map": choice(None),
    "configuration_files": choice(None),
    "transformers_weights": choice(None),
    "dtype": choice(None, "float32", "float16", "bfloat16", "float64"),
    "torch_dtype": choice(None, "float32", "float16", "bfloat16", "float64"),
}


def read_settings(config: Mapping[str, Any], settings: Settings) -> SimpleNamespace:
    """The values of `settings` in `config`. Others are left alone, as transformers leaves them.

    Raises:
        NotNativeError: a value is none that the builder honours.
    """
    values = {}
    for name, setting in (_COMMON | settings).items():
        values[name] = config.get(name, setting.default)
        if not setting.honours(values[name]):
            raise NotNativeError(f"config.json has {values[name]!r:.80} as {name}")
    return SimpleNamespace(**values)


def check_aliases(config: Mapping[str, Any], aliases: Mapping[str, str], values: SimpleNamespace) -> None:
    """Raise NotNativeError where `config` has a setting under transformers' other name for it, too, and they differ."""
    for alias, name in aliases.items():
        if config.get(alias, getattr(values, name)) != getattr(values, name):
            raise NotNativeError(f"config.json has {config[alias]!r:.80} as {alias} and another {name}")
