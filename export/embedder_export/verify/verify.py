"""Last stage: the artifact's embeddings, by the runtime, against those of a reference."""

from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.artifact.manifest import IMAGE, Parity, Quality
from embedder.errors import ArtifactError

from embedder_export.checkpoint.read import Checkpoint
from embedder_export.dtype.samples import parity_sentences, real_sentences, sample_images
from embedder_export.errors import CheckpointError, NeedsTorchError, NoReferenceError, ParityError
from embedder_export.verify.reference import Reference, own_graph_reference, sentence_transformers_reference

VERIFICATIONS = ("auto", "reference")
MIN_COSINE = 0.99999
MAX_DIFFERENCE = 1e-4
# With the preparation in it, which versions of transformers do by other libraries.
MIN_IMAGE_COSINE = 0.9999
MAX_IMAGE_DIFFERENCE = 1e-2
# What a graph of another dtype than fp32 has to reach, beside it.
MIN_MEAN_COSINE, MIN_QUALITY_COSINE = 0.997, 0.985

# The long one may fill all that a text has place for; the short one ends in what no vocabulary has.
_PROMPTS = ("Represent the sentence, on whatever it is, for retrieving others: ", "a \U000f0000")


def check_verification(wanted: str) -> None:
    """Raise NeedsTorchError where `wanted`, one of `VERIFICATIONS`, cannot be had: better now than after the export."""
    if wanted == "reference" and find_spec("sentence_transformers") is None:
        raise NeedsTorchError("the comparison with sentence-transformers was asked for")


def verify(
    artifact: Path, checkpoint: Checkpoint, report: Callable[[str], None], verification: str = "auto"
) -> tuple[Parity | None, Parity | None]:
    """Compare the two on texts, and on images if the model takes them; None for what there is nothing to compare with.

    The reference is sentence-transformers, where it is installed and reads the checkpoint; else, of texts, the
    checkpoint's own graph. With the `verification` "reference" it is sentence-transformers alone.

    Raises:
        NoReferenceError: sentence-transformers is asked for, and is too old for the checkpoint.
        ParityError: the smallest cosine is below `MIN_COSINE`, or the largest difference above `MAX_DIFFERENCE`, of
            images `MIN_IMAGE_COSINE` and `MAX_IMAGE_DIFFERENCE`; or a vector is not finite, even without a reference.
        CheckpointError: sentence-transformers itself fails on the checkpoint, or the artifact does.
    """
    try:
        model = Embedder(artifact, provider="cpu", dtype="fp32")
        load = cache(partial(_load_reference, checkpoint, model.max_seq_length, report, verification))
        of_texts = _verify_texts(model, artifact, checkpoint, load, report)
        of_images = _verify_images(model, checkpoint, load, report) if IMAGE in model.modalities else None
    except ArtifactError as error:
        raise CheckpointError(f"{checkpoint.name} does not work, as its files do not fit together: {error}") from error
    return of_texts, of_images


def _load_reference(
    checkpoint: Checkpoint, max_seq_length: int, report: Callable[[str], None], verification: str
) -> Reference | None:
    try:
        return sentence_transformers_reference(checkpoint, max_seq_length)
    except NoReferenceError as error:
        if verification == "reference":
            raise
        report(str(error))
        return None


def _verify_texts(
    model: Embedder,
    artifact: Path,
    checkpoint: Checkpoint,
    load: Callable[[], Reference | None],
    report: Callable[[str], None],
) -> Parity | None:
    """On `parity_sentences`; where the model leaves its prompt out of the pooling, under a prompt too."""
    # Where a blank text has no token, not even a special one, sentence-transformers fails on it or gives what the
    # padding gives.
    sentences = [text for text in parity_sentences() if model.tokenize(text)["attention_mask"].any()]
    tasks: list[tuple[str | None, list[str]]] = [(None, sentences)]
    if not model.manifest.head.include_prompt:
        tasks += [(prompt, sentences[::3]) for prompt in _PROMPTS]
    ours = np.concatenate([model.encode(texts, prompt=prompt) for prompt, texts in tasks])
    _check_finite(ours, checkpoint)
    reference = load()
    if reference is None and not checkpoint.is_clip:  # whose own graph would have both sides, and other outputs
        reference = own_graph_reference(checkpoint, artifact, report)
    if reference is None:
        return None
    report(f"comparing with {reference.name}")
    try:
        theirs = np.concatenate([reference.encode(texts, prompt) for prompt, texts in tasks])
    except NoReferenceError as error:
        report(str(error))
        return None
    return compare(ours, theirs, [text for _, texts in tasks for text in texts], reference.name)


def _verify_images(
    model: Embedder, checkpoint: Checkpoint, load: Callable[[], Reference | None], report: Callable[[str], None]
) -> Parity | None:
    """On every other of `sample_images`, preparation included."""
    images = sample_images()[::2]
    ours = model.encode(images)
    _check_finite(ours, checkpoint)
    reference = load()
    if reference is None:
        return None
    report(f"comparing images with {reference.name}")
    names = [f"image {index} of {image.shape}" for index, image in enumerate(images)]
    theirs = reference.encode(images, None)
    return compare(ours, theirs, names, reference.name, MIN_IMAGE_COSINE, MAX_IMAGE_DIFFERENCE)


def _check_finite(embeddings: np.ndarray, checkpoint: Checkpoint) -> None:
    if not np.isfinite(embeddings).all():
        raise ParityError(f"{checkpoint.name} gives embeddings that are not finite: are its weights damaged?")


def measure_quality(artifact: Path, modality: str, dtype: str) -> Quality:
    """The vectors of the graph of `dtype` beside those of fp32, on samples that it was not made on."""
    samples = sample_images()[1::2] if modality == IMAGE else real_sentences()[1::2]
    ours, exact = (Embedder(artifact, provider="cpu", dtype=name).encode(samples) for name in (dtype, "fp32"))
    cosine, _ = measure(ours, exact)
    cosine = np.minimum(np.nan_to_num(cosine, nan=-1.0), 1.0)
    return Quality(len(samples), float(cosine.mean()), float(cosine.min()))


def falls_short(quality: Quality) -> bool:
    """Whether vectors of such a quality are too far from those of fp32."""
    return quality.mean_cosine < MIN_MEAN_COSINE or quality.min_cosine < MIN_QUALITY_COSINE


def compare(
    ours: np.ndarray,
    theirs: np.ndarray,
    names: list[str],
    reference: str,
    min_cosine: float = MIN_COSINE,
    max_difference: float = MAX_DIFFERENCE,
) -> Parity:
    """The parity of `ours` with `theirs`, both float32 (n, dim), of what `names` has; ParityError if it falls short."""
    if ours.shape != theirs.shape:
        raise ParityError(f"the artifact's embeddings have the shape {ours.shape}, those of {reference} {theirs.shape}")
    cosine, difference = measure(ours, theirs)
    # Written so that NaN fails too.
    if not (cosine.min() >= min_cosine and difference.max() <= max_difference):
        worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
        raise ParityError(
            f"parity with {reference} fell short: smallest cosine {cosine.min():.8f} (at least {min_cosine}), largest "
            f"difference {difference.max():.2e} (at most {max_difference}); worst on {names[worst]!r:.80}"
        )
    return Parity(reference, len(names), min(float(cosine.min()), 1.0), float(difference.max()))


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
