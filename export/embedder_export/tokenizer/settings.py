"""Read a tokenizer's settings, from tokenizer_config.json and the further files of older checkpoints."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import ADDITIONAL, EXTRA, Settings
from embedder_export.tokenizer.tokens import ROLES, additional_tokens, read_added_token, read_token

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
ADDED_TOKENS_FILE = "added_tokens.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens_decoder"
# transformers' number for a tokenizer without a limit of tokens.
_NO_LIMIT = int(1e30)
# These settings make transformers read other files, run other code, or build the tokenizer in another way. transformers
# ignores every setting that is neither in this list nor read below.
_UNKNOWN_SETTINGS = (
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


def read_settings(
    directory: Path, config: Settings, backend: Tokenizer | None
) -> tuple[Settings, dict[int, AddedToken]]:
    """Return the settings, and the added tokens by id.

    A special token in the settings is an AddedToken if the checkpoint says how the token matches. Otherwise it is a
    str.

    Args:
        directory: the tokenizer's directory.
        config: the content of tokenizer_config.json.
        backend: the tokenizer from tokenizer.json, or None if there is no such file.

    Raises:
        NotNativeError: a setting is not known here.
        CheckpointError: a file is damaged.
    """
    if ADDED_TOKENS in config:
        settings, added = config, _read_added_tokens(config[ADDED_TOKENS])
        known = added
    else:  # an older checkpoint has other files instead
        settings = _with_special_tokens_file(directory, config)
        known = {} if backend is None else backend.get_added_tokens_decoder()
        added = _read_added_tokens_file(directory, settings) | known
    _check_known(settings)
    with_options = {str(token): token for token in known.values()}
    special = {role: read_token(settings[role]) for role in ROLES if settings.get(role) is not None}
    special = {role: with_options.get(str(token), token) for role, token in special.items()}
    additional = [read_token(token) for token in additional_tokens(settings)]
    return settings | special | ({ADDITIONAL: additional} if additional else {}), added


def _check_known(settings: Settings) -> None:
    for name in _UNKNOWN_SETTINGS:
        if name in settings:
            raise NotNativeError(f"it has the setting {name}")
    if settings.get(EXTRA):
        raise NotNativeError(f"it has {EXTRA} that are not a list")


def _read_added_tokens(tokens: Any) -> dict[int, AddedToken]:
    if not isinstance(tokens, dict) or not all(key.isdecimal() for key in tokens):
        raise CheckpointError(f"it has {tokens!r:.80} as {ADDED_TOKENS}")
    return {int(key): read_added_token(options) for key, options in tokens.items()}


def _with_special_tokens_file(directory: Path, settings: Settings) -> Settings:
    for name, value in read_json(directory / SPECIAL_TOKENS_FILE, dict, default={}).items():
        if isinstance(value, dict):
            value = read_added_token(value | {"special": True})
        elif name == ADDITIONAL and value is not None:
            value = _merged(additional_tokens(settings), additional_tokens({ADDITIONAL: value}))
        settings = settings | {name: value}
    return settings


def _merged(tokens: list[Any], others: list[Any]) -> list[Any]:
    merged = list(tokens)
    for other in others:
        token = read_added_token(other | {"special": True}) if isinstance(other, dict) else other
        if token not in merged:
            merged.append(token)
    return merged


def _read_added_tokens_file(directory: Path, settings: Settings) -> dict[int, AddedToken]:
    added = read_json(directory / ADDED_TOKENS_FILE, dict, default={})
    roles = [settings[role] for role in ROLES if settings.get(role) is not None]
    special, additional = {str(token) for token in roles}, {str(token) for token in additional_tokens(settings)}
    # transformers 4 has two faults here. If a token has a role and is also additional, it may get another token's
    # options. If tokenizer_config.json holds tokens as objects, it does not compare their texts.
    has_fault = bool(special & additional) or any(isinstance(token, dict) for token in roles)
    if not all(type(token_id) is int for token_id in added.values()):
        raise CheckpointError(f"it has ids that are not whole numbers in {ADDED_TOKENS_FILE}")
    if added and has_fault:
        raise NotNativeError(f"it has an unusual {ADDED_TOKENS_FILE}")
    special |= additional
    return {
        token_id: AddedToken(token, normalized=token not in special, special=token in special)
        for token, token_id in added.items()
    }


def model_max_length(settings: Settings) -> float:
    """Return the most tokens that a text may have by the settings. 1e30 stands for no limit.

    Raises:
        CheckpointError: the setting is no number.

    Example:
        >>> model_max_length({"model_max_length": 512})
        512
    """
    length = settings.get("model_max_length", settings.get("max_len"))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise CheckpointError(f"it has {length!r:.80} as model_max_length")
    return _NO_LIMIT if length is None else length


def gives_mask(settings: Settings) -> bool:
    """Return whether the tokenizer gives an attention mask to the model. All classes do, unless a setting says no.

    Raises:
        NotNativeError: the setting model_input_names is no list.

    Example:
        >>> gives_mask({"model_input_names": ["input_ids"]})
        False
    """
    return "attention_mask" in _input_names(settings, ["attention_mask"])


def gives_types(settings: Settings, default: bool) -> bool:
    """Return whether the tokenizer gives token types to the model.

    Args:
        settings: the tokenizer's settings.
        default: what its class does without the setting model_input_names.

    Raises:
        NotNativeError: the setting model_input_names is no list.

    Example:
        >>> gives_types({"model_input_names": ["input_ids", "token_type_ids"]}, default=False)
        True
    """
    return "token_type_ids" in _input_names(settings, ["token_type_ids"] if default else [])


def _input_names(settings: Settings, default: list[str]) -> list[Any]:
    names = settings.get("model_input_names", default)
    if not isinstance(names, list):
        raise NotNativeError(f"it has {names!r:.80} as model_input_names")
    return names


def side(settings: Settings, name: str, saved: dict[str, Any] | None, default: str = "right") -> str:
    """Return the side that the setting `name` gives, "left" or "right".

    Args:
        settings: the settings.
        name: "padding_side" or "truncation_side".
        saved: the padding or truncation of tokenizer.json, or None. It counts if the setting is missing.
        default: the side if there is neither.

    Raises:
        CheckpointError: the setting has another value.

    Example:
        >>> side({}, "padding_side", None)
        'right'
    """
    value = settings.get(name, default if saved is None else saved["direction"])
    if value not in ("left", "right"):
        raise CheckpointError(f"it has {value!r:.80} as {name}")
    return str(value)
