"""Check a tokenizer against the model: how many tokens a text may have, and which ids the model knows."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from embedder_export.errors import CheckpointError

# A checkpoint may have no limit. transformers then uses an enormous number. If the model has no limit of positions
# either, the default applies, because the memory of attention grows with the square of the number of tokens.
_MAX_PLAUSIBLE_TOKENS = 1_000_000
_DEFAULT_MAX_TOKENS = 8192


@dataclass(frozen=True)
class ModelLimits:
    """The limits of the transformer. None stands for no limit.

    Attributes:
        max_position_embeddings: the setting of this name in config.json.
        usable_positions: rows of the position table that a text can use.
        vocabulary_size: rows of the table of word embeddings.
    """

    max_position_embeddings: int | None = None
    usable_positions: int | None = None
    vocabulary_size: int | None = None


def max_text_tokens(own: int | None, tokenizer_limit: float, model: ModelLimits) -> int:
    """Return the most tokens that a text may have, special tokens included.

    It is the checkpoint's own limit, or without one the tokenizer's. It never exceeds the model's usable positions.

    Args:
        own: `max_seq_length` of the checkpoint, or None.
        tokenizer_limit: `model_max_length` of the tokenizer.
        model: the limits of the transformer.

    Raises:
        CheckpointError: the limit is below 1.

    Example:
        >>> max_text_tokens(None, 512, ModelLimits(max_position_embeddings=514, usable_positions=510))
        510
    """
    stated = min(tokenizer_limit, model.max_position_embeddings or tokenizer_limit) if own is None else own
    if stated < 1:
        raise CheckpointError(f"its limit for a text is {stated} tokens; it must be 1 or more")
    limit = int(stated) if stated <= _MAX_PLAUSIBLE_TOKENS else _DEFAULT_MAX_TOKENS
    return limit if model.usable_positions is None else min(limit, model.usable_positions)


def check_ids(tokenizer: Tokenizer, vocabulary_size: int | None) -> None:
    """Check that the table of word embeddings has a row for every token, added tokens included.

    Raises:
        CheckpointError: a token has no row. A text with this token would fail.

    Example:
        >>> from tokenizers.models import WordPiece
        >>> check_ids(Tokenizer(WordPiece({"[UNK]": 0, "a": 1})), 2)
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    if vocabulary_size is None or not vocabulary:
        return
    token, token_id = max(vocabulary.items(), key=lambda item: item[1])
    if token_id >= vocabulary_size:
        raise CheckpointError(
            f"its token {token!r:.80} has the id {token_id}, and the model's table of word embeddings has only "
            f"{vocabulary_size} rows"
        )
