"""Rewrite the settings of a tokenizer that transformers 5 saved, as transformers 4 would write them.

Both versions write the same tokenizer.json. Version 5 writes other settings: a class that version 4 lacks, a list of
special tokens where version 4 expects an object, and named special tokens ("image_token").
"""

from pathlib import Path

from tokenizers import Tokenizer

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes import CLASS_OF_5
from embedder_export.tokenizer.classes.tokenizer_class import ADDITIONAL, EXTRA, Settings
from embedder_export.tokenizer.settings import ADDED_TOKENS, ADDED_TOKENS_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE
from embedder_export.tokenizer.tokens import ROLES, additional_tokens

_NAMED = "model_specific_special_tokens"


def needs_version_5(directory: Path) -> bool:
    """Return whether the tokenizer in `directory` needs transformers 5, because transformers 4 fails on it.

    Raises:
        CheckpointError: a file is damaged.

    Example:
        >>> needs_version_5(Path("checkpoints/all-MiniLM-L6-v2"))  # doctest: +SKIP
        False
    """
    config = read_json(directory / CONFIG_FILE, dict, default={})
    name = config.get("tokenizer_class")
    if name is None:
        name = read_json(directory / "config.json", dict, default={}).get("tokenizer_class")
    return name == CLASS_OF_5 or not isinstance(config.get(EXTRA, {}), dict)


def is_from_version_5(name: str, config: Settings) -> bool:
    """Return whether a tokenizer of the class `name` has settings that only transformers 5 writes.

    Example:
        >>> is_from_version_5("BertTokenizer", {"extra_special_tokens": []})
        True
    """
    return name == CLASS_OF_5 or isinstance(config.get(EXTRA), list) or _NAMED in config


def as_version_4(directory: Path, config: Settings, backend: Tokenizer | None) -> Settings:
    """Return `config` as transformers 4 would write it.

    Raises:
        NotNativeError: `config` has a setting that transformers 5 reads but never writes.
    """
    if backend is None:
        raise NotNativeError("it has no tokenizer.json")
    if config.get(ADDITIONAL) and config.get(EXTRA, {}) != {}:
        raise NotNativeError(f"it has both {ADDITIONAL} and {EXTRA}")
    named = _named_tokens(config)
    config = {name: value for name, value in config.items() if name not in named and name != _NAMED}
    if isinstance(config.get(EXTRA), list):
        # If there is such a list, transformers 5 adds no sentinels to a T5.
        config = config | {ADDITIONAL: config[EXTRA], "extra_ids": 0}
    if named:
        # transformers 5 adds the named tokens after those with a role, and before the others.
        config = config | {ADDITIONAL: [*named.values(), *additional_tokens(config)]}
    _check_form(directory, config, backend)
    return config | {EXTRA: {}}


def with_list_of_version_4(config: Settings) -> Settings:
    """Return the settings of a class that reads SentencePiece files, with version 4's list of special tokens.

    Of these settings, version 5 changes nothing else.

    Raises:
        NotNativeError: `config` has special tokens with a name of their own.

    Example:
        >>> with_list_of_version_4({"extra_special_tokens": ["<image>"]})["additional_special_tokens"]
        ['<image>']
    """
    if _NAMED in config:
        raise NotNativeError(f"it has {_NAMED}")
    if not isinstance(config.get(EXTRA), list):
        return config
    return config | {ADDITIONAL: [*additional_tokens(config), *config[EXTRA]], EXTRA: {}}


def _named_tokens(config: Settings) -> Settings:
    """Return the special tokens that have a name of their own, by name."""
    named = {
        name: value
        for name, value in config.items()
        if name.endswith("_token") and name not in ROLES and isinstance(value, str)
    }
    if isinstance(config.get(EXTRA), dict):
        named |= config[EXTRA]
    saved = config.get(_NAMED) or {}
    if not isinstance(saved, dict):
        raise NotNativeError(f"it has {saved!r:.80} as {_NAMED}")
    return named or saved


def _check_form(directory: Path, config: Settings, backend: Tokenizer) -> None:
    tokens = [config[role] for role in ROLES if config.get(role) is not None] + additional_tokens(config)
    plain = all(isinstance(token, str) for token in tokens)
    if not plain or ADDED_TOKENS in config or (directory / ADDED_TOKENS_FILE).exists():
        raise NotNativeError("it is from transformers 5, but has tokens in the form of transformers 4")
    # If transformers 5 overwrites an older checkpoint, it leaves this file there. The file may only repeat other
    # settings.
    left = read_json(directory / SPECIAL_TOKENS_FILE, dict, default={})
    names = {role: token.get("content") if isinstance(token, dict) else token for role, token in left.items()}
    saved = {str(token) for token in backend.get_added_tokens_decoder().values()}
    if names and not ({*tokens} <= saved and names.items() <= config.items()):
        raise NotNativeError("it is from transformers 5, but its special_tokens_map.json contradicts the settings")
