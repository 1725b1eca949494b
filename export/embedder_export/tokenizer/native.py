"""A checkpoint's tokenizer as transformers' AutoTokenizer sets it up, read by the tokenizers library alone.

The steps and their order are those of transformers 4.57, for which token is added when decides its id. What would
change the tokenizer in a way that is not known here is refused, so that transformers itself can be asked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes import (
    ADDITIONAL,
    CLASS_OF_MODEL,
    CLASSES,
    EXTRA,
    TOKENIZERS_BACKEND,
    Settings,
    Token,
    TokenizerClass,
    flag,
)

# In the order in which they are added.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_ADDED = "added_tokens_decoder"
_TOKEN_OPTIONS = {"single_word", "lstrip", "rstrip", "normalized", "special"}
_UNLIMITED = int(1e30)
# These have transformers read other files, run other code, or build the tokenizer otherwise. Of settings that are
# neither here nor read below it takes no notice.
_REFUSED = (
    "__slow_tokenizer",
    "auto_map",
    "fast_tokenizer_files",
    "fix_mistral_regex",
    "from_slow",
    "gguf_file",
    "init_inputs",
    "merges_file",
    "tokenizer_file",
    "tokenizer_object",
    "vocab_file",
)


@dataclass(frozen=True)
class EffectiveTokenizer:
    """A tokenizer with all settings of its checkpoint applied, and those that it has no place for."""

    backend: Tokenizer
    model_max_length: float
    pad_id: int | None
    special_ids: tuple[int, ...]
    has_token_types: bool = False
    truncation_side: str = "right"
    splits_special_tokens: bool = False


def read_natively(directory: Path) -> EffectiveTokenizer:
    """The tokenizer in `directory`, if it is of a known class and has nothing unusual.

    Raises:
        NotNativeError: it is of another, or has.
        CheckpointError: a file is damaged; but what is amiss in tokenizer.json the library says in errors of its own.
    """
    config = read_json(directory / "tokenizer_config.json", dict, default={})
    kind = _find_class(directory, config)
    file = directory / "tokenizer.json"
    backend = Tokenizer.from_file(str(file)) if file.is_file() else None
    if kind is TOKENIZERS_BACKEND or isinstance(config.get(EXTRA), list):
        config = _as_of_old(directory, config, backend)
    settings, added = _read_settings(directory, config, backend)
    settings = _saved_padding(backend) | kind.tokens | kind.complete(settings)
    special = _special_tokens(settings, kind.bare_options if backend is None else kind.options)
    if backend is None:
        backend = _build(directory, kind, settings, special, added)
    tokens = _all_special(special, _additional(settings))
    _add_tokens(backend, added, tokens)
    _set_prefix_space(backend, settings.get("add_prefix_space", False))
    kind.adapt(backend, settings)
    _side(settings, "padding_side", backend.padding)
    return EffectiveTokenizer(
        backend,
        _max_length(settings),
        backend.token_to_id(str(special["pad_token"])) if "pad_token" in special else None,
        tuple(sorted(backend.token_to_id(str(token)) for token in tokens)),
        _has_token_types(kind, settings),
        _side(settings, "truncation_side", backend.truncation),
        flag(settings, "split_special_tokens", False) is True,
    )


def _find_class(directory: Path, config: Settings) -> TokenizerClass:
    name = config.get("tokenizer_class")
    if name is None:
        model = read_json(directory / "config.json", dict)
        usual = CLASS_OF_MODEL.get(str(model.get("model_type")))
        if usual is None or "auto_map" in model or "configuration_files" in model:
            raise NotNativeError("its class is not named, and does not follow from the type of the model")
        name = usual if model.get("tokenizer_class") is None else model["tokenizer_class"]
    kind = CLASSES.get(str(name).removesuffix("Fast"))
    if kind is None:
        raise NotNativeError(f"its class {name!r:.80} is not known")
    return kind


def _as_of_old(directory: Path, config: Settings, backend: Tokenizer | None) -> Settings:
    """`config`, which transformers 5 alone can read, as transformers 4 would write it.

    Raises:
        NotNativeError: it has, or stands beside, what transformers 5 does not write and reads in its own way.
    """
    if backend is None:
        raise NotNativeError("it has no tokenizer.json")
    if isinstance(config.get(EXTRA), list):
        if config.get(ADDITIONAL):
            raise NotNativeError(f"it has both {ADDITIONAL} and {EXTRA}")
        # Beside this list transformers 5 has T5 make no sentinels.
        config = config | {ADDITIONAL: config[EXTRA], EXTRA: {}, "extra_ids": 0}
    _check_form(directory, config, backend)
    return config


def _check_form(directory: Path, config: Settings, backend: Tokenizer) -> None:
    for name, value in config.items():
        if name.endswith("_token") and name not in _SPECIAL and isinstance(value, str):
            raise NotNativeError(f"it has the setting {name}")
    tokens = [config[name] for name in _SPECIAL if config.get(name) is not None] + _additional(config)
    plain = all(isinstance(token, str) for token in tokens)
    if not plain or _ADDED in config or (directory / "added_tokens.json").exists():
        raise NotNativeError("it is transformers 5's, but for tokens in the form of transformers 4")
    # Where it wrote over an older checkpoint this file may be left, and says nothing new as long as it repeats.
    left = read_json(directory / "special_tokens_map.json", dict, default={})
    names = {role: token.get("content") if isinstance(token, dict) else token for role, token in left.items()}
    saved = {str(token) for token in backend.get_added_tokens_decoder().values()}
    if names and not ({*tokens} <= saved and names.items() <= config.items()):
        raise NotNativeError("it is transformers 5's, but for its special_tokens_map.json")


def _read_settings(
    directory: Path, config: Settings, backend: Tokenizer | None
) -> tuple[Settings, dict[int, AddedToken]]:
    """The settings, special tokens among them with what options the checkpoint has of them; and added tokens by id."""
    if _ADDED in config:
        settings, added = config, _read_added(config[_ADDED])
        known = added
    else:  # older checkpoints have these three files instead
        settings = _with_special_tokens_map(directory, config)
        known = {} if backend is None else backend.get_added_tokens_decoder()
        added = _read_legacy_added(directory, settings) | known
    _check_settings(settings)
    optioned = {str(token): token for token in known.values()}
    special = {name: _token(settings[name]) for name in _SPECIAL if settings.get(name) is not None}
    special = {name: optioned.get(str(token), token) for name, token in special.items()}
    additional = {ADDITIONAL: [_token(token) for token in _additional(settings)]} if settings.get(ADDITIONAL) else {}
    return settings | special | additional, added


def _check_settings(settings: Settings) -> None:
    for name in _REFUSED:
        if name in settings:
            raise NotNativeError(f"it has the setting {name}")
    if settings.get(EXTRA, {}) != {}:
        raise NotNativeError(f"it has {EXTRA} that are not a list")


def _read_added(tokens: Any) -> dict[int, AddedToken]:
    if not isinstance(tokens, dict) or not all(key.isdecimal() for key in tokens):
        raise NotNativeError(f"it has {tokens!r:.80} as {_ADDED}")
    return {int(key): _added_token(options) for key, options in tokens.items()}


def _with_special_tokens_map(directory: Path, settings: Settings) -> Settings:
    for name, value in read_json(directory / "special_tokens_map.json", dict, default={}).items():
        if isinstance(value, dict):
            value = _added_token(value | {"special": True})
        elif name == ADDITIONAL and value is not None:
            value = _merged(_additional(settings), _additional({ADDITIONAL: value}))
        settings = settings | {name: value}
    return settings


def _merged(tokens: list[Any], others: list[Any]) -> list[Any]:
    merged = list(tokens)
    for other in others:
        token = _added_token(other | {"special": True}) if isinstance(other, dict) else other
        if token not in merged:
            merged.append(token)
    return merged


def _read_legacy_added(directory: Path, settings: Settings) -> dict[int, AddedToken]:
    added = read_json(directory / "added_tokens.json", dict, default={})
    roles = [settings[name] for name in _SPECIAL if settings.get(name) is not None]
    special, additional = {str(token) for token in roles}, {str(token) for token in _additional(settings)}
    # By a slip of transformers, a token that is in both sets may take on the options of another; nor does it see the
    # names of those that tokenizer_config.json has as objects.
    slips = special & additional or any(isinstance(token, dict) for token in roles)
    if not all(type(at) is int for at in added.values()) or (added and slips):
        raise NotNativeError("it has an unusual added_tokens.json")
    special |= additional
    return {
        at: AddedToken(token, normalized=token not in special, special=token in special) for token, at in added.items()
    }


def _additional(settings: Settings) -> list[Any]:
    tokens = settings.get(ADDITIONAL)
    if tokens is not None and not isinstance(tokens, list):
        raise NotNativeError(f"it has {tokens!r:.80} as {ADDITIONAL}")
    return tokens or []


def _token(value: Any) -> Token:
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return _added_token({name: option for name, option in value.items() if name != "__type"})
    if not isinstance(value, str | AddedToken) or not str(value):
        raise NotNativeError(f"it has the special token {value!r:.80}")
    return value


def _added_token(options: Any) -> AddedToken:
    # All that libraries have written says whether the token is normalized. The default depends on more than this.
    known = isinstance(options, dict) and {"content", "normalized"} <= options.keys()
    if not known or not all(_is_option(name, value) for name, value in options.items()):
        raise NotNativeError(f"it has the token {options!r:.80}")
    return AddedToken(**options)


def _is_option(name: str, value: Any) -> bool:
    if name == "content":
        return isinstance(value, str) and value != ""
    return name in _TOKEN_OPTIONS and isinstance(value, bool)


def _saved_padding(backend: Tokenizer | None) -> Settings:
    padding = None if backend is None else backend.padding
    return {} if padding is None else {"pad_token": padding["pad_token"]}


def _special_tokens(settings: Settings, options: dict[str, dict[str, bool]]) -> dict[str, Token]:
    """The special tokens by their roles, several of which one may have."""
    special = {name: settings[name] for name in _SPECIAL if settings.get(name) is not None}
    return {
        name: AddedToken(token, **options[name]) if name in options and isinstance(token, str) else token
        for name, token in special.items()
    }


def _all_special(special: dict[str, Token], additional: list[Token]) -> list[Token]:
    """The special tokens of all roles, each name once. The additional ones may repeat: the last of a name counts."""
    first: dict[str, Token] = {}
    for token in special.values():
        first.setdefault(str(token), token)
    return [*first.values(), *(token for token in additional if str(token) not in first)]


def _build(
    directory: Path, kind: TokenizerClass, settings: Settings, special: dict[str, Token], added: dict[int, AddedToken]
) -> Tokenizer:
    if kind.build is None:
        raise NotNativeError("it has no tokenizer.json")
    try:
        backend = kind.build(directory, settings, special)
    except FileNotFoundError as error:
        raise NotNativeError("it has neither tokenizer.json nor a plain vocabulary") from error
    # Added tokens may move those that frame a text; and either of these files transformers takes for the vocabulary.
    outside = [token for at, token in added.items() if backend.token_to_id(str(token)) != at]
    others = [file for file in directory.iterdir() if "tokenizer.model" in file.name or "tekken.json" in file.name]
    if outside or others:
        raise NotNativeError("it has no tokenizer.json, and more than a vocabulary")
    return backend


def _add_tokens(backend: Tokenizer, added: dict[int, AddedToken], special: list[Token]) -> None:
    """Add what is missing. Of a token that is there, one with other options replaces it; a mere name does not."""
    tokens = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    present = {str(token) for token in (*backend.get_added_tokens_decoder().values(), *tokens)}
    tokens += [
        AddedToken(token, special=True) if isinstance(token, str) else token
        for token in special
        if not (isinstance(token, str) and token in present) and token not in tokens
    ]
    names = {str(token) for token in special}
    for token in tokens:
        token.special = token.special or str(token) in names
    backend.add_tokens(tokens)


def _set_prefix_space(backend: Tokenizer, prefix_space: Any) -> None:
    pre_tokenizer = backend.pre_tokenizer
    if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) and isinstance(prefix_space, bool):
        pre_tokenizer.add_prefix_space = prefix_space
        backend.pre_tokenizer = pre_tokenizer


def _max_length(settings: Settings) -> float:
    length = settings.get("model_max_length", settings.get("max_len"))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise NotNativeError(f"it has {length!r:.80} as model_max_length")
    return _UNLIMITED if length is None else length


def _has_token_types(kind: TokenizerClass, settings: Settings) -> bool:
    names = settings.get("model_input_names", ["token_type_ids"] if kind.has_token_types else [])
    if not isinstance(names, list):
        raise NotNativeError(f"it has {names!r:.80} as model_input_names")
    return "token_type_ids" in names


def _side(settings: Settings, name: str, saved: dict[str, Any] | None) -> str:
    side = settings.get(name, "right" if saved is None else saved["direction"])
    if side not in ("left", "right"):
        raise NotNativeError(f"it has {side!r:.80} as {name}")
    return str(side)
