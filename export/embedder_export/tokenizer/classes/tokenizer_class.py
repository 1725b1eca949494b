"""What a tokenizer class is made of, and pieces that several classes share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken, Tokenizer

from embedder_export.errors import CheckpointError, NotNativeError

Settings: TypeAlias = dict[str, Any]
# A special token is an AddedToken if the checkpoint says how it matches, else its text. transformers compares the two
# as different tokens.
Token: TypeAlias = str | AddedToken
# How a special token matches, by its role ("mask_token"): keyword options of AddedToken.
TokenOptions: TypeAlias = dict[str, dict[str, bool]]

# The names of one list of special tokens in transformers 4 and in transformers 5.
ADDITIONAL, EXTRA = "additional_special_tokens", "extra_special_tokens"
# A special token takes the space before it.
TAKES_SPACE = {"lstrip": True}


def _unchanged(settings: Settings) -> Settings:
    return settings


def _nothing(tokenizer: Tokenizer, settings: Settings) -> None:
    pass


@dataclass(frozen=True)
class TokenizerClass:
    """One of transformers' tokenizer classes: what it adds to the checkpoint's files.

    special_tokens: the default special tokens by role, and other defaults.
    token_options: how a special token matches if the checkpoint gives only its text.
    bare_token_options: the same for a checkpoint without tokenizer.json.
    has_token_types: whether the class gives token types to the model by default.
    vocabulary_files: the files with the vocabulary of a checkpoint without tokenizer.json.
    complete: returns the settings with what the class adds to them.
    build: makes a tokenizer from the vocabulary files. None: only transformers can.
    adapt: changes a tokenizer as the settings say.
    """

    special_tokens: Settings = field(default_factory=dict)
    token_options: TokenOptions = field(default_factory=dict)
    bare_token_options: TokenOptions = field(default_factory=dict)
    has_token_types: bool = False
    vocabulary_files: tuple[str, ...] = ()
    complete: Callable[[Settings], Settings] = _unchanged
    build: Callable[[Path, Settings, dict[str, Token]], Tokenizer] | None = None
    adapt: Callable[[Tokenizer, Settings], None] = _nothing


def flag(settings: Settings, name: str, default: bool | None) -> bool | None:
    """Return the setting `name`: True, False or, if that is the default, None.

    Raises:
        CheckpointError: it is something else; transformers fails on it too.
    """
    value = settings.get(name, default)
    if not isinstance(value, bool) and value is not default:
        raise CheckpointError(f"it has {value!r:.80} as {name}")
    return value


def vocabulary_entry(vocabulary: dict[str, int], special: dict[str, Token], role: str) -> tuple[str, int]:
    """Return the special token of `role` and its id.

    Raises:
        NotNativeError: the vocabulary lacks it.
    """
    token = str(special.get(role))
    if token not in vocabulary:
        raise NotNativeError(f"its vocabulary has no {role}")
    return token, vocabulary[token]
