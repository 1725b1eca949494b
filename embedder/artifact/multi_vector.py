"""The part of the manifest that only models for the task "multi_vector" have: how texts become tokens."""

from __future__ import annotations

from embedder.common.records import frozen, require

# What a text is encoded for. A text without a role counts as a document, but `TokenizerSettings.max_seq_length` is its
# limit.
QUERY, DOCUMENT = ROLES = ("query", "document")


@frozen
class QueryExpansion:
    """Tokens that fill up a short query (Khattab and Zaharia, 2020: https://arxiv.org/abs/2004.12832).

    Their vectors are vectors of the query too.

    Attributes:
        length: a query with fewer tokens is filled up to so many.
        token_id: the id of the token that fills it up, often [MASK].
        is_attended: whether the query's other tokens attend to these tokens.
    """

    length: int
    token_id: int
    is_attended: bool

    def __post_init__(self) -> None:
        require(0 < self.length < 2**31, f"length: {self.length} is not from 1 to 2**31 - 1")
        require(0 <= self.token_id < 2**31, f"token_id: {self.token_id} is not from 0 to 2**31 - 1")


@frozen
class MultiVectorSettings:
    """How queries and documents become tokens, and which vectors of tokens are left out.

    Attributes:
        query_length: most tokens of a query, special tokens included.
        document_length: most tokens of a document, special tokens included.
        expansion: how short queries are filled up. None leaves them short.
        skipped_ids: ids of tokens that give no vector, such as punctuation.
        skipped_in: for which of `ROLES` they give none.
        skipped_first: number of tokens at the start of each text that give no vector.
    """

    query_length: int
    document_length: int
    expansion: QueryExpansion | None
    skipped_ids: tuple[int, ...]
    skipped_in: tuple[str, ...]
    skipped_first: int

    def __post_init__(self) -> None:
        for name, length in (("query_length", self.query_length), ("document_length", self.document_length)):
            require(0 < length < 2**31, f"{name}: {length} is not from 1 to 2**31 - 1")
        require(all(0 <= number < 2**31 for number in self.skipped_ids), "skipped_ids: one is not from 0 to 2**31 - 1")
        require(
            set(self.skipped_in) <= set(ROLES), f"skipped_in: {list(self.skipped_in)} is none of {', '.join(ROLES)}"
        )
        require(0 <= self.skipped_first < 2**31, f"skipped_first: {self.skipped_first} is not from 0 to 2**31 - 1")

    def length_of(self, role: str) -> int:
        """Return the most tokens of a text of this role.

        Example:
            >>> MultiVectorSettings(32, 300, None, (), (), 0).length_of("query")
            32
        """
        return self.query_length if role == QUERY else self.document_length
