"""Last stage: the artifact, through the runtime, against the checkpoint, through sentence-transformers."""

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.manifest import Parity
from sentence_transformers import SentenceTransformer

from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import ParityError

MIN_COSINE = 0.99999
MAX_ABS_DIFFERENCE = 1e-4

# What a line of a text file cannot hold, and what people send all the same.
_BLANK = ("", " ", "\n", "\t \n", "\u0085")
_ODD = (*_BLANK, "two\nlines", "\ufeffmark", "a\0b", "\x7f", "word " * 2000, "x" * 5000, "字" * 1000)


def parity_sentences() -> list[str]:
    """Varied real sentences: short and past every limit, in many scripts and cases; and odd strings."""
    text = files("embedder_export").joinpath("parity_sentences.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n") + list(_ODD)


def verify(artifact: Path, checkpoint: Checkpoint) -> Parity:
    """Compare the two on `parity_sentences`.

    Raises:
        ParityError: the smallest cosine is below `MIN_COSINE`, or the largest difference above `MAX_ABS_DIFFERENCE`.
    """
    sentences = parity_sentences()
    ours = Embedder(artifact, provider="cpu").encode(sentences)
    reference = SentenceTransformer(str(checkpoint.directory), device="cpu", local_files_only=True)
    theirs = reference.encode(sentences, show_progress_bar=False)
    return compare(ours, theirs, sentences, f"sentence-transformers {version('sentence-transformers')}")


def compare(ours: np.ndarray, theirs: np.ndarray, sentences: list[str], reference: str) -> Parity:
    """The parity of `ours` with `theirs`, both float32 (n, dim); raises ParityError as `verify` does."""
    if ours.shape != theirs.shape:
        raise ParityError(f"the artifact's embeddings have the shape {ours.shape}, those of {reference} {theirs.shape}")
    difference = np.abs(ours - theirs).max(axis=1)
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        cosine = (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    # Written so that NaN fails too.
    if not (cosine.min() >= MIN_COSINE and difference.max() <= MAX_ABS_DIFFERENCE):
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
        raise ParityError(
            f"parity with {reference} fell short: smallest cosine {cosine.min():.8f} (at least {MIN_COSINE}), largest "
            f"difference {difference.max():.2e} (at most {MAX_ABS_DIFFERENCE}); worst on {sentences[worst]!r:.80}"
        )
    return Parity(reference, len(sentences), min(float(cosine.min()), 1.0), float(difference.max()))
