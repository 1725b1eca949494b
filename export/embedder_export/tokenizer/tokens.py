"""Read special and added tokens from JSON, and add them to a tokenizer."""

from typing import Any

from tokenizers import AddedToken, Tokenizer

from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import ADDITIONAL, Settings, Token, TokenOptions

# The roles of special tokens. transformers adds the tokens in this order.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_TOKEN_OPTIONS = {"content", "single_word", "lstrip", "rstrip", "normalized", "special"}


def read_token(value: Any) -> Token:
    """Return the special token that a setting holds, as a text or as an object that says how the token matches.

    Raises:
        NotNativeError: the token is empty, or an option is missing or unknown.
        CheckpointError: the setting has another type. transformers fails on it too.

    Example:
        >>> read_token("[CLS]")
        '[CLS]'
    """
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return read_added_token({name: option for name, option in value.items() if name != "__type"})
    if not isinstance(value, str | AddedToken):
        raise CheckpointError(f"it has the special token {value!r:.80}")
    if not str(value):
        raise NotNativeError("it has an empty special token")
    return value


def read_added_token(options: Any) -> AddedToken:
    """Return the token with these options. The options come from JSON.

    Raises:
        NotNativeError: an option is missing or unknown.
        CheckpointError: an option has a wrong type. transformers fails on it too.

    Example:
        >>> read_added_token({"content": "[MASK]", "lstrip": True, "normalized": False}).content
        '[MASK]'
    """
    if not isinstance(options, dict) or not isinstance(options.get("content"), str):
        raise CheckpointError(f"it has the token {options!r:.80}")
    # Every library that writes tokens writes `normalized`. Its default depends on other things than these options.
    if not options["content"] or "normalized" not in options or not options.keys() <= _TOKEN_OPTIONS:
        raise NotNativeError(f"it has the token {options!r:.80}")
    if not all(isinstance(value, bool) for name, value in options.items() if name != "content"):
        raise CheckpointError(f"it has the token {options!r:.80}")
    return AddedToken(**options)


def additional_tokens(settings: Settings) -> list[Any]:
    """Return the special tokens without a role, as the settings hold them.

    Raises:
        CheckpointError: the setting is no list.

    Example:
        >>> additional_tokens({"additional_special_tokens": ["<image>"]})
        ['<image>']
    """
    tokens = settings.get(ADDITIONAL)
    if tokens is not None and not isinstance(tokens, list):
        raise CheckpointError(f"it has {tokens!r:.80} as {ADDITIONAL}")
    return tokens or []


def special_tokens(settings: Settings, options: TokenOptions) -> dict[str, Token]:
    """Return the special tokens by role. One token may have several roles.

    Args:
        settings: the settings.
        options: how the token of each role matches if the settings give only its text.

    Example:
        >>> special_tokens({"pad_token": "[PAD]"}, {})
        {'pad_token': '[PAD]'}
    """
    special = {role: settings[role] for role in ROLES if settings.get(role) is not None}
    return {
        role: AddedToken(token, **options[role]) if role in options and isinstance(token, str) else token
        for role, token in special.items()
    }


def all_special_tokens(special: dict[str, Token], additional: list[Token]) -> list[Token]:
    """Return the tokens with a role, and after them the additional tokens.

    Tokens with a role are listed once. An additional token may repeat: the tokenizer keeps the last one with the same
    text.

    Example:
        >>> all_special_tokens({"bos_token": "<s>", "cls_token": "<s>"}, ["<image>"])
        ['<s>', '<image>']
    """
    first: dict[str, Token] = {}
    for token in special.values():
        first.setdefault(str(token), token)
    return [*first.values(), *(token for token in additional if str(token) not in first)]


def add_tokens(tokenizer: Tokenizer, added: dict[int, AddedToken], special: list[Token]) -> None:
    """Add the tokens that the tokenizer lacks. The order gives them the same ids as in transformers.

    An AddedToken replaces a token with the same text. A plain text does not.

    Args:
        tokenizer: the tokenizer to change.
        added: the added tokens by id.
        special: the special tokens.
    """
    tokens = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    present = {str(token) for token in (*tokenizer.get_added_tokens_decoder().values(), *tokens)}
    tokens += [
        AddedToken(token, special=True) if isinstance(token, str) else token
        for token in special
        if not (isinstance(token, str) and token in present) and token not in tokens
    ]
    names = {str(token) for token in special}
    for token in tokens:
        token.special = token.special or str(token) in names
    tokenizer.add_tokens(tokens)
