"""What the model allows a tokenizer: how many tokens a text may have, and which ids."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from embedder_export.errors import CheckpointError

# A checkpoint need not say how long a text may be: transformers then has an enormous number. If the model does not
# count positions either, texts are cut at the default, because attention takes memory by the square of their length.
_MAX_PLAUSIBLE_TOKENS = 1_000_000
_DEFAULT_MAX_TOKENS = 8192


@dataclass(frozen=True)
class ModelLimits:
    """What the transformer says about the texts that it takes. None: it says nothing.

    max_position_embeddings: the setting of this name in config.json.
    usable_positions: the rows of the table of positions that a text can use, in tokens.
    vocabulary_size: the rows of the table of word embeddings.
    """

    max_position_embeddings: int | None = None
    usable_positions: int | None = None
    vocabulary_size: int | None = None


def max_text_tokens(own: int | None, tokenizer_limit: float, model: ModelLimits) -> int:
    """Return the limit of tokens of a text, special tokens included.

    It is the checkpoint's own limit, else the tokenizer's; never more than the model has positions for.

    Args:
        own: `max_seq_length` of the checkpoint, if it has one.
        tokenizer_limit: `model_max_length` of the tokenizer.
        model: the limits of the transformer.

    Raises:
        CheckpointError: no token is allowed.
    """
    wanted = min(tokenizer_limit, model.max_position_embeddings or tokenizer_limit) if own is None else own
    if wanted < 1:
        raise CheckpointError(f"a text can have no more than {wanted} tokens")
    limit = int(wanted) if wanted <= _MAX_PLAUSIBLE_TOKENS else _DEFAULT_MAX_TOKENS
    return limit if model.usable_positions is None else min(limit, model.usable_positions)


def check_ids(tokenizer: Tokenizer, vocabulary_size: int | None) -> None:
    """Check that the table of word embeddings has a row for every token, added tokens included.

    Raises:
        CheckpointError: it has not; a text with such a token would fail.
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
