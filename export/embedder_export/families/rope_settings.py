"""Read the settings of RoPE from config.json, as transformers 5 reads them."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from embedder_export.body.rope import Rope
from embedder_export.errors import NotNativeError
from embedder_export.families.settings import Rule

# A setting that follows from others. `read_rope` or `rope_of` makes its value.
RopeSetting: TypeAlias = Annotated[Rope, Rule(lambda value: isinstance(value, Rope))]
# The same setting of models that may have a table of positions instead.
OptionalRope: TypeAlias = Annotated[Rope | None, Rule(lambda value: value is None or isinstance(value, Rope))]

# For "llama3" and "yarn", the longest text of the training. Other types ignore it.
_TRAINED = "original_max_position_embeddings"
_TURNS = ("low_freq_factor", "high_freq_factor")
_YARN_TURNS = ("beta_slow", "beta_fast")
_AMPLITUDES = ("attention_factor", "mscale", "mscale_all_dim")
_OF_YARN = (*_YARN_TURNS, *_AMPLITUDES, "truncate")
_SETTINGS = ("rope_type", "type", "rope_theta", "factor", "partial_rotary_factor", *_TURNS, *_OF_YARN, _TRAINED)
# The names of frequencies that change, besides "default". `body.rope` describes them.
_SCALINGS = ("linear", "ntk", "dynamic", "llama3", "yarn")


def read_rope(config: Mapping[str, Any], head_width: int, default_theta: float, positions: int) -> Rope:
    """Return the rotation that config.json describes.

    The settings lie in rope_parameters (transformers 5), or in rope_scaling and rope_theta (older versions).

    Args:
        config: the content of config.json.
        head_width: width of a head.
        default_theta: theta of configurations that have none.
        positions: the setting max_position_embeddings.

    Raises:
        NotNativeError: the equations do not honour a value.

    Example:
        >>> read_rope({"rope_theta": 160000.0}, 64, 10000.0, 8192).theta
        160000.0
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise NotNativeError(f"config.json has {given!r:.80} as rope_parameters")
    own = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if config.get(key) is not None}
    trained = config.get(_TRAINED)  # it goes before the one in rope_parameters
    last = {} if trained is None else {_TRAINED: trained}
    return rope_of({**own, **given, **last}, head_width, default_theta, positions)


def rope_of(settings: Mapping[str, Any], head_width: int, default_theta: float, positions: int) -> Rope:
    """Return the rotation of `settings`. `read_rope` describes the other arguments.

    Raises:
        NotNativeError: the equations do not honour a value.

    Example:
        >>> rope_of({"rope_type": "linear", "factor": 4.0}, 64, 10000.0, 8192).factor
        4.0
    """
    for key, value in settings.items():
        if key not in _SETTINGS and value is not None:
            raise NotNativeError(f"config.json has {value!r:.80} as {key} of its rotary positions")
    kind = settings.get("rope_type", settings.get("type")) or "default"
    if kind not in ("default", *_SCALINGS):
        raise NotNativeError(f"config.json has {kind!r:.80} as the type of its rotary positions")
    if settings.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise NotNativeError(f"config.json has {settings['partial_rotary_factor']!r:.80} as partial_rotary_factor")
    if head_width < 2 or head_width % 2 or (kind == "dynamic" and head_width < 4):
        raise NotNativeError(f"config.json has heads of width {head_width}, which cannot be rotated in pairs")
    theta = number(settings.get("rope_theta", default_theta), "rope_theta")
    factor = number(settings.get("factor"), "factor") if kind in _SCALINGS else 1.0
    rope = Rope(theta, head_width, scaling=kind, factor=factor)
    if kind in ("llama3", "yarn"):
        return _with_turns(rope, settings, positions)
    return replace(rope, trained_positions=positions) if kind == "dynamic" else rope


def _with_turns(rope: Rope, settings: Mapping[str, Any], positions: int) -> Rope:
    """Return `rope` with the settings of "llama3" or "yarn"."""
    is_yarn = rope.scaling == "yarn"
    # YaRN's own defaults stand for 0 and None.
    turns = (settings.get("beta_slow") or 1, settings.get("beta_fast") or 32) if is_yarn else map(settings.get, _TURNS)
    low, high = (number(value, name) for value, name in zip(turns, _YARN_TURNS if is_yarn else _TURNS, strict=True))
    trained, whole = settings.get(_TRAINED) or positions, settings.get("truncate", True)
    if (
        type(trained) is not int
        or trained < 1
        or low >= high
        or type(whole) is not bool
        or (is_yarn and rope.theta <= 1)
    ):
        raise NotNativeError(f"config.json has {dict(settings)!r:.120} as its rotary positions")
    rope = replace(rope, trained_positions=trained, low_turns=low, high_turns=high, whole_pairs=whole)
    return replace(rope, amplitude=_amplitude(rope.factor, settings)) if is_yarn else rope


def _amplitude(factor: float, settings: Mapping[str, Any]) -> float:
    """Return YaRN's factor of queries and keys: attention_factor, or 0.1 * log(factor) + 1.

    With mscale and mscale_all_dim it is a quotient, as DeepSeek-V2 has it (https://arxiv.org/abs/2405.04434).
    """
    for name in _AMPLITUDES:
        value = settings.get(name)
        if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
            raise NotNativeError(f"config.json has {value!r:.80} as {name}")
    given, upper, lower = (settings.get(name) for name in _AMPLITUDES)
    if given is not None:
        return float(given)
    if upper is None or lower is None:
        upper, lower = 1, 0
    return float((0.1 * upper * math.log(factor) + 1) / (0.1 * lower * math.log(factor) + 1))


def parameters_of_layers(parameters: object, scaling: object, kinds: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of the rotation of each kind of layers, for models with several kinds.

    transformers ignores two settings in them: `truncate`, and in rope_scaling `type`, the older name of rope_type.

    Args:
        parameters: the setting rope_parameters: the settings by the name of the kind.
        scaling: the setting rope_scaling. It goes before rope_parameters, for all kinds.
        kinds: the names of the kinds.

    Raises:
        NotNativeError: the settings have another form.

    Example:
        >>> parameters_of_layers(None, {"rope_type": "linear", "factor": 8.0}, ["full_attention"])
        {'full_attention': {'rope_type': 'linear', 'factor': 8.0}}
    """
    # Without rope_parameters, transformers sets rope_type before it reads rope_scaling.
    given = parameters or {kind: {"rope_type": "default"} for kind in kinds}
    if not isinstance(given, Mapping) or not given.keys() <= set(kinds):
        raise NotNativeError(f"config.json has {given!r:.80} as rope_parameters")
    found = {}
    for kind in kinds:
        own, changes = given.get(kind) or {}, scaling or {}
        if not isinstance(own, Mapping) or not isinstance(changes, Mapping):
            raise NotNativeError(f"config.json has {(own, changes)!r:.80} as rope_parameters and rope_scaling")
        merged = {**own, **changes}
        found[kind] = {key: value for key, value in merged.items() if key != "truncate"}
    return found


def number(value: object, name: str) -> float:
    """Return `value` as a float of 1 or more.

    Raises:
        NotNativeError: it is no such number.

    Example:
        >>> number(10000, "rope_theta")
        10000.0
    """
    if type(value) not in (int, float) or not 1 <= value < math.inf:  # type: ignore[operator]
        raise NotNativeError(f"config.json has {value!r:.80} as {name}")
    return float(value)  # type: ignore[arg-type]
