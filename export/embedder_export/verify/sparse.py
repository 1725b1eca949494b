"""Compare the sparse vectors of an artifact with a reference's, and those of its other dtypes with fp32's."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from embedder.artifact.manifest import Manifest
from embedder.artifact.measurements import Parity, Quality
from embedder.engine.tokenizer import TextTokenizer
from embedder.sparse_encoder import SparseEncoder

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.sparse_layers import TokenWeights
from embedder_export.errors import NoReferenceError
from embedder_export.samples.texts import parity_sentences, real_sentences
from embedder_export.verify.compare import Vectors, compare, quality_of
from embedder_export.verify.failures import described_failures, load_if_possible
from embedder_export.verify.reference import Reference, sparse_encoder_reference


def verify_sparse(
    artifact: Path, manifest: Manifest, checkpoint: Checkpoint, report: Callable[[str], None], *, is_required: bool
) -> Parity | None:
    """Compare the vectors of the artifact with those of sentence-transformers' SparseEncoder, if it is installed.

    The vectors are compared as dense ones: the cosine of two sparse vectors is that of their dot products too.

    Args:
        artifact: the artifact's directory.
        manifest: its manifest.
        checkpoint: the exported checkpoint.
        report: called with a line for the comparison.
        is_required: whether it is an error if there is no reference.

    Returns:
        The parity. None if there is nothing to compare with.

    Raises:
        NoReferenceError: the reference is required, and cannot load the checkpoint.
        ParityError: the vectors are not finite, or differ more than the limits allow.
        CheckpointError: sentence-transformers fails on the checkpoint, or the artifact does not work.

    Example:
        >>> verify_sparse(artifact, manifest, checkpoint, print, is_required=False).min_cosine  # doctest: +SKIP
        1.0
    """
    documents, queries = _samples(artifact, manifest)
    with described_failures(checkpoint.name):
        ours = _vectors(artifact, "fp32", documents, queries)
    reference = load_if_possible(partial(_load_reference, manifest, checkpoint), report, is_required=is_required)
    if reference is None:
        return None
    report(f"comparing with {reference.name}")
    theirs = reference.encode(documents, None)
    if queries:
        theirs = np.concatenate([theirs, reference.encode(queries, "query")])
    return compare(ours, theirs, [*documents, *queries], reference.name)


def _load_reference(manifest: Manifest, checkpoint: Checkpoint) -> Reference | None:
    if any(isinstance(layer, TokenWeights) for layer in checkpoint.layers):
        raise NoReferenceError(f"sentence-transformers does not know the sparse head of {checkpoint.name}")
    return sparse_encoder_reference(checkpoint, manifest.tokenizer.max_seq_length)


def measure_sparse_quality(artifact: Path, dtype: str) -> Quality:
    """Compare the vectors of a graph with the fp32 vectors, on samples that did not calibrate the graph.

    Args:
        artifact: the artifact's directory.
        dtype: the dtype of the graph.

    Example:
        >>> measure_sparse_quality(Path("artifacts/splade-v3"), "int8").samples  # doctest: +SKIP
        120
    """
    texts = real_sentences()[1::2]
    return quality_of(*(_vectors(artifact, name, texts, []) for name in (dtype, "fp32")))


def _samples(artifact: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Return documents, and queries if they are encoded in another way.

    If a text has no token at all, sentence-transformers fails.
    """
    tokenizer = TextTokenizer(artifact / manifest.tokenizer.file.name, manifest.tokenizer.max_seq_length)
    sentences = parity_sentences()
    counts = tokenizer.token_counts(sentences)
    documents = [text for text, count in zip(sentences, counts, strict=True) if count + tokenizer.special_count]
    if manifest.queries is None:
        return documents, []
    return documents, [text for text, count in zip(sentences, counts, strict=True) if count]


def _vectors(artifact: Path, dtype: str, documents: list[str], queries: list[str]) -> Vectors:
    """Return the vectors of documents and then of queries, without a prompt."""
    with SparseEncoder(artifact, provider="cpu", dtype=dtype, local_files_only=True) as model:
        found = model.encode(documents, prompt="", max_active_dims=model.dimension).to_dense()
        if not queries:
            return found
        of_queries = model.encode_query(queries, prompt="", max_active_dims=model.dimension).to_dense()
    return np.concatenate([found, of_queries])
