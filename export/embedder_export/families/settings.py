"""Read the settings of a family from config.json into a frozen dataclass.

    class BertSettings:
        vocab_size: Count = 30522

The name of a field is the key in config.json. The annotation is the rule for its values. The default is transformers'
default for configurations without the key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Annotated, Any, Final, TypeAlias, TypeVar, get_type_hints

from embedder_export.errors import NotNativeError

_SettingsT = TypeVar("_SettingsT")


@dataclass(frozen=True)
class Rule:
    """A rule for the values of a setting.

    Attributes:
        honours: returns whether the equations honour a value.
    """

    honours: Callable[[Any], bool]


class Derived(Enum):
    """The type of `DERIVED`."""

    FROM_OTHER_SETTINGS = "derived"


# The default of a setting that follows from other settings. No file can hold this value.
DERIVED: Final = Derived.FROM_OTHER_SETTINGS

# For each name of an activation in transformers, the name of its formula in `graph.operators.ACTIVATIONS`.
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
    """Return the rule that a value is an integer of `smallest` or more.

    Example:
        >>> at_least(1).honours(0)
        False
    """
    return Rule(lambda value: type(value) is int and value >= smallest)


def one_of(*values: Any) -> Rule:
    """Return the rule that a value is one of `values`, and of the same type. So 0 is not False.

    Example:
        >>> one_of(False, None).honours(0)
        False
    """
    return Rule(lambda value: any(type(value) is type(known) and value == known for known in values))


def _derived(kind: type) -> Rule:
    return Rule(lambda value: value is DERIVED or type(value) is kind)


Count: TypeAlias = Annotated[int, at_least(1)]
OptionalCount: TypeAlias = Annotated[int | None, Rule(lambda value: value is None or at_least(1).honours(value))]
TokenId: TypeAlias = Annotated[int, at_least(0)]
Epsilon: TypeAlias = Annotated[float, Rule(lambda value: type(value) is float and 0 < value < 1)]
Flag: TypeAlias = Annotated[bool, one_of(False, True)]
# A setting that the family checks by itself.
Anything: TypeAlias = Annotated[Any, Rule(lambda value: True)]
Activation: TypeAlias = Annotated[str, Rule(lambda value: isinstance(value, str) and value in ACTIVATION_NAMES)]
DerivedName: TypeAlias = Annotated[str | Derived, _derived(str)]
DerivedFlag: TypeAlias = Annotated[bool | Derived, _derived(bool)]

_FLOATS = ("float32", "float16", "bfloat16", "float64")
# Settings of any model that change its equations, each with the values that the builders honour. The first value is the
# default.
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
    """Read the settings dataclass `kind` from the content of config.json. Other keys are ignored, as in transformers.

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
    """Check that settings with two names in `config` have the same value under both names.

    Args:
        config: the content of config.json.
        aliases: other names that transformers has for settings, each with the setting's name.
        settings: the result of `read_settings`.

    Raises:
        NotNativeError: the two values differ.
    """
    for alias, name in aliases.items():
        value = getattr(settings, name)
        if config.get(alias, value) != value:
            raise NotNativeError(f"config.json has {config[alias]!r:.80} as {alias} and another {name}")
