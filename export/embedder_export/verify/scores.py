"""Compare the scores of an artifact with a reference's, and those of its other dtypes with fp32's, on sample pairs."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from embedder.artifact.manifest import TOKEN_TYPE_IDS, Manifest
from embedder.artifact.measurements import ScoreParity, ScoreQuality
from embedder.cross_encoder import CrossEncoder
from embedder.engine.outputs import NotFiniteError
from embedder.engine.tokenizer import TextTokenizer
from embedder.inputs import Pair
from numpy.typing import NDArray

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import ParityError
from embedder_export.samples.pairs import parity_pairs, quality_pairs
from embedder_export.verify.closeness import Values, spearman
from embedder_export.verify.failures import described_failures, load_if_possible
from embedder_export.verify.reference import ScoreReference, cross_encoder_reference

# Largest difference from the reference, as a share of the range of its scores.
MAX_DIFFERENCE = 1e-4
# The least range of scores to divide by, as a share of the largest score. The scores of a model that gives every pair
# nearly the same score differ only by rounding.
_MIN_RANGE = 0.01


def verify_scores(
    artifact: Path, manifest: Manifest, checkpoint: Checkpoint, report: Callable[[str], None], *, is_required: bool
) -> ScoreParity | None:
    """Compare the scores of the artifact with those of sentence-transformers' CrossEncoder, if it is installed.

    Args:
        artifact: the artifact's directory.
        manifest: its manifest.
        checkpoint: the exported checkpoint.
        report: called with a line for the comparison.
        is_required: whether it is an error if sentence-transformers is too old for the checkpoint.

    Returns:
        The parity. None if there is nothing to compare with.

    Raises:
        NoReferenceError: the reference is required, and cannot load the checkpoint.
        ParityError: the scores are not finite, or differ more than `MAX_DIFFERENCE` allows.
        CheckpointError: sentence-transformers fails on the checkpoint, or the artifact does not work.

    Example:
        >>> verify_scores(artifact, manifest, checkpoint, print, is_required=False).spearman  # doctest: +SKIP
        1.0
    """
    limit = manifest.tokenizer.max_seq_length
    pairs = _with_tokens(TextTokenizer(artifact / manifest.tokenizer.file.name, limit, pairs=True), parity_pairs(limit))
    with described_failures(checkpoint.name, "scores"):
        ours = scores_of(artifact, "fp32", pairs)
    token_types = TOKEN_TYPE_IDS in manifest.graphs[0].inputs
    load = partial(cross_encoder_reference, checkpoint, limit, token_types=token_types)
    reference = load_if_possible(load, report, is_required=is_required)
    if reference is None:
        return None
    report(f"comparing scores with {reference.name}")
    return _compare(ours, reference, pairs)


def _compare(ours: Values, reference: ScoreReference, pairs: Sequence[Pair]) -> ScoreParity:
    theirs = reference.predict(pairs)
    try:
        return compare_scores(ours, theirs, pairs, reference.name)
    except ParityError as error:
        single = np.concatenate([reference.predict([pair]) for pair in pairs])
        if score_differences(single, theirs).max() > MAX_DIFFERENCE:
            raise ParityError(
                f"{error}. The model's scores depend on the padding of a batch, also in {reference.name}: such models "
                "are not supported"
            ) from error
        raise


def scores_of(artifact: Path, dtype: str, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    """Return the scores that the runtime computes for pairs, without activation: float32 (pairs, labels).

    Args:
        artifact: the artifact's directory.
        dtype: the dtype of the graph.
        pairs: the pairs.

    Raises:
        NotFiniteError: a score is not finite.
        ArtifactError: a file is damaged, or the graph fails.

    Example:
        >>> scores_of(Path("artifacts/small"), "fp32", [Pair("a query", "a passage")]).shape  # doctest: +SKIP
        (1, 1)
    """
    with CrossEncoder(artifact, provider="cpu", dtype=dtype, local_files_only=True) as model:
        texts = [(pair.first, pair.second) for pair in pairs]
        return np.reshape(model.predict(texts, activation_fn="identity", prompt=""), (len(pairs), model.label_count))


def _with_tokens(tokenizer: TextTokenizer, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that have a token, be it a special one. Other pairs get no score, here and in the reference."""
    counts = [sum(tokenizer.token_counts([pair.first, pair.second])) + tokenizer.special_count for pair in pairs]
    return [pair for pair, count in zip(pairs, counts, strict=True) if count]


def compare_scores(ours: Values, theirs: Values, pairs: Sequence[Pair], reference: str) -> ScoreParity:
    """Check that the artifact's scores agree with the reference's.

    Args:
        ours: the artifact's scores, float32 (pairs, labels).
        theirs: the reference's scores, float32 (pairs, labels).
        pairs: the pairs, for the message.
        reference: the reference's name.

    Returns:
        The measured parity, for the manifest.

    Raises:
        ParityError: the shapes differ, or a difference exceeds the limit. The message names the worst pair.

    Example:
        >>> scores = np.array([[1.0], [2.0]], np.float32)
        >>> compare_scores(scores, scores, [Pair("a", "b"), Pair("a", "c")], "itself")
        ScoreParity(reference='itself', samples=2, spearman=1.0, max_difference=0.0)
    """
    if ours.shape != theirs.shape:
        raise ParityError(f"the artifact's scores have the shape {ours.shape}, but {reference} gives {theirs.shape}")
    differences = score_differences(ours, theirs)
    # A comparison with NaN is False, so NaN fails too.
    if not differences.max() <= MAX_DIFFERENCE:
        worst = pairs[int(np.argmax(np.nan_to_num(differences, nan=np.inf)))]
        raise ParityError(
            f"parity with {reference} fell short: largest difference of scores {differences.max():.2e} of their range "
            f"(at most {MAX_DIFFERENCE}); worst on {worst.first!r:.60} and {worst.second!r:.60}"
        )
    return ScoreParity(reference, len(pairs), spearman(ours, theirs), float(differences.max()))


def measure_score_quality(artifact: Path, dtype: str) -> ScoreQuality:
    """Compare the scores of a graph with the fp32 scores, on pairs that did not calibrate the graph.

    Args:
        artifact: the artifact's directory.
        dtype: the dtype of the graph.

    Example:
        >>> measure_score_quality(Path("artifacts/ms-marco-MiniLM-L6-v2"), "int8").samples  # doctest: +SKIP
        96
    """
    pairs = quality_pairs()
    return score_quality(lambda name: scores_of(artifact, name, pairs), dtype, len(pairs))


def score_quality(scores_in: Callable[[str], Values], dtype: str, samples: int) -> ScoreQuality:
    """Compare the scores in `dtype` with those in fp32.

    Args:
        scores_in: returns the scores of the samples in a dtype, float32 (samples, labels).
        dtype: the dtype of the graph.
        samples: number of samples.

    Example:
        >>> score_quality(lambda dtype: np.array([[0.1], [2.0]]), "int8", 2).max_difference
        0.0
    """
    try:
        ours = scores_in(dtype)
    except NotFiniteError:
        return ScoreQuality(samples, -1.0, 1.0)
    theirs = scores_in("fp32")
    return ScoreQuality(samples, spearman(ours, theirs), float(score_differences(ours, theirs).max()))


def score_differences(ours: Values, theirs: Values) -> NDArray[np.float64]:
    """Return the largest difference of each pair's scores, as a share of the range of a label's scores in `theirs`.

    Args:
        ours: scores, (pairs, labels).
        theirs: scores to compare with, (pairs, labels).

    Example:
        >>> score_differences(np.array([[0.1], [2.0]]), np.array([[0.0], [2.0]])).tolist()
        [0.05, 0.0]
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    scale = np.maximum(np.ptp(theirs, axis=0), _MIN_RANGE * np.abs(theirs).max(axis=0))
    differences: NDArray[np.float64] = (np.abs(ours - theirs) / np.where(scale > 0, scale, 1)).max(axis=1)
    return differences
