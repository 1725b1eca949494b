"""The settings of a tokenizer, from tokenizer_config.json and the files that older checkpoints have beside it."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import ADDITIONAL, EXTRA, Settings, TokenizerClass
from embedder_export.tokenizer.tokens import ROLES, additional_tokens, read_added_token, read_token

CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILE = "tokenizer.json"
ADDED_TOKENS_FILE = "added_tokens.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens_decoder"
# transformers' number for a tokenizer without a limit of tokens.
_NO_LIMIT = int(1e30)
# With these settings transformers reads other files, runs other code, or builds the tokenizer otherwise. It ignores
# every setting that is neither here nor read below.
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

    A special token in the settings is an AddedToken where the checkpoint says how it matches.

    Args:
        directory: the tokenizer's directory.
        config: the content of tokenizer_config.json.
        backend: the tokenizer of tokenizer.json, if there is that file.

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
    # transformers 4 has two faults here. A token with a role that is also additional may get the options of another
    # token. And it does not compare the texts of tokens that tokenizer_config.json holds as objects.
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
    """Return the limit of tokens that the settings give; 1e30 if they give none."""
    length = settings.get("model_max_length", settings.get("max_len"))
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise CheckpointError(f"it has {length!r:.80} as model_max_length")
    return _NO_LIMIT if length is None else length


def has_token_types(kind: TokenizerClass, settings: Settings) -> bool:
    """Return whether the model is given token types."""
    names = settings.get("model_input_names", ["token_type_ids"] if kind.has_token_types else [])
    if not isinstance(names, list):
        raise NotNativeError(f"it has {names!r:.80} as model_input_names")
    return "token_type_ids" in names


def side(settings: Settings, name: str, saved: dict[str, Any] | None) -> str:
    """Return the setting `name`: "left" or "right". `saved` is what tokenizer.json says about it."""
    value = settings.get(name, "right" if saved is None else saved["direction"])
    if value not in ("left", "right"):
        raise CheckpointError(f"it has {value!r:.80} as {name}")
    return str(value)
