"""Last stage: the artifact's embeddings, by the runtime, against those of a reference."""

from collections.abc import Callable
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.errors import ArtifactError
from embedder.manifest import Parity, Quality

from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NoReferenceError, ParityError
from embedder_export.reference import own_graph_reference, sentence_transformers_reference

VERIFICATIONS = ("auto", "reference")
MIN_COSINE = 0.99999
MAX_DIFFERENCE = 1e-4
# What a graph of another precision than fp32 has to reach, beside it.
MIN_MEAN_COSINE, MIN_QUALITY_COSINE = 0.997, 0.985

# What a line of a text file cannot hold, and what people send all the same.
_BLANK = ("", " ", "\n", "\t \n", "\u0085")
_SPECIAL = "<s> of </s> [CLS] special [SEP] [MASK] tokens <mask> <unk> [UNK] <extra_id_0>"
_ODD = (*_BLANK, _SPECIAL, "two\nlines", "\ufeffmark", "a\0b", "\x7f", "word " * 2000, "x" * 5000, "字" * 1000)
# The long one may fill all that a text has place for; the short one ends in what no vocabulary has.
_PROMPTS = ("Represent the sentence, on whatever it is, for retrieving others: ", "a \U000f0000")


def parity_sentences() -> list[str]:
    """Varied real sentences: short and past every limit, in many scripts and cases; and odd strings."""
    return real_sentences() + list(_ODD)


def real_sentences() -> list[str]:
    """Those of `parity_sentences` that people have written."""
    text = files("embedder_export").joinpath("parity_sentences.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n")


def sample_sentences() -> list[str]:
    """Those of `real_sentences` to choose a graph on; it is measured on the others."""
    return real_sentences()[::2]


def check_verification(wanted: str) -> None:
    """Raise NeedsTorchError where `wanted`, one of `VERIFICATIONS`, cannot be had: better now than after the export."""
    if wanted == "reference" and find_spec("sentence_transformers") is None:
        raise NeedsTorchError("the comparison with sentence-transformers was asked for")


def verify(artifact: Path, checkpoint: Checkpoint, report: Callable[[str], None]) -> Parity | None:
    """Compare the two on `parity_sentences`; where the model leaves its prompt out of the pooling, under a prompt too.

    The reference is sentence-transformers, where it is installed; else the checkpoint's own graph; None if there is
    neither.

    Raises:
        ParityError: the smallest cosine is below `MIN_COSINE`, or the largest difference above `MAX_DIFFERENCE`; or a
            vector is not finite, even without a reference.
        CheckpointError: sentence-transformers itself fails on the checkpoint, or the artifact does.
    """
    try:
        return _verify(artifact, checkpoint, report)
    except ArtifactError as error:
        raise CheckpointError(f"{checkpoint.name} does not work, as its files do not fit together: {error}") from error


def _verify(artifact: Path, checkpoint: Checkpoint, report: Callable[[str], None]) -> Parity | None:
    model = Embedder(artifact, provider="cpu", graph="fp32")
    # Where a blank text has no token, not even a special one, sentence-transformers fails on it or gives what the
    # padding gives.
    sentences = [text for text in parity_sentences() if model.tokenize(text)["attention_mask"].any()]
    tasks: list[tuple[str | None, list[str]]] = [(None, sentences)]
    if not model.manifest.head.include_prompt:
        tasks += [(prompt, sentences[::3]) for prompt in _PROMPTS]
    ours = np.concatenate([model.encode(texts, prompt=prompt) for prompt, texts in tasks])
    if not np.isfinite(ours).all():
        raise ParityError(f"{checkpoint.name} gives embeddings that are not finite: are its weights damaged?")
    reference = sentence_transformers_reference(checkpoint, model.max_seq_length)
    reference = reference or own_graph_reference(checkpoint, artifact, report)
    if reference is None:
        return None
    report(f"comparing with {reference.name}")
    try:
        theirs = np.concatenate([reference.encode(texts, prompt) for prompt, texts in tasks])
    except NoReferenceError as error:
        report(str(error))
        return None
    return compare(ours, theirs, [text for _, texts in tasks for text in texts], reference.name)


def measure_quality(artifact: Path, precision: str) -> Quality:
    """The vectors of the graph of `precision` beside those of fp32, on sentences that it was not made on."""
    sentences = real_sentences()[1::2]
    ours, exact = (Embedder(artifact, provider="cpu", graph=name).encode(sentences) for name in (precision, "fp32"))
    cosine, _ = measure(ours, exact)
    cosine = np.minimum(np.nan_to_num(cosine, nan=-1.0), 1.0)
    return Quality(len(sentences), float(cosine.mean()), float(cosine.min()))


def falls_short(quality: Quality) -> bool:
    """Whether vectors of such a quality are too far from those of fp32."""
    return quality.mean_cosine < MIN_MEAN_COSINE or quality.min_cosine < MIN_QUALITY_COSINE


def compare(ours: np.ndarray, theirs: np.ndarray, sentences: list[str], reference: str) -> Parity:
    """The parity of `ours` with `theirs`, both float32 (n, dim); raises ParityError as `verify` does."""
    if ours.shape != theirs.shape:
        raise ParityError(f"the artifact's embeddings have the shape {ours.shape}, those of {reference} {theirs.shape}")
    cosine, difference = measure(ours, theirs)
    # Written so that NaN fails too.
    if not (cosine.min() >= MIN_COSINE and difference.max() <= MAX_DIFFERENCE):
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
        raise ParityError(
            f"parity with {reference} fell short: smallest cosine {cosine.min():.8f} (at least {MIN_COSINE}), largest "
            f"difference {difference.max():.2e} (at most {MAX_DIFFERENCE}); worst on {sentences[worst]!r:.80}"
        )
    return Parity(reference, len(sentences), min(float(cosine.min()), 1.0), float(difference.max()))


def measure(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `ours` and `theirs`: their cosine, and their largest difference in one number.

    The difference is a share of the length of the row of `theirs`: of unit vectors it is the difference itself.
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(theirs, axis=1)
    with np.errstate(invalid="ignore"):
        # A vector may be zero, where both must be: a difference from it is taken as it is.
        difference = np.abs(ours - theirs).max(axis=1) / np.where(lengths > 0, lengths, 1)
        cosine = (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * lengths)
    cosine[(lengths == 0) & (difference == 0)] = 1
    return cosine, difference
