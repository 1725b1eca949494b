"""The results of every reader of tokenizers, and of their conversion."""

from dataclasses import dataclass

from embedder.artifact.multi_vector import MultiVectorSettings
from tokenizers import Tokenizer


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer for the artifact.

    Attributes:
        json: the content of its tokenizer.json, without truncation and padding.
        max_seq_length: most tokens of a text, special tokens included.
        pad_id: the id of the padding token. 0 if there is no such token.
        special_ids: the ids of all special tokens, sorted.
        multi_vector: how queries and documents become tokens. None if the checkpoint treats all texts alike.
        max_query_tokens: most tokens of a query, of a sparse model with static weights for queries. None for others.
    """

    json: str
    max_seq_length: int
    pad_id: int
    special_ids: tuple[int, ...]
    multi_vector: MultiVectorSettings | None = None
    max_query_tokens: int | None = None


@dataclass(frozen=True)
class EffectiveTokenizer:
    """A tokenizer with all settings of its checkpoint applied.

    Attributes:
        backend: the tokenizer of the tokenizers library.
        model_max_length: most tokens of a text, from the tokenizer's files. 1e30 stands for no limit.
        pad_id: the id of the padding token. None if there is no such token.
        special_ids: the ids of all special tokens, sorted.
        has_token_types: whether the tokenizer gives token types to the model, in transformers 4.
        has_pair_types: the same in transformers 5. It counts for pairs.
        splits_white_space: whether transformers 5 splits texts at white space first. It counts for pairs.
        padding_side: the side on which transformers pads, "left" or "right". The runtime always pads on the right.
        gives_mask: whether the tokenizer gives the model an attention mask.
        truncation_side: the side on which a long text is cut, "left" or "right".
        splits_special_tokens: whether special tokens in a text are split like other words.
        unknown_token: the token that stands for words that are no tokens. None if there is none.
        expansion_token: the mask token, or without one the token for the end of a text. None if there is neither.
    """

    backend: Tokenizer
    model_max_length: float
    pad_id: int | None
    special_ids: tuple[int, ...]
    has_token_types: bool = False
    has_pair_types: bool = False
    splits_white_space: bool = False
    padding_side: str = "right"
    gives_mask: bool = True
    truncation_side: str = "right"
    splits_special_tokens: bool = False
    unknown_token: str | None = None
    expansion_token: str | None = None
