"""Compare the artifact's vectors or scores with a reference's, on samples."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.artifact.manifest import IMAGE, SPARSE, Manifest
from embedder.artifact.measurements import Parity

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import NeedsTorchError, NoReferenceError
from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import IMAGE_LIMITS, compare
from embedder_export.verify.failures import described_failures, load_if_possible
from embedder_export.verify.model2vec import model2vec_reference
from embedder_export.verify.own_graph import OWN_GRAPH, own_graph_reference
from embedder_export.verify.reference import Reference, is_reference_installed, sentence_transformers_reference
from embedder_export.verify.scores import verify_scores
from embedder_export.verify.sparse import verify_sparse
from embedder_export.verify.token_vectors import verify_token_vectors

AUTO, REFERENCE, GRAPH = VERIFICATIONS = ("auto", "reference", "graph")

# Prompts for models that leave the prompt out of the pooling. The first may be longer than the limit of tokens. The
# second ends in a character that no vocabulary has.
_PROMPTS = ("Represent the sentence, on whatever it is, for retrieving others: ", "a \U000f0000")


@dataclass(frozen=True)
class _Subject:
    """The artifact to verify, with its reference.

    Attributes:
        model: the loaded artifact.
        artifact: the artifact's directory.
        checkpoint: the exported checkpoint.
        load_reference: loads sentence-transformers once and returns it. It returns None if sentence-transformers is
            not installed, or too old.
        verification: one of `VERIFICATIONS`.
    """

    model: Embedder
    artifact: Path
    checkpoint: Checkpoint
    load_reference: Callable[[], Reference | None]
    verification: str


def check_verification(verification: str) -> None:
    """Check that `verification`, one of `VERIFICATIONS`, is possible. This comes before the long stages of the export.

    Raises:
        NeedsTorchError: sentence-transformers is asked for, and not installed.

    Example:
        >>> check_verification("auto")
    """
    if verification == REFERENCE and not is_reference_installed():
        raise NeedsTorchError("the comparison with sentence-transformers was asked for")


def verify(
    artifact: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    report: Callable[[str], None],
    verification: str = "auto",
) -> Manifest:
    """Compare the artifact with a reference, and return its manifest with the result.

    The reference is sentence-transformers if it is installed and can read the checkpoint. Otherwise vectors of texts
    are compared with the checkpoint's own graph, if it is there.

    Args:
        artifact: the artifact's directory.
        manifest: its manifest.
        checkpoint: the exported checkpoint.
        report: called with a line for each comparison.
        verification: one of `VERIFICATIONS`. "reference" demands sentence-transformers. "graph" demands the
            checkpoint's own graph, and fetches it from the Hub.

    Returns:
        The manifest with the parity of texts, images or scores. It is None where there is nothing to compare with.

    Raises:
        NoReferenceError: sentence-transformers is demanded, and is too old for the checkpoint; or the own graph is
            demanded, and there is none that can be compared with.
        ParityError: vectors or scores are not finite, or differ more than the limits allow.
        CheckpointError: sentence-transformers fails on the checkpoint, or the artifact does not work.

    Example:
        >>> verify(Path("artifacts/small"), manifest, checkpoint, print).parity.min_cosine > 0.99999  # doctest: +SKIP
        True
    """
    if manifest.scores is not None:
        if verification == GRAPH:
            raise NoReferenceError("the scores of a cross-encoder are not compared with its own graph")
        is_required = verification == REFERENCE
        found = verify_scores(artifact, manifest, checkpoint, report, is_required=is_required)
        return replace(manifest, scores=replace(manifest.scores, parity=found))
    if manifest.multi_vector is not None:
        if verification == GRAPH:
            raise NoReferenceError("the vectors of tokens are not compared with the checkpoint's own graph")
        is_required = verification == REFERENCE
        return replace(
            manifest, parity=verify_token_vectors(artifact, manifest, checkpoint, report, is_required=is_required)
        )
    if manifest.task == SPARSE:
        if verification == GRAPH:
            raise NoReferenceError("the vectors of a sparse model are not compared with its own graph")
        is_required = verification == REFERENCE
        parity = verify_sparse(artifact, manifest, checkpoint, report, is_required=is_required)
        return replace(manifest, parity=parity)
    text_parity, image_parity = _verify_vectors(artifact, checkpoint, report, verification)
    images = None if manifest.images is None else replace(manifest.images, parity=image_parity)
    return replace(manifest, parity=text_parity, images=images)


def _verify_vectors(
    artifact: Path, checkpoint: Checkpoint, report: Callable[[str], None], verification: str
) -> tuple[Parity | None, Parity | None]:
    """Compare the vectors of texts and, if the model takes images, of images."""
    with described_failures(checkpoint.name), Embedder(artifact, provider="cpu", dtype="fp32") as model:
        is_required = verification == REFERENCE
        load = cache(partial(_load_reference, checkpoint, model.max_seq_length, report, is_required=is_required))
        subject = _Subject(model, artifact, checkpoint, load, verification)
        text_parity = _verify_texts(subject, report)
        image_parity = _verify_images(subject, report) if IMAGE in model.modalities else None
    return text_parity, image_parity


def _load_reference(
    checkpoint: Checkpoint, max_seq_length: int, report: Callable[[str], None], *, is_required: bool
) -> Reference | None:
    def load() -> Reference | None:
        if checkpoint.is_model2vec:
            return model2vec_reference(checkpoint, is_required=is_required)
        return sentence_transformers_reference(checkpoint, max_seq_length)

    return load_if_possible(load, report, is_required=is_required)


def _verify_texts(subject: _Subject, report: Callable[[str], None]) -> Parity | None:
    groups = _texts_by_prompt(subject.model)
    ours = np.concatenate([subject.model.encode(texts, prompt=prompt) for prompt, texts in groups])
    reference = _reference_for_texts(subject, report)
    if reference is None:
        return None
    report(f"comparing with {reference.name}")
    try:
        theirs = np.concatenate([reference.encode(texts, prompt) for prompt, texts in groups])
    except NoReferenceError as error:
        if subject.verification == GRAPH:
            raise
        report(str(error))
        return None
    return compare(ours, theirs, [text for _, texts in groups for text in texts], reference.name)


def _reference_for_texts(subject: _Subject, report: Callable[[str], None]) -> Reference | None:
    is_graph_demanded = subject.verification == GRAPH
    reference = None if is_graph_demanded else subject.load_reference()
    # The own graph of a model with several towers has the inputs and outputs of all towers. It is not comparable.
    if reference is None and subject.checkpoint.family.own_pooling is None:
        reference = own_graph_reference(subject.checkpoint, subject.artifact, report, fetch=is_graph_demanded)
    if reference is None and is_graph_demanded:
        raise NoReferenceError(f"{subject.checkpoint.name} has no {OWN_GRAPH} that can be compared with")
    return reference


def _texts_by_prompt(model: Embedder) -> list[tuple[str | None, list[str]]]:
    """Return pairs of a prompt and the texts to encode with it."""
    # If a text has no token at all, sentence-transformers fails or returns the padding's vector.
    sentences = [text for text in parity_sentences() if model.tokenize(text)["attention_mask"].any()]
    groups: list[tuple[str | None, list[str]]] = [(None, sentences)]
    if model.manifest.leaves_prompt_out:
        groups += [(prompt, sentences[::3]) for prompt in _PROMPTS]
    return groups


def _verify_images(subject: _Subject, report: Callable[[str], None]) -> Parity | None:
    """Compare the vectors of every other sample image. This tests the preparation of images too."""
    images = sample_images()[::2]
    ours = subject.model.encode(images)
    reference = subject.load_reference()
    if reference is None:
        return None
    report(f"comparing images with {reference.name}")
    names = [f"image {index} of {image.shape}" for index, image in enumerate(images)]
    return compare(ours, reference.encode(images, None), names, reference.name, IMAGE_LIMITS)
