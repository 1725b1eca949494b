"""Compare the vectors of tokens of an artifact with a reference's, and the scores of its other dtypes with fp32's."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from embedder.artifact.manifest import Manifest
from embedder.artifact.measurements import Parity, ScoreQuality
from embedder.artifact.multi_vector import ROLES
from embedder.inputs import Pair
from embedder.multi_vector_encoder import MultiVectorEncoder
from numpy.typing import NDArray

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import ParityError
from embedder_export.samples.pairs import quality_pairs
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import Vectors, compare
from embedder_export.verify.failures import described_failures, load_if_possible
from embedder_export.verify.reference import multi_vector_reference
from embedder_export.verify.scores import score_quality


def verify_token_vectors(
    artifact: Path, manifest: Manifest, checkpoint: Checkpoint, report: Callable[[str], None], *, is_required: bool
) -> Parity | None:
    """Compare the vectors of queries and documents with those of sentence-transformers' MultiVectorEncoder.

    Args:
        artifact: the artifact's directory.
        manifest: its manifest.
        checkpoint: the exported checkpoint.
        report: called with a line for the comparison.
        is_required: whether it is an error if sentence-transformers does not read such a checkpoint.

    Returns:
        The parity. A sample is the vector of a token. None if there is nothing to compare with.

    Raises:
        NoReferenceError: the reference is required, and cannot load the checkpoint.
        ParityError: the vectors are not finite, or differ more than the limits allow.
        CheckpointError: sentence-transformers fails on the checkpoint, or the artifact does not work.

    Example:
        >>> verify_token_vectors(artifact, manifest, checkpoint, print, is_required=False).min_cosine  # doctest: +SKIP
        1.0
    """
    texts = parity_sentences()
    with (
        described_failures(checkpoint.name),
        MultiVectorEncoder(artifact, provider="cpu", dtype="fp32", local_files_only=True) as model,
    ):
        ours = {role: _encode(model, texts, role) for role in ROLES}
    settings = manifest.multi_vector
    assert settings is not None  # the manifest of such a model has them
    load = partial(multi_vector_reference, checkpoint, settings)
    reference = load_if_possible(load, report, is_required=is_required)
    if reference is None:
        return None
    report(f"comparing queries and documents with {reference.name}")
    names: list[str] = []
    joined: list[list[Vectors]] = [[], []]
    for role in ROLES:
        # If a text has no token at all, sentence-transformers fails or returns the padding's vector.
        rows = [row for row, vectors in enumerate(ours[role]) if len(vectors)]
        theirs = reference.encode([texts[row] for row in rows], role)
        for row, vectors in zip(rows, theirs, strict=True):
            own = ours[role][row]
            if len(own) != len(vectors):
                raise ParityError(
                    f"the artifact gives {len(own)} vectors for the {role} {texts[row]!r:.80}, and {reference.name} "
                    f"gives {len(vectors)}"
                )
            joined[0].append(own)
            joined[1].append(vectors)
            names += [f"{role}: {texts[row]}"] * len(own)
    return compare(np.concatenate(joined[0]), np.concatenate(joined[1]), names, reference.name)


def _encode(model: MultiVectorEncoder, texts: Sequence[str], role: str) -> list[NDArray[np.float32]]:
    encode = model.encode_query if role == ROLES[0] else model.encode_document
    return list(encode(texts))


def measure_maxsim_quality(artifact: Path, dtype: str) -> ScoreQuality:
    """Compare the scores of a graph with the fp32 scores, on pairs that did not calibrate the graph.

    Args:
        artifact: the artifact's directory.
        dtype: the dtype of the graph.

    Example:
        >>> measure_maxsim_quality(Path("artifacts/colbertv2.0"), "int8").samples  # doctest: +SKIP
        96
    """
    pairs = quality_pairs()
    return score_quality(lambda name: _scores_of(artifact, name, pairs), dtype, len(pairs))


def _scores_of(artifact: Path, dtype: str, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    """Return the scores of pairs of a query and a document, float32 (pairs, 1)."""
    with MultiVectorEncoder(artifact, provider="cpu", dtype=dtype, local_files_only=True) as model:
        queries = model.encode_query([pair.first for pair in pairs])
        documents = model.encode_document([pair.second for pair in pairs])
        return model.similarity_pairwise(queries, documents)[:, np.newaxis]
