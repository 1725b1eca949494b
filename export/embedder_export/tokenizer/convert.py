"""Beside the second stage: the tokenizer, as sentence-transformers uses it."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers.normalizers import Lowercase, Normalizer, Sequence

from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.tokenizer.native import EffectiveTokenizer, read_natively

# A checkpoint need not say how long a text may be; transformers then has an enormous number. Where not even positions
# are counted, texts are cut here, for attention takes memory by the square of their length.
_MOST_TOKENS = 1_000_000
_UNLIMITED = 8192


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer.json without limit or padding of its own, and the settings that the manifest carries."""

    json: str
    max_seq_length: int
    pad_id: int
    special_ids: tuple[int, ...]


def convert_tokenizer(
    checkpoint: Checkpoint, max_position_embeddings: int | None, usable_positions: int | None
) -> ConvertedTokenizer:
    """The tokenizer as sentence-transformers sets it up: with tokenizer_config.json and `do_lower_case` applied.

    Args:
        checkpoint: what to read.
        max_position_embeddings: what its configuration has by this name, if anything.
        usable_positions: rows of its table of positions that a text can use, if it has one.

    Raises:
        CheckpointError: it is damaged, or has what the runtime cannot do.
        NeedsTorchError: only transformers can read it, and that is not installed.
    """
    try:
        tokenizer = _read(checkpoint.transformer)
        backend = tokenizer.backend
        backend.no_truncation()
        backend.no_padding()
        _check(tokenizer)
        if checkpoint.lowercase:
            backend.normalizer = _with_lowercase(backend.normalizer)
        limit = _limit(checkpoint.max_seq_length, tokenizer.model_max_length, max_position_embeddings, usable_positions)
        special = backend.num_special_tokens_to_add(is_pair=False)
        if limit <= special:
            raise CheckpointError(f"at most {limit} tokens leave no place for a text beside {special} special tokens")
        return ConvertedTokenizer(backend.to_str(), limit, tokenizer.pad_id or 0, tokenizer.special_ids)
    except NeedsTorchError:
        raise
    except Exception as error:  # the libraries raise whatever the damaged file led to
        raise CheckpointError(f"the tokenizer of {checkpoint.name} cannot be used: {error}") from error


def _read(directory: Path) -> EffectiveTokenizer:
    try:
        return read_natively(directory)
    except NotNativeError as unknown:
        return _read_with_transformers(directory, unknown)


def _read_with_transformers(directory: Path, reason: NotNativeError) -> EffectiveTokenizer:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise NeedsTorchError(f"the tokenizer cannot be read here: {reason}") from reason
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise CheckpointError("it is not a fast one, and transformers cannot make one of it")
    return EffectiveTokenizer(
        tokenizer.backend_tokenizer,
        tokenizer.model_max_length,
        tokenizer.pad_token_id,
        tuple(sorted(tokenizer.all_special_ids)),
        "token_type_ids" in tokenizer.model_input_names,
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
    )


def _check(tokenizer: EffectiveTokenizer) -> None:
    if tokenizer.truncation_side != "right":
        raise CheckpointError("it cuts long texts at their start, which is not supported")
    if tokenizer.splits_special_tokens:
        raise CheckpointError("it splits special tokens (split_special_tokens), which is not supported")
    if tokenizer.has_token_types and any(tokenizer.backend.encode("two words").type_ids):
        raise CheckpointError("it gives other token types than 0, which is not supported")


def _with_lowercase(normalizer: Normalizer | None) -> Normalizer:
    """`normalizer` after lower-casing, unless it does that itself."""
    steps = list(normalizer) if isinstance(normalizer, Sequence) else [] if normalizer is None else [normalizer]
    if any(isinstance(step, Lowercase) for step in steps):
        return normalizer
    return Sequence([Lowercase(), *steps])


def _limit(own: int | None, model_max_length: float, positions: int | None, usable: int | None) -> int:
    """The most tokens of a text: the checkpoint's own, else the tokenizer's; never more than there are places for."""
    limit = min(model_max_length, positions or model_max_length) if own is None else own
    limit = int(limit) if limit <= _MOST_TOKENS else _UNLIMITED
    if limit < 1:
        raise CheckpointError(f"a text can have no more than {limit} tokens")
    return limit if usable is None else min(limit, usable)
