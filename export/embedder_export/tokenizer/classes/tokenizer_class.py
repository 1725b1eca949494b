"""Describe a tokenizer class, and hold the functions that several classes share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer

from embedder_export.errors import CheckpointError, NotNativeError

# A tokenizer's settings by name, as in tokenizer_config.json.
Settings: TypeAlias = dict[str, Any]
# A special token: an AddedToken if the checkpoint says how it matches, otherwise its text. transformers treats an
# AddedToken and its text as two different tokens.
Token: TypeAlias = str | AddedToken
# How a special token matches, by its role ("mask_token"): keyword options of AddedToken.
TokenOptions: TypeAlias = dict[str, dict[str, bool]]

# The list of special tokens without a role has the first name in transformers 4, and the second in transformers 5.
ADDITIONAL, EXTRA = "additional_special_tokens", "extra_special_tokens"
# The option that a special token takes the space before it.
TAKES_SPACE = {"lstrip": True}


def _unchanged(settings: Settings) -> Settings:
    return settings


def _nothing(tokenizer: Tokenizer, settings: Settings) -> None:
    pass


@dataclass(frozen=True)
class TokenizerClass:
    """One of transformers' tokenizer classes, with everything that it adds to the checkpoint's files.

    Attributes:
        special_tokens: the default special tokens by role, and other default settings.
        token_options: how a special token matches if the checkpoint gives only its text.
        bare_token_options: the same for a checkpoint without tokenizer.json.
        has_token_types: whether the class gives token types to the model by default, in transformers 4.
        has_pair_types: the same in transformers 5. It counts for pairs; the types of a single text are 0.
        splits_white_space: whether transformers 5 splits texts at white space first. It counts for pairs.
        padding_side: the side on which the class pads texts, if no setting says it.
        vocabulary_files: the vocabulary files of a checkpoint without tokenizer.json.
        ignores_tokenizer_json: whether transformers reads the vocabulary files even if there is a tokenizer.json.
        complete: adds the settings of the class, and returns all settings.
        build: builds a tokenizer from the vocabulary files. None if only transformers can build it.
        adapt: changes a tokenizer according to the settings.
    """

    special_tokens: Settings = field(default_factory=dict)
    token_options: TokenOptions = field(default_factory=dict)
    bare_token_options: TokenOptions = field(default_factory=dict)
    has_token_types: bool = False
    has_pair_types: bool = False
    splits_white_space: bool = False
    padding_side: str = "right"
    vocabulary_files: tuple[str, ...] = ()
    ignores_tokenizer_json: bool = False
    complete: Callable[[Settings], Settings] = _unchanged
    build: Callable[[Path, Settings, dict[str, Token]], Tokenizer] | None = None
    adapt: Callable[[Tokenizer, Settings], None] = _nothing


def flag(settings: Settings, name: str, default: bool | None) -> bool | None:
    """Return the setting `name`: True, False, or None if None is the default.

    Raises:
        CheckpointError: the setting has another value. transformers fails on it too.

    Example:
        >>> flag({"do_lower_case": False}, "do_lower_case", True)
        False
    """
    value = settings.get(name, default)
    if not isinstance(value, bool) and value is not default:
        raise CheckpointError(f"it has {value!r:.80} as {name}")
    return value


def vocabulary_entry(vocabulary: dict[str, int], special: dict[str, Token], role: str) -> tuple[str, int]:
    """Return the special token of `role` and its id.

    Raises:
        NotNativeError: the vocabulary lacks the token.

    Example:
        >>> vocabulary_entry({"[CLS]": 101}, {"cls_token": "[CLS]"}, "cls_token")
        ('[CLS]', 101)
    """
    token = str(special.get(role))
    if token not in vocabulary:
        raise NotNativeError(f"its vocabulary has no {role}")
    return token, vocabulary[token]
