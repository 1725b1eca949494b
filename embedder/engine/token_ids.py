"""Check token ids that a caller made with the model's tokenizer, and tokenised texts that come back from a caller."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import shown
from embedder.common.containers import is_mapping
from embedder.engine.frame import Frame
from embedder.engine.tokenizer import TextTokenizer
from embedder.errors import InputError
from embedder.inputs import TokenizedText, type_name

_HINT = (
    "Token ids of other tokenizers, such as tiktoken, give wrong vectors. Send the texts as strings, or make the ids "
    "with this model's tokenizer, special tokens included"
)
# The methods that make a TokenizedText, by the unit of the tokenizer.
_MAKERS = {"text": "tokenize_texts or from_token_ids", "pair": "tokenize_pairs"}


def read_token_ids(tokenizer: TextTokenizer, token_ids: Any, *, typed: bool) -> list[TokenizedText]:
    """Return the checked token ids of each text.

    Args:
        tokenizer: the model's tokenizer.
        token_ids: for each text, its token ids, with the special tokens of the tokenizer.
        typed: whether the graph takes token type ids.

    Raises:
        InputError: an id is no whole number, or the vocabulary does not have it; or a text has more tokens than the
            model reads, or not the special tokens at its start and its end. The message names the text.

    Example:
        >>> read_token_ids(tokenizer, [[101, 7592, 102]], typed=False)[0].ids  # doctest: +SKIP
        array([ 101, 7592,  102])
    """
    if isinstance(token_ids, str | bytes) or is_mapping(token_ids) or not isinstance(token_ids, Iterable):
        raise InputError(f"token_ids should be lists of whole numbers, not {type_name(token_ids)}")
    frame = tokenizer.frame()
    texts = []
    for index, ids in enumerate(token_ids):
        numbers = _numbers(ids, f"token_ids[{index}]")
        _check_known(numbers, tokenizer, f"token_ids[{index}]")
        _check_frame(numbers, frame, tokenizer, f"token_ids[{index}]")
        texts.append(TokenizedText(numbers, _type_ids(len(numbers), frame) if typed else None))
    return texts


def check_texts(tokenizer: TextTokenizer, texts: Any, *, typed: bool) -> None:
    """Check a batch of tokenised texts or pairs.

    Args:
        tokenizer: the model's tokenizer.
        texts: the texts or pairs.
        typed: whether the graph takes token type ids.

    Raises:
        InputError: `texts` is no list; a text is no TokenizedText; or it has token ids, a length or token type ids that
            no text of this model has, because another model has made it. The message names the text.

    Example:
        >>> check_texts(tokenizer, [TokenizedText(np.int64([101, 7592, 102]))], typed=False)  # doctest: +SKIP
    """
    names, maker = f"{tokenizer.unit}s", _MAKERS[tokenizer.unit]
    if not isinstance(texts, Sequence) or isinstance(texts, str | bytes):
        raise InputError(f"{names} should be a list of TokenizedText, not {type_name(texts)}")
    hint = f"Take the {names} that {maker} of this model has returned"
    for index, text in enumerate(texts):
        name = f"{names}[{index}]"
        if not isinstance(text, TokenizedText):
            raise InputError(f"{name} should be a TokenizedText, not {type_name(text)}. {hint}")
        types, limit = text.type_ids, tokenizer.max_seq_length
        if not _is_row(text.ids) or not (types is None or (_is_row(types) and len(types) == len(text.ids))):
            raise InputError(f"the ids and type_ids of {name} should be arrays of int64 (tokens,)")
        if len(text.ids) > limit:
            raise InputError(f"{name} has {len(text):,} tokens, and the model reads {limit:,}. {hint}")
        if (types is not None) != typed:
            unneeded = f"token type ids, which no {tokenizer.unit} has"
            problem = "no token type ids, and this model needs them" if typed else unneeded
            raise InputError(f"{name} has {problem}. {hint}")
    if sum(map(len, texts)):
        ids = np.concatenate([text.ids for text in texts])
        for extreme in (int(ids.min()), int(ids.max())):
            if tokenizer.token_of(extreme) is None:
                index = next(index for index, text in enumerate(texts) if extreme in text.ids)
                raise InputError(f"{names}[{index}] has {extreme}, which is no token id of this model. {hint}")


def _is_row(ids: object) -> bool:
    return isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype == np.int64


def _numbers(ids: Any, name: str) -> NDArray[np.int64]:
    """Return the ids as int64 (tokens,)."""
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        ids = ids.tolist()
    if not isinstance(ids, Sequence) or isinstance(ids, str | bytes):
        raise InputError(f"{name} should be a list of whole numbers, not {type_name(ids)}")
    for place, number in enumerate(ids):
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if not whole:
            raise InputError(f"{name}[{place}] should be a whole number, not {shown(number)}")
        if not 0 <= number < 1 << 32:
            raise InputError(f"{name}[{place}] is {shown(number)}, which is no token id of this model. {_HINT}")
    return np.array(ids, np.int64)


def _check_known(ids: NDArray[np.int64], tokenizer: TextTokenizer, name: str) -> None:
    """Raise InputError if there are too many ids, or if the vocabulary does not have one of them."""
    limit = tokenizer.max_seq_length
    if len(ids) > limit:
        raise InputError(f"{name} has {len(ids):,} tokens, and the model reads {limit:,}. Cut the text first")
    unknown = [number for number in dict.fromkeys(ids.tolist()) if tokenizer.token_of(number) is None]
    if unknown:
        raise InputError(f"{name} has {unknown[0]}, which is no token id of this model. {_HINT}")


def _check_frame(ids: NDArray[np.int64], frame: Frame, tokenizer: TextTokenizer, name: str) -> None:
    """Raise InputError unless the ids begin and end with the special tokens of the tokenizer."""
    found = tuple(ids.tolist())
    prefix, suffix = frame.prefix, frame.suffix
    rest = found[len(prefix) :]
    if found[: len(prefix)] == prefix and len(rest) >= len(suffix) and rest[len(rest) - len(suffix) :] == suffix:
        return
    parts = [
        f"{verb} with {', '.join(f'{number} ({tokenizer.token_of(number)})' for number in special)}"
        for verb, special in (("begin", prefix), ("end", suffix))
        if special
    ]
    raise InputError(f"{name} should {' and '.join(parts)}, as this model's tokenizer has it. {_HINT}")


def _type_ids(count: int, frame: Frame) -> NDArray[np.int64]:
    """Return the token type ids of a text of `count` tokens, int64 (tokens,)."""
    own = count - len(frame.prefix) - len(frame.suffix)
    return np.array([*frame.prefix_types, *[frame.text_type] * own, *frame.suffix_types], np.int64)
