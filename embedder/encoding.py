"""Run the inputs of a request through the engine, and make vectors of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedder.engine.distinct import find_distinct
from embedder.engine.engine import Block, Engine
from embedder.errors import InputError
from embedder.inputs import ImageItem, InputKinds, Item, check_inputs, is_single
from embedder.options import RANGED_PRECISIONS, EncodeSettings
from embedder.results import (
    CutTexts,
    Embeddings,
    EncodeResult,
    check_ranges,
    drop_unreadable,
    quantize,
    raise_unreadable,
    truncate,
)


def encode_items(
    engine: Engine, items: list[Item], settings: EncodeSettings, dimension: int
) -> tuple[NDArray[np.float32], dict[int, str], NDArray[np.bool_] | None]:
    """Encode a list.

    Args:
        engine: the engine of the model.
        items: the checked inputs.
        settings: the options of the request.
        dimension: how many numbers of each vector to keep.

    Returns:
        The vectors, float32 (n, dimension), with zeros for images that could not be read; the reasons why these could
        not be read, by the index of the input; and whether each input was cut, bool (n,), or None without
        `warn_if_cut`.

    Raises:
        InputError, ArtifactError, EmbedderError: as in `Engine.run`, and as in `check_ranges`.

    Example:
        >>> encode_items(engine, ["a text"], EncodeSettings(), 384)[0].shape  # doctest: +SKIP
        (1, 384)
    """
    check_ranges(len(items), settings)
    watched = settings.show_progress_bar or settings.warn_if_cut
    if len(items) == 1 and not isinstance(items[0], ImageItem) and not watched:
        return truncate(engine.run_text(items[0], settings), dimension, settings), {}, None
    distinct, places = find_distinct(items)
    vectors = np.empty((len(distinct), dimension), np.float32)
    reasons: dict[int, str] = {}
    cut = np.zeros(len(distinct), bool) if settings.warn_if_cut else None
    for block in engine.run(distinct, settings, len(items), places):
        kept = truncate(block.values, dimension, settings)
        if len(kept) == len(vectors):
            vectors = kept
        else:
            vectors[block.start : block.start + len(kept)] = kept
        reasons |= block.reasons
        if block.cut is not None and cut is not None:
            cut[block.start : block.start + len(kept)] = block.cut
    return places.spread(vectors), reasons, None if cut is None else places.spread(cut)


def encode_batch(
    engine: Engine, texts: Any, settings: EncodeSettings, dimension: int, *, single_thread: bool
) -> Embeddings:
    """Encode one batch in the calling thread.

    Args:
        engine: the engine of the model.
        texts: a list of TokenizedText, unchecked.
        settings: the options of the request.
        dimension: how many numbers of each vector to keep.
        single_thread: whether the batch uses one thread, also if no other call is running.

    Raises:
        InputError: a text is no TokenizedText of this model, or `settings` has a prompt.
        ArtifactError, EmbedderError: as in `Engine.run`.

    Example:
        >>> encode_batch(engine, texts, EncodeSettings(), 384, single_thread=True).shape  # doctest: +SKIP
        (2, 384)
    """
    if settings.prompt is not None or settings.prompt_name is not None:
        raise InputError("encode_batch takes no prompt: the texts have theirs. Give the prompt to tokenize_texts")
    vectors = engine.run_tokenized(texts, settings, single_thread=single_thread)
    return quantize(truncate(vectors, dimension, settings), settings)


def encode_stream(
    engine: Engine, inputs: Any, kinds: InputKinds, settings: EncodeSettings, dimension: int
) -> Iterator[EncodeResult]:
    """Encode a stream. The call itself checks the options.

    Args:
        engine: the engine of the model.
        inputs: the inputs, unchecked.
        kinds: the kinds of input that the request accepts.
        settings: the options of the request.
        dimension: how many numbers of each vector to keep.

    Raises:
        InputError: `inputs` is a single input; the precision needs the ranges of all vectors; or as in `Engine.run`.

    Example:
        >>> results = encode_stream(engine, iter(texts), InputKinds(), EncodeSettings(), 384)  # doctest: +SKIP
        >>> next(results).embeddings.shape  # doctest: +SKIP
        (1024, 384)
    """
    if is_single(inputs, kinds):
        raise InputError("encode_iter takes many inputs. For one input, call encode")
    if settings.precision in RANGED_PRECISIONS:
        raise InputError(
            f"precision {settings.precision!r} needs the ranges of all vectors, which a stream does not have. "
            "Collect the vectors and call quantize_embeddings, or choose binary or ubinary"
        )
    items: Iterator[Item] = check_inputs(inputs, kinds)
    blocks = engine.run(items, settings, len(inputs) if isinstance(inputs, Sized) else None)

    def result(block: Block) -> EncodeResult:
        vectors = truncate(block.values, dimension, settings)
        kept = drop_unreadable(vectors, block.reasons, block.cut, block.start)
        embeddings = quantize(raise_unreadable(kept, settings).embeddings, settings)
        return replace(kept, embeddings=embeddings)

    return map(result, blocks)


def embeddings_of(results: Iterator[EncodeResult], max_seq_length: int, name: str) -> Iterator[Embeddings]:
    """Yield the vectors of results. After the last ones, warn of the texts that were cut.

    Args:
        results: the results of a stream.
        max_seq_length: the limit of the model.
        name: the word for the inputs, "texts" or "inputs".

    Example:
        >>> list(embeddings_of(iter([]), 256, "texts"))
        []
    """
    cut = CutTexts()
    for result in results:
        cut = cut.add(result.cut, len(result.embeddings))
        yield result.embeddings
    cut.warn(max_seq_length, name)
