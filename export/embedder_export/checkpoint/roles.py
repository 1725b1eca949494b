"""`TextRoles`: how the queries and the documents of a late-interaction checkpoint become tokens, in its own words."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedder.artifact.multi_vector import DOCUMENT, ROLES

from embedder_export.errors import CheckpointError

PUNCTUATION = tuple(string.punctuation)
# The default of ColBERT.
_EXPANSION_LENGTH = 32
_EXPANSION_SETTINGS = {"strategy", "attend", "token", "length"}
# PyLate's settings in config_sentence_transformers.json.
_MARKERS = (
    "query_length", "document_length", "query_expansion", "do_query_expansion", "attend_to_expansion_tokens",
    "attend_to_mask_tokens", "query_prefix", "document_prefix", "skiplist_words",
)  # fmt: skip


@dataclass(frozen=True)
class Expansion:
    """How short queries are filled up.

    Attributes:
        length: a query with fewer tokens is filled up to so many.
        is_fixed: whether longer queries are cut there.
        is_attended: whether the query's other tokens attend to the new tokens.
        token: the token that fills it up. None stands for the mask token, or without one the end of a text.
    """

    length: int
    is_fixed: bool = True
    is_attended: bool = False
    token: str | None = None


@dataclass(frozen=True)
class TextRoles:
    """How queries and documents become tokens. sentence-transformers' names are in its Transformer and MultiVectorMask.

    Attributes:
        query_length: most tokens of a query. None is the limit of all texts.
        document_length: most tokens of a document. None is the limit of all texts.
        expansion: how short queries are filled up. None leaves them short.
        skipped_words: tokens that give no vector. Words that are no token are left out.
        skipped_in: for which roles they give none.
        skipped_first: number of tokens at the start of each text that give no vector.
        markers: the starts of queries and documents that the model was trained with. If one of them is a token, it
            becomes a special token.
    """

    query_length: int | None = None
    document_length: int | None = None
    expansion: Expansion | None = None
    skipped_words: tuple[str, ...] = ()
    skipped_in: tuple[str, ...] = (DOCUMENT,)
    skipped_first: int = 0
    markers: tuple[str, ...] = ()


def is_marked(declared: Mapping[str, Any]) -> bool:
    """Return whether config_sentence_transformers.json has a setting of PyLate.

    Example:
        >>> is_marked({"query_prefix": "[Q] "})
        True
    """
    return any(name in declared for name in _MARKERS)


def read_prefixes(declared: Mapping[str, Any]) -> dict[str, str]:
    """Return PyLate's starts of queries and documents by role, as far as config_sentence_transformers.json has them.

    Raises:
        CheckpointError: one is no string.

    Example:
        >>> read_prefixes({"query_prefix": "[Q] "})
        {'query': '[Q] '}
    """
    found = {role: declared[f"{role}_prefix"] for role in ROLES if f"{role}_prefix" in declared}
    for role, prefix in found.items():
        if not isinstance(prefix, str | None):
            raise CheckpointError(f"the checkpoint has {prefix!r:.80} as {role}_prefix")
    return {role: prefix or "" for role, prefix in found.items()}


def read_pylate_settings(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return PyLate's settings under sentence-transformers' names: query_length, document_length, query_expansion.

    Settings that are missing have no entry.

    Example:
        >>> read_pylate_settings({"query_length": 32, "document_length": 300})["document_length"]
        300
    """
    found = {name: declared[name] for name in ("query_length", "document_length") if declared.get(name) is not None}
    if "query_expansion" in declared:
        return found | {"query_expansion": declared["query_expansion"]}
    if not is_marked(declared):
        return found
    if declared.get("do_query_expansion") is False:
        return found | {"query_expansion": None}
    attend = declared.get("attend_to_expansion_tokens", declared.get("attend_to_mask_tokens"))
    length = found.pop("query_length", None) or _EXPANSION_LENGTH
    return found | {"query_expansion": {"strategy": "fixed", "attend": bool(attend), "length": length}}


def read_expansion(settings: Any) -> Expansion | None:
    """Read sentence-transformers' query_expansion.

    Raises:
        CheckpointError: it has an unknown setting, or a setting has a wrong value.

    Example:
        >>> read_expansion({"strategy": "fixed", "length": 32})
        Expansion(length=32, is_fixed=True, is_attended=False, token=None)
    """
    if settings is None:
        return None
    if not isinstance(settings, dict) or not settings.keys() <= _EXPANSION_SETTINGS:
        raise CheckpointError(f"the checkpoint has {settings!r:.120} as query_expansion")
    strategy, length = settings.get("strategy"), settings.get("length")
    attend, token = settings.get("attend", False), settings.get("token")
    valid = strategy in ("fixed", "min") and type(length) is int and length >= 1 and isinstance(attend, bool)
    if not valid or not isinstance(token, str | None):
        raise CheckpointError(f"the checkpoint has {settings!r:.120} as query_expansion")
    assert isinstance(length, int)  # the check above made sure
    return Expansion(length, strategy == "fixed", attend, token)


def read_length(settings: Mapping[str, Any], name: str) -> int | None:
    """Return the number of tokens that a setting gives, or None if it gives none.

    Raises:
        CheckpointError: it has a wrong value.

    Example:
        >>> read_length({"query_length": 32}, "query_length")
        32
    """
    length = settings.get(name)
    if length is not None and (type(length) is not int or length < 1):
        raise CheckpointError(f"the checkpoint has {length!r:.80} as {name}")
    return length


def read_words(words: Any, name: str) -> tuple[str, ...]:
    """Return the words of a setting, which is a list or None.

    Raises:
        CheckpointError: it is something else.

    Example:
        >>> read_words(["!", "."], "skiplist_words")
        ('!', '.')
    """
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise CheckpointError(f"the checkpoint has {words!r:.80} as {name}")
    return tuple(words or ())
