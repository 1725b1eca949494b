"""Provide sample texts: real sentences, and odd strings that people send.

The export times and calibrates graphs on every other sentence, and measures their quality on the rest.
"""

from importlib.resources import files
from typing import Any

import numpy as np
from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK
from embedder.artifact.multi_vector import MultiVectorSettings
from embedder.common.panics import panics_as_exceptions
from numpy.typing import NDArray
from tokenizers import Tokenizer

from embedder_export.errors import CheckpointError
from embedder_export.graph.run import Feed
from embedder_export.samples.feeds import Samples
from embedder_export.tokenizer.contract import ConvertedTokenizer

# Texts without visible characters. The file of sentences cannot hold them.
_BLANK = ("", " ", "\n", "\t \n", "\u0085")
_SPECIAL = "<s> of </s> [CLS] special [SEP] [MASK] tokens <mask> <unk> [UNK] <extra_id_0>"
_ODD = (*_BLANK, _SPECIAL, "two\nlines", "\ufeffmark", "a\0b", "\x7f", "word " * 2000, "x" * 5000, "字" * 1000)
# The shapes of the timed batches, (texts, tokens): a short query, and batches of about the runtime's sizes.
_BATCH_SHAPES = ((1, 16), (16, 32), (2, 256))
_MAX_SINGLE_TOKENS = 128


def parity_sentences() -> list[str]:
    """Return real sentences and odd strings, in many scripts. Some are longer than any limit of tokens.

    Example:
        >>> "" in parity_sentences()
        True
    """
    return real_sentences() + list(_ODD)


def real_sentences() -> list[str]:
    """Return the sentences that people have written, without the odd strings.

    Example:
        >>> real_sentences()[0]
        'Hello'
    """
    text = files("embedder_export.samples").joinpath("parity_sentences.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def text_samples(tokenizer: ConvertedTokenizer) -> Samples:
    """Return the samples: every other sentence to time and calibrate on, and the rest to measure quality on.

    Raises:
        CheckpointError: the tokenizer fails on a sentence.

    Example:
        >>> [batch["input_ids"].shape for batch in text_samples(tokenizer).batches]  # doctest: +SKIP
        [(1, 16), (16, 32), (2, 256)]
    """
    running, singles = _tokenize(tokenizer, real_sentences()[::2])
    _, unseen = _tokenize(tokenizer, real_sentences()[1::2])
    generator = np.random.default_rng(0)
    batches = []
    for rows, tokens in _BATCH_SHAPES:
        tokens = min(tokens, tokenizer.max_seq_length)
        # Some rows are padded, as in real batches.
        lengths = generator.integers((tokens + 1) // 2, tokens, (rows, 1), endpoint=True)
        batches.append(_text_feed(np.resize(running, (rows, tokens)), np.arange(tokens) < lengths))
    return Samples(batches, *(_single_feeds(part, tokenizer.multi_vector) for part in (singles, unseen)))


def _single_feeds(texts: list[list[int]], multi_vector: MultiVectorSettings | None) -> list[Feed]:
    """Return single texts. If the model fills up queries, every other text is a query."""
    feeds = [_text_feed(np.array([ids]), np.ones((1, len(ids)))) for ids in texts]
    expansion = None if multi_vector is None else multi_vector.expansion
    if multi_vector is None or expansion is None:
        return feeds
    for row, ids in list(enumerate(texts))[::2]:
        own = ids[: multi_vector.query_length]
        added = max(0, expansion.length - len(own))
        mask = [1] * len(own) + [int(expansion.is_attended)] * added
        feeds[row] = _text_feed(np.array([own + [expansion.token_id] * added]), np.array([mask]))
    return feeds


def _tokenize(tokenizer: ConvertedTokenizer, sentences: list[str]) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of all sentences joined to one text, and the token ids of each sentence."""
    try:
        with panics_as_exceptions():
            backend = Tokenizer.from_str(tokenizer.json)
            running = backend.encode(" ".join(sentences), add_special_tokens=False).ids or [tokenizer.pad_id]
            backend.enable_truncation(tokenizer.max_seq_length)
            encodings = backend.encode_batch(sentences)
    except Exception as error:  # the library raises no narrower class; this block holds only its calls
        raise CheckpointError(f"the checkpoint's tokenizer fails: {error}") from error
    return running, [encoding.ids[:_MAX_SINGLE_TOKENS] for encoding in encodings if encoding.ids]


def _text_feed(ids: NDArray[Any], mask: NDArray[Any]) -> Feed:
    mask = mask.astype(np.int64)
    return {GRAPH_INPUTS[0]: ids.astype(np.int64), GRAPH_INPUTS[1]: mask, POOLING_MASK: mask}
