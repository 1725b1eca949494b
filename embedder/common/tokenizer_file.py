"""Load a `tokenizer.json` that may come from a stranger."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedder.common.digests import FileState, check_once
from embedder.common.files import open_regular, read_at_most
from embedder.common.panics import panics_as_exceptions

# The largest file of a known model has 35 MB.
_MAX_BYTES = 200_000_000
# Stands for the checks of this module in the records of files that passed. Increase it when the checks change.
_CHECKS = "tokenizer-1"
# The limit of added tokens and of the tokens of a Unigram model. Those of known models are much shorter. For a token of
# a million characters, the library needs 20 seconds, or overflows the stack when it frees the model.
MAX_TOKEN_CHARACTERS = 256
# The limit of other strings. The longest patterns of known models have hundreds of characters.
_MAX_STRING_CHARACTERS = 4000
# The tokenizer's replacements may make a text at most this many times longer. Those of known models insert one or two
# characters.
_MAX_GROWTH = 1000
_CHARSMAP = "precompiled_charsmap"
_TRIE_SIZE_BYTES = 4


def load_tokenizer(path: Path, *, verify: bool = True) -> Any:
    """Return the `tokenizers.Tokenizer` of the file `path`. The dropout of a BPE model is switched off.

    Some fields can make the library end the process or take minutes. They are checked before the library reads the
    content, unless `verify` is False. The user's cache records each file that passed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a tokenizer.

    Example:
        >>> load_tokenizer(Path("tokenizer.json")).get_vocab_size()  # doctest: +SKIP
        30522
    """
    from tokenizers import Tokenizer

    with open_regular(path, _MAX_BYTES) as stream:
        state = FileState.of(stream.fileno())
        content = read_at_most(stream, _MAX_BYTES).decode("utf-8")
    if verify:
        check_once(path, state, _CHECKS, lambda: _check_content(content))
    try:
        with panics_as_exceptions():
            tokenizer = Tokenizer.from_str(content)
            if getattr(tokenizer.model, "dropout", None):  # for training: each call would give other tokens
                tokenizer.model.dropout = None
            return tokenizer
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error


def _check_content(content: str) -> None:
    try:
        tokenizer = json.loads(content, object_pairs_hook=_checked_object)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    if not isinstance(tokenizer, dict):
        return
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        _check_length("added token", token.get("content") if isinstance(token, dict) else None)
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        _check_part(part, tokenizer.get(part))
    model = tokenizer.get("model")
    # The vocabulary of a Unigram model. The other models have an object.
    pieces = model.get("vocab") if isinstance(model, dict) else None
    for piece in pieces if isinstance(pieces, list) else ():
        _check_length("token", piece[0] if isinstance(piece, list) and piece else None)


def _check_part(part: str, value: object) -> None:
    """Raise ValueError for a part of the tokenizer that makes texts too long to hold in memory."""
    growth = 1
    for item in _walk(value):
        if isinstance(item, str) and len(item) > _MAX_STRING_CHARACTERS:
            raise ValueError(
                f"its {part} has a string of {len(item):,} characters; {_MAX_STRING_CHARACTERS:,} are allowed"
            )
        content = item.get("content") if isinstance(item, dict) else None
        growth *= max(1, len(content)) if isinstance(content, str) else 1
        if growth > _MAX_GROWTH:
            raise ValueError(f"its {part} can make a text more than {_MAX_GROWTH:,} times longer")


def _walk(value: object) -> Iterator[object]:
    """Yield `value` and all that it holds, except charsmaps, which are long and are checked elsewhere."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, dict):
            waiting += [value for name, value in item.items() if name != _CHARSMAP]
        elif isinstance(item, list):
            waiting += item


def _check_length(kind: str, text: object) -> None:
    if isinstance(text, str) and len(text) > MAX_TOKEN_CHARACTERS:
        raise ValueError(
            f"its {kind} {text[:20]!r}... has {len(text):,} characters; the limit is {MAX_TOKEN_CHARACTERS}"
        )


def _checked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the dict of a JSON object. Raises ValueError for a name that is there twice: the library reads both."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r:.80} twice in one object")
    if _CHARSMAP in found:
        _check_charsmap(found[_CHARSMAP])
    return found


def _check_charsmap(encoded: object) -> None:
    """Raise ValueError if a charsmap says that its trie is longer than it is: the library allocates what it says."""
    if not isinstance(encoded, str):  # such as a token of that name in a vocabulary
        return
    import base64

    try:
        charsmap = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise ValueError(f"its charsmap is not base64: {error}") from error
    size = int.from_bytes(charsmap[:_TRIE_SIZE_BYTES], "little")
    if size > max(0, len(charsmap) - _TRIE_SIZE_BYTES):
        raise ValueError(f"its charsmap of {len(charsmap):,} bytes says that it has a trie of {size:,} bytes")
