"""The artifact's vectors beside those of a reference, on sample texts and images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.artifact.manifest import IMAGE, Parity
from embedder.errors import ArtifactError

from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NoReferenceError, ParityError
from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import IMAGE_LIMITS, Vectors, compare
from embedder_export.verify.own_graph import own_graph_reference
from embedder_export.verify.reference import Reference, is_reference_installed, sentence_transformers_reference

VERIFICATIONS = ("auto", "reference")

# Prompts for models that leave the prompt out of the pooling. The first may fill all the tokens that a text has. The
# second ends in a character that is in no vocabulary.
_PROMPTS = ("Represent the sentence, on whatever it is, for retrieving others: ", "a \U000f0000")


@dataclass(frozen=True)
class _Subject:
    """What is verified.

    Attributes:
        model: the artifact, loaded.
        artifact: its directory.
        checkpoint: what it was made from.
        load_reference: loads sentence-transformers once. None if that is not installed, or too old.
    """

    model: Embedder
    artifact: Path
    checkpoint: Checkpoint
    load_reference: Callable[[], Reference | None]


def check_verification(wanted: str) -> None:
    """Check that `wanted`, one of `VERIFICATIONS`, can be had. It is better known before the export than after it.

    Raises:
        NeedsTorchError: sentence-transformers is not installed.
    """
    if wanted == "reference" and not is_reference_installed():
        raise NeedsTorchError("the comparison with sentence-transformers was asked for")


def verify(
    artifact: Path, checkpoint: Checkpoint, report: Callable[[str], None], verification: str = "auto"
) -> tuple[Parity | None, Parity | None]:
    """Compare the artifact with a reference, on texts and, if the model takes them, on images.

    The reference is sentence-transformers if it is installed and reads the checkpoint. Otherwise, for texts, it is the
    checkpoint's own graph.

    Args:
        artifact: its directory.
        checkpoint: what it was made from.
        report: called with a line for each comparison.
        verification: one of `VERIFICATIONS`. "reference" is sentence-transformers alone.

    Returns:
        The parity of texts and of images. None where there is nothing to compare with.

    Raises:
        NoReferenceError: sentence-transformers was asked for, and is too old for the checkpoint.
        ParityError: the vectors are not near enough (`compare.TEXT_LIMITS`, `compare.IMAGE_LIMITS`), or not finite.
        CheckpointError: sentence-transformers fails on the checkpoint, or the artifact does not work.
    """
    try:
        with Embedder(artifact, provider="cpu", dtype="fp32") as model:
            is_required = verification == "reference"
            load = cache(partial(_load_reference, checkpoint, model.max_seq_length, report, is_required=is_required))
            subject = _Subject(model, artifact, checkpoint, load)
            of_texts = _verify_texts(subject, report)
            of_images = _verify_images(subject, report) if IMAGE in model.modalities else None
    except ArtifactError as error:
        raise CheckpointError(f"{checkpoint.name} does not work, as its files do not fit together: {error}") from error
    return of_texts, of_images


def _load_reference(
    checkpoint: Checkpoint, max_seq_length: int, report: Callable[[str], None], *, is_required: bool
) -> Reference | None:
    try:
        return sentence_transformers_reference(checkpoint, max_seq_length)
    except NoReferenceError as error:
        if is_required:
            raise
        report(str(error))
        return None


def _verify_texts(subject: _Subject, report: Callable[[str], None]) -> Parity | None:
    tasks = _text_tasks(subject.model)
    ours = np.concatenate([subject.model.encode(texts, prompt=prompt) for prompt, texts in tasks])
    _check_finite(ours, subject.checkpoint)
    reference = subject.load_reference()
    # A graph of several transformers has the inputs and outputs of all, and is not comparable.
    if reference is None and subject.checkpoint.family.own_pooling is None:
        reference = own_graph_reference(subject.checkpoint, subject.artifact, report)
    if reference is None:
        return None
    report(f"comparing with {reference.name}")
    try:
        theirs = np.concatenate([reference.encode(texts, prompt) for prompt, texts in tasks])
    except NoReferenceError as error:
        report(str(error))
        return None
    return compare(ours, theirs, [text for _, texts in tasks for text in texts], reference.name)


def _text_tasks(model: Embedder) -> list[tuple[str | None, list[str]]]:
    """Return prompts, each with the texts to encode under it."""
    # Without a single token, sentence-transformers fails on a text or gives the padding's vector.
    sentences = [text for text in parity_sentences() if model.tokenize(text)["attention_mask"].any()]
    tasks: list[tuple[str | None, list[str]]] = [(None, sentences)]
    if model.manifest.leaves_prompt_out:
        tasks += [(prompt, sentences[::3]) for prompt in _PROMPTS]
    return tasks


def _verify_images(subject: _Subject, report: Callable[[str], None]) -> Parity | None:
    """Compare every other sample image. The comparison includes the preparation of images."""
    images = sample_images()[::2]
    ours = subject.model.encode(images)
    _check_finite(ours, subject.checkpoint)
    reference = subject.load_reference()
    if reference is None:
        return None
    report(f"comparing images with {reference.name}")
    names = [f"image {index} of {image.shape}" for index, image in enumerate(images)]
    return compare(ours, reference.encode(images, None), names, reference.name, IMAGE_LIMITS)


def _check_finite(embeddings: Vectors, checkpoint: Checkpoint) -> None:
    if not np.isfinite(embeddings).all():
        raise ParityError(
            f"{checkpoint.name} gives embeddings that are not finite, although its weights are: its numbers grow past "
            "the range of float32"
        )
