"""Convert the checkpoint's tokenizer for the artifact, with sentence-transformers' settings."""

from pathlib import Path

from embedder.artifact.manifest import RANK
from embedder.common.panics import PanicError, panics_as_exceptions
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer, Sequence
from tokenizers.processors import TemplateProcessing

from embedder_export.body.contract import TextPadding
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.sparse_layers import StaticWeights
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.families.static import STATIC
from embedder_export.tokenizer.classes.tokenizer_class import flag
from embedder_export.tokenizer.contract import ConvertedTokenizer, EffectiveTokenizer
from embedder_export.tokenizer.limits import ModelLimits, check_ids, max_text_tokens
from embedder_export.tokenizer.native import check_any_file, read_known_settings, read_natively
from embedder_export.tokenizer.roles import add_markers, resolve_roles
from embedder_export.tokenizer.settings import side
from embedder_export.tokenizer.static import convert_static_tokenizer
from embedder_export.tokenizer.white_space import split_at_white_space
from embedder_export.tokenizer.with_transformers import error_without_transformers, read_with_transformers


def convert_tokenizer(checkpoint: Checkpoint, limits: ModelLimits) -> ConvertedTokenizer:
    """Convert the tokenizer of `checkpoint`. It gives the same tokens as in sentence-transformers.

    Args:
        checkpoint: the checkpoint. Its `lowercase` and `max_seq_length` are applied.
        limits: the limits of the transformer.

    Raises:
        CheckpointError: a file is missing or damaged, the model lacks a row for a token, or the runtime does not
            support a setting of the tokenizer.
        NeedsTorchError: only transformers can read the tokenizer, and transformers is not installed.

    Example:
        >>> checkpoint = read_checkpoint("checkpoints/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> convert_tokenizer(checkpoint, ModelLimits(512, 512, 30522)).max_seq_length  # doctest: +SKIP
        256
    """
    try:
        with panics_as_exceptions():
            if checkpoint.family is STATIC:
                return convert_static_tokenizer(checkpoint, limits)
            return _convert(checkpoint, _read(checkpoint.transformer), limits)
    except (CheckpointError, PanicError) as error:
        raise _unusable(checkpoint, error) from error


def gives_token_types(checkpoint: Checkpoint) -> bool:
    """Return whether the tokenizer of a cross-encoder gives the model other token types than 0.

    Raises:
        CheckpointError: a file is missing or damaged, or the tokenizer fails on a pair.
        NeedsTorchError: only transformers can read the tokenizer, and transformers is not installed.

    Example:
        >>> gives_token_types(read_checkpoint("checkpoints/ms-marco-MiniLM-L6-v2"))  # doctest: +SKIP
        True
    """
    try:
        with panics_as_exceptions():
            tokenizer = _read(checkpoint.transformer)
            return tokenizer.has_pair_types and any(_token_types(tokenizer, "two words", "of a pair"))
    except (CheckpointError, PanicError) as error:
        raise _unusable(checkpoint, error) from error


def read_padding(checkpoint: Checkpoint) -> TextPadding:
    """Return how the tokenizer pads all texts to one length. It is the longest length that the tokenizer allows.

    Raises:
        CheckpointError: a file is missing or damaged.
        NeedsTorchError: only transformers can read the tokenizer, and transformers is not installed.

    Example:
        >>> read_padding(read_checkpoint("checkpoints/siglip-base-patch16-224")).tokens  # doctest: +SKIP
        64
    """
    try:
        with panics_as_exceptions():
            tokenizer = _read(checkpoint.transformer)
            tokens = max_text_tokens(checkpoint.max_seq_length, tokenizer.model_max_length, ModelLimits())
    except (CheckpointError, PanicError) as error:
        raise _unusable(checkpoint, error) from error
    return TextPadding(tokenizer.pad_id or 0, tokens, tokenizer.padding_side, tokenizer.gives_mask)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Check the settings of the tokenizer of `checkpoint`. Its vocabulary is not read.

    Raises:
        CheckpointError: a file is missing or damaged, or the runtime does not support a setting of the tokenizer.
        NeedsTorchError: only transformers can read the tokenizer.

    Example:
        >>> check_tokenizer(read_checkpoint("checkpoints/all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
    directory = checkpoint.transformer
    try:
        check_any_file(directory)
        if checkpoint.family is STATIC:
            return
        try:
            settings = read_known_settings(directory)
        except NotNativeError as reason:
            raise error_without_transformers(directory, reason) from reason
        splits = flag(settings, "split_special_tokens", False) is True
        _check_texts(side(settings, "truncation_side", None), splits)
    except CheckpointError as error:
        raise _unusable(checkpoint, error) from error


def _unusable(checkpoint: Checkpoint, error: Exception) -> CheckpointError:
    return CheckpointError(f"the tokenizer of {checkpoint.name} cannot be used: {error}")


def _read(directory: Path) -> EffectiveTokenizer:
    check_any_file(directory)
    try:
        return read_natively(directory)
    except NotNativeError as reason:
        return read_with_transformers(directory, reason)


def _convert(checkpoint: Checkpoint, tokenizer: EffectiveTokenizer, limits: ModelLimits) -> ConvertedTokenizer:
    backend = tokenizer.backend
    backend.no_truncation()
    backend.no_padding()
    is_pair = checkpoint.task == RANK
    _check_supported(tokenizer, is_pair=is_pair)
    check_ids(backend, limits.vocabulary_size)
    if is_pair and tokenizer.splits_white_space:
        split_at_white_space(backend)
    if checkpoint.lowercase:
        backend.normalizer = _with_lowercase(backend.normalizer)
    if any(isinstance(layer, StaticWeights) for layer in checkpoint.layers):  # it takes texts without special tokens
        backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    limit = max_text_tokens(checkpoint.max_seq_length, tokenizer.model_max_length, limits)
    special = backend.num_special_tokens_to_add(is_pair=is_pair)
    if limit <= special:
        what = "a pair" if is_pair else "a text"
        raise CheckpointError(f"a limit of {limit} tokens leaves no room for {what} beside {special} special tokens")
    roles, multi_vector = checkpoint.roles, None
    if roles is not None:
        add_markers(backend, roles)
        multi_vector = resolve_roles(roles, tokenizer, limit, limits.usable_positions)
    return ConvertedTokenizer(
        json=backend.to_str(),
        max_seq_length=limit,
        pad_id=tokenizer.pad_id or 0,
        special_ids=tokenizer.special_ids,
        multi_vector=multi_vector,
        max_query_tokens=_max_query_tokens(checkpoint, backend),
    )


def _max_query_tokens(checkpoint: Checkpoint, backend: Tokenizer) -> int | None:
    """Return the most tokens of a query of static weights. None if the model has none.

    Raises:
        CheckpointError: queries have another tokenizer than documents.
    """
    queries = checkpoint.queries
    if queries is None:
        return None
    tokenizer = _read(queries.directory)
    tokenizer.backend.no_truncation()
    tokenizer.backend.no_padding()
    if tokenizer.backend.to_str() != backend.to_str():
        raise CheckpointError("its queries have another tokenizer than its documents, which is not supported")
    return max_text_tokens(None, tokenizer.model_max_length, ModelLimits())


def _check_supported(tokenizer: EffectiveTokenizer, *, is_pair: bool) -> None:
    _check_texts(tokenizer.truncation_side, tokenizer.splits_special_tokens)
    token_types = _token_types(tokenizer, "two words", "of a pair" if is_pair else None)
    if tokenizer.has_token_types and any(token_types) and not is_pair:
        raise CheckpointError("it gives token types other than 0, which is not supported")


def _check_texts(truncation_side: str, splits_special_tokens: bool) -> None:
    if truncation_side != "right":
        raise CheckpointError("it cuts long texts at their start, which is not supported")
    if splits_special_tokens:
        raise CheckpointError("it splits special tokens (split_special_tokens), which is not supported")


def _token_types(tokenizer: EffectiveTokenizer, text: str, other: str | None) -> list[int]:
    try:
        types: list[int] = tokenizer.backend.encode(text, other).type_ids
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(f"it fails on a text: {error}") from error
    return types


def _with_lowercase(normalizer: Normalizer | None) -> Normalizer:
    """Return `normalizer` with a step before it that lower-cases. If it lower-cases already, return it unchanged."""
    steps = list(normalizer) if isinstance(normalizer, Sequence) else [] if normalizer is None else [normalizer]
    if any(isinstance(step, Lowercase) for step in steps):
        return normalizer
    return Sequence([Lowercase(), *steps])
