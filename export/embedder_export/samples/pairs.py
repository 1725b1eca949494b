"""Provide sample pairs of a query and a passage, and odd pairs that people send.

The export times and calibrates graphs on the pairs of every other query, and measures their quality on the rest.
"""

import re
from importlib.resources import files
from typing import Any

import numpy as np
from embedder.artifact.manifest import GRAPH_INPUTS, TOKEN_TYPE_IDS
from embedder.common.panics import panics_as_exceptions
from embedder.inputs import Pair
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedder_export.errors import CheckpointError
from embedder_export.graph.run import Feed
from embedder_export.samples.feeds import Samples
from embedder_export.tokenizer.contract import ConvertedTokenizer

_SPECIAL = "<s> of </s> [CLS] special [SEP] [MASK] tokens <mask> <unk> [UNK]"
# Number of passages about other things for each query. With more, most scores would lie close together at the bottom of
# the range, and their rank correlation would measure noise. A third of the passages that a search finds score as low.
_OTHER_PASSAGES = 2
_SENTENCE_END = re.compile(r"(?<=[.?!]) ")
# The shapes of the timed batches, (pairs, tokens): a short pair, and batches of about the runtime's sizes.
_BATCH_SHAPES = ((1, 48), (6, 80), (2, 256))
_MAX_SINGLE_TOKENS = 192


def calibration_pairs() -> list[Pair]:
    """Return the pairs to time and calibrate on: each query with two passages on its topic, with each
    sentence of these, and with passages on other topics.

    Example:
        >>> calibration_pairs()[0].first
        'how long should bread dough rise in a cold kitchen'
    """
    return _pairs_of(_topics()[::2])


def quality_pairs() -> list[Pair]:
    """Return the pairs to measure quality on. None of their texts is in `calibration_pairs`.

    Example:
        >>> quality_pairs()[0].first
        'what causes a laptop battery to swell'
    """
    return _pairs_of(_topics()[1::2])


def parity_pairs(max_seq_length: int) -> list[Pair]:
    """Return real pairs, and odd ones: with an empty side, with special tokens, or longer than the limit of tokens.

    Args:
        max_seq_length: most tokens of a pair.

    Example:
        >>> Pair("", "") in parity_pairs(512)
        True
    """
    real = calibration_pairs()[::2] + quality_pairs()[::2]
    query, passage = real[0].first, real[0].second
    # No text is much longer than the limit. The tokenizers library holds a copy of each part of the first text with
    # each part of the second, so two long texts would take gigabytes.
    long = ["word " * (2 * max_seq_length), "x" * (4 * max_seq_length), "字" * (2 * max_seq_length)]
    odd = ["", " ", _SPECIAL, "two\nlines", "\ufeffmark", *long]
    pairs = [pair for text in odd for pair in (Pair(text, passage), Pair(query, text), Pair(text, text))]
    return [*real, *pairs, Pair(long[0], long[2]), Pair(long[2], long[0])]


def _topics() -> list[list[str]]:
    """Return a query and two passages for each topic. The first passage answers the query."""
    text = files("embedder_export.samples").joinpath("pairs.txt").read_text(encoding="utf-8")
    return [topic.split("\n") for topic in text.removesuffix("\n").split("\n\n")]


def _pairs_of(topics: list[list[str]]) -> list[Pair]:
    pairs = []
    for index, (query, *passages) in enumerate(topics):
        others = [topics[(index + step) % len(topics)][1 + step % 2] for step in range(1, _OTHER_PASSAGES + 1)]
        sentences = [sentence for passage in passages for sentence in _SENTENCE_END.split(passage)]
        pairs += [Pair(query, passage) for passage in (*passages, *sentences, *others)]
    return pairs


def pair_samples(tokenizer: ConvertedTokenizer) -> Samples:
    """Return the samples: pairs to time and calibrate on, and pairs to measure quality on.

    Raises:
        CheckpointError: the tokenizer fails on a pair.

    Example:
        >>> [batch["input_ids"].shape for batch in pair_samples(tokenizer).batches]  # doctest: +SKIP
        [(1, 48), (6, 80), (2, 256)]
    """
    encodings = _tokenize(tokenizer, calibration_pairs())
    running = [(token, kind) for ids, kinds in encodings for token, kind in zip(ids, kinds, strict=True)]
    generator = np.random.default_rng(0)
    batches = []
    for rows, tokens in _BATCH_SHAPES:
        tokens = min(tokens, tokenizer.max_seq_length)
        # Some rows are padded, as in real batches.
        lengths = generator.integers((tokens + 1) // 2, tokens, (rows, 1), endpoint=True)
        filled = np.resize(np.array(running), (rows, tokens, 2))
        batches.append(_pair_feed(filled[..., 0], filled[..., 1], np.arange(tokens) < lengths))
    return Samples(batches, _single_feeds(encodings), _single_feeds(_tokenize(tokenizer, quality_pairs())))


def _tokenize(tokenizer: ConvertedTokenizer, pairs: list[Pair]) -> list[tuple[list[int], list[int]]]:
    """Return the token ids and the token type ids of each pair."""
    try:
        with panics_as_exceptions():
            backend = Tokenizer.from_str(tokenizer.json)
            backend.enable_truncation(min(tokenizer.max_seq_length, _MAX_SINGLE_TOKENS))
            encodings = backend.encode_batch([(pair.first, pair.second) for pair in pairs])
    except Exception as error:  # the library raises no narrower class; this block holds only its calls
        raise CheckpointError(f"the checkpoint's tokenizer fails: {error}") from error
    return [(encoding.ids, encoding.type_ids) for encoding in encodings]


def _single_feeds(encodings: list[tuple[list[int], list[int]]]) -> list[Feed]:
    return [_pair_feed(np.array([ids]), np.array([kinds]), np.ones((1, len(ids)))) for ids, kinds in encodings]


def _pair_feed(ids: NDArray[Any], types: NDArray[Any], mask: NDArray[Any]) -> Feed:
    arrays = (array.astype(np.int64) for array in (ids, mask, types))
    return dict(zip((*GRAPH_INPUTS, TOKEN_TYPE_IDS), arrays, strict=True))
