"""What every reader of tokenizers returns."""

from dataclasses import dataclass

from tokenizers import Tokenizer


@dataclass(frozen=True)
class EffectiveTokenizer:
    """A tokenizer with all settings of its checkpoint applied.

    backend: the tokenizer of the tokenizers library.
    model_max_length: the limit of tokens that the tokenizer's files give; 1e30 stands for none.
    pad_id: the id of the padding token, if there is one.
    special_ids: the ids of all special tokens, sorted.
    has_token_types: whether the model is given token types.
    truncation_side: the side on which a long text is cut: "left" or "right".
    splits_special_tokens: whether special tokens in a text are split like other words.
    """

    backend: Tokenizer
    model_max_length: float
    pad_id: int | None
    special_ids: tuple[int, ...]
    has_token_types: bool = False
    truncation_side: str = "right"
    splits_special_tokens: bool = False
