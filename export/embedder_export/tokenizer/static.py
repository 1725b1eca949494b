"""Convert the tokenizer of static embeddings: its tokenizer.json, without special tokens.

sentence-transformers and model2vec read this file alone. sentence-transformers cuts texts where the file says so, and
nowhere if it says nothing. model2vec has a limit of its own.
"""

import json
from pathlib import Path

from embedder.artifact.positions import UNLIMITED_TOKENS
from embedder.common.panics import panics_as_exceptions
from tokenizers import Tokenizer

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.tokenizer.limits import ModelLimits, check_ids
from embedder_export.tokenizer.native import load_backend
from embedder_export.tokenizer.settings import TOKENIZER_FILE


def convert_static_tokenizer(checkpoint: Checkpoint, limits: ModelLimits) -> ConvertedTokenizer:
    """Convert the tokenizer of `checkpoint`, a model of static embeddings.

    Args:
        checkpoint: the checkpoint.
        limits: the size of its table.

    Raises:
        CheckpointError: the file is missing or damaged, the table lacks a row for a token, or the tokenizer cuts texts
            at their start.

    Example:
        >>> checkpoint = read_checkpoint("checkpoints/potion-base-8M")  # doctest: +SKIP
        >>> convert_static_tokenizer(checkpoint, ModelLimits(vocabulary_size=29528)).pad_id  # doctest: +SKIP
        0
    """
    backend = _load(checkpoint.transformer)
    check_ids(backend, limits.vocabulary_size)
    limit = checkpoint.max_seq_length if checkpoint.is_model2vec else _limit_in_file(backend)
    padding = backend.padding or {}
    backend.no_truncation()
    backend.no_padding()
    try:
        backend.encode("two words")
    except Exception as error:  # the library raises no narrower class
        raise CheckpointError(f"it fails on a text: {error}") from error
    content = json.loads(backend.to_str())
    content["post_processor"] = None  # it adds the special tokens
    text = json.dumps(content, ensure_ascii=False)
    return ConvertedTokenizer(text, limit or UNLIMITED_TOKENS, _pad_id(padding.get("pad_id"), limits), ())


def read_unknown_id(directory: Path) -> int | None:
    """Return the id of the token that stands for unknown words, as model2vec finds it. None if there is none.

    Raises:
        CheckpointError: the tokenizer's file is missing or damaged.

    Example:
        >>> read_unknown_id(Path("checkpoints/potion-base-8M"))  # doctest: +SKIP
        1
    """
    backend = _load(directory)
    with panics_as_exceptions():
        if hasattr(backend.model, "unk_token"):
            token = backend.model.unk_token
            unknown: int | None = None if token is None else backend.token_to_id(token)
        else:  # Unigram
            unknown = json.loads(backend.to_str())["model"].get("unk_id")
    return unknown


def _load(directory: Path) -> Tokenizer:
    backend = load_backend(directory / TOKENIZER_FILE)
    if backend is None:
        raise CheckpointError(f"its file is missing: {directory} has no {TOKENIZER_FILE}")
    return backend


def _limit_in_file(backend: Tokenizer) -> int | None:
    truncation = backend.truncation
    if truncation is None:
        return None
    if truncation["direction"] != "right":
        raise CheckpointError("it cuts long texts at their start, which is not supported")
    if truncation["max_length"] < 1:
        raise CheckpointError(f"its limit for a text is {truncation['max_length']} tokens; it must be 1 or more")
    limit: int = truncation["max_length"]
    return limit


def _pad_id(pad_id: object, limits: ModelLimits) -> int:
    """Return the id of the padding token if the table has it. Its vector is never used."""
    return pad_id if type(pad_id) is int and 0 <= pad_id < (limits.vocabulary_size or 0) else 0
