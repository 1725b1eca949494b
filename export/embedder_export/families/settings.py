"""Settings of a family: a frozen dataclass. Each field says what the equations honour and what the default is.

    class BertSettings:
        vocab_size: Count = 30522

A field's name is the key in config.json. Its annotation is the rule for the values. Its default is what transformers
takes where config.json lacks the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_type_hints

from embedder_export.errors import NotNativeError

_SettingsT = TypeVar("_SettingsT")


@dataclass(frozen=True)
class Rule:
    """Which values of a setting the equations honour."""

    honours: Callable[[Any], bool]


class Derived(Enum):
    """The type of `DERIVED`."""

    FROM_OTHER_SETTINGS = "derived"


# The default of a setting that follows from others. No file can hold it.
DERIVED: Final = Derived.FROM_OTHER_SETTINGS

# transformers' names of activations, and the names that `graph.operators.ACTIVATIONS` has for their formulas.
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


def at_least(smallest: int) -> Rule:
    """Integers from `smallest` on."""
    return Rule(lambda value: type(value) is int and value >= smallest)


def one_of(*values: Any) -> Rule:
    """These values and no others. 0 is not False here."""
    return Rule(lambda value: any(type(value) is type(known) and value == known for known in values))


def _derived(kind: type) -> Rule:
    return Rule(lambda value: value is DERIVED or type(value) is kind)


Count: TypeAlias = Annotated[int, at_least(1)]
OptionalCount: TypeAlias = Annotated[int | None, Rule(lambda value: value is None or at_least(1).honours(value))]
TokenId: TypeAlias = Annotated[int, at_least(0)]
Epsilon: TypeAlias = Annotated[float, Rule(lambda value: type(value) is float and 0 < value < 1)]
Activation: TypeAlias = Annotated[str, Rule(lambda value: isinstance(value, str) and value in ACTIVATION_NAMES)]
DerivedName: TypeAlias = Annotated[str | Derived, _derived(str)]
DerivedFlag: TypeAlias = Annotated[bool | Derived, _derived(bool)]

_FLOATS = ("float32", "float16", "bfloat16", "float64")
# Settings of any model that change what it computes. The builders write models that have only these values.
# Each with its values; the first one is the default.
_COMMON: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "torchscript": (False,),
    "return_dict": (True,),
    # These make transformers read other settings or other files.
    "attribute_map": (None,),
    "configuration_files": (None,),
    "transformers_weights": (None,),
    "dtype": (None, *_FLOATS),
    "torch_dtype": (None, *_FLOATS),
}


def read_settings(config: Mapping[str, Any], kind: type[_SettingsT]) -> _SettingsT:
    """Read the dataclass `kind` from the content of config.json. Other keys are ignored, as transformers ignores them.

    Raises:
        NotNativeError: the equations do not honour a value.

    Example:
        >>> @dataclass(frozen=True)
        ... class Sizes:
        ...     hidden_size: Count = 768
        >>> read_settings({"hidden_size": 384}, Sizes)
        Sizes(hidden_size=384)
    """
    for name, values in _COMMON.items():
        _check(name, config.get(name, values[0]), one_of(*values))
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):  # type: ignore[arg-type]  # every settings class is a dataclass
        (rule,) = hints[field.name].__metadata__
        found[field.name] = config.get(field.name, field.default)
        _check(field.name, found[field.name], rule)
    return kind(**found)


def _check(name: str, value: Any, rule: Rule) -> None:
    if not rule.honours(value):
        raise NotNativeError(f"config.json has {value!r:.80} as {name}")


def check_aliases(config: Mapping[str, Any], aliases: Mapping[str, str], settings: object) -> None:
    """Check that a setting's other name in `config`, if it is there, has the same value.

    Args:
        config: the content of config.json.
        aliases: other names that transformers has for settings, each with the setting's name.
        settings: what `read_settings` has read.

    Raises:
        NotNativeError: the two values differ.
    """
    for alias, name in aliases.items():
        value = getattr(settings, name)
        if config.get(alias, value) != value:
            raise NotNativeError(f"config.json has {config[alias]!r:.80} as {alias} and another {name}")
