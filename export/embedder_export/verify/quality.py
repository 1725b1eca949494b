"""Measure how close the vectors or scores of an int8 or fp16 graph are to fp32."""

from dataclasses import replace
from pathlib import Path

from embedder import Embedder
from embedder.artifact.manifest import IMAGE, MULTI_VECTOR, RANK, SPARSE, Graph
from embedder.artifact.measurements import Quality

from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import real_sentences
from embedder_export.verify.closeness import MIN_COSINE, MIN_MEAN_COSINE, MIN_SPEARMAN
from embedder_export.verify.compare import quality_of
from embedder_export.verify.scores import measure_score_quality
from embedder_export.verify.sparse import measure_sparse_quality
from embedder_export.verify.token_vectors import measure_maxsim_quality


def with_quality(artifact: Path, graph: Graph, task: str) -> Graph:
    """Measure a graph, and return its entry in the manifest with the result.

    Args:
        artifact: the artifact's directory.
        graph: the graph.
        task: the artifact's task.

    Example:
        >>> with_quality(Path("artifacts/all-MiniLM-L6-v2"), int8, "embed").quality.samples  # doctest: +SKIP
        120
    """
    if task == RANK:
        return replace(graph, score_quality=measure_score_quality(artifact, graph.dtype))
    if task == MULTI_VECTOR:
        return replace(graph, score_quality=measure_maxsim_quality(artifact, graph.dtype))
    if task == SPARSE:
        return replace(graph, quality=measure_sparse_quality(artifact, graph.dtype))
    return replace(graph, quality=measure_quality(artifact, graph.modality, graph.dtype))


def measure_quality(artifact: Path, modality: str, dtype: str) -> Quality:
    """Compare the vectors of a graph with the fp32 vectors, on samples that did not calibrate the graph.

    Args:
        artifact: the artifact's directory.
        modality: "text" or "image".
        dtype: the dtype of the graph.

    Example:
        >>> measure_quality(Path("artifacts/all-MiniLM-L6-v2"), "text", "int8").samples  # doctest: +SKIP
        120
    """
    samples = sample_images()[1::2] if modality == IMAGE else real_sentences()[1::2]
    vectors = []
    for name in (dtype, "fp32"):
        with Embedder(artifact, provider="cpu", dtype=name) as model:  # only one is in memory at a time
            vectors.append(model.encode(samples))
    return quality_of(*vectors)


def is_good_enough(graph: Graph) -> bool:
    """Return whether a measured graph is written by default.

    Example:
        >>> is_good_enough(int8)  # doctest: +SKIP
        True
    """
    if graph.score_quality is not None:
        return graph.score_quality.spearman >= MIN_SPEARMAN
    quality = graph.quality
    return quality is not None and quality.mean_cosine >= MIN_MEAN_COSINE and quality.min_cosine >= MIN_COSINE


def describe_quality(graph: Graph) -> str:
    """Describe how close a measured graph is to fp32.

    Example:
        >>> describe_quality(int8)  # doctest: +SKIP
        'mean cosine 0.9987, smallest 0.9950, over 120 samples'
    """
    if graph.score_quality is not None:
        scores = graph.score_quality
        return (
            f"Spearman {scores.spearman:.5f}, largest difference {100 * scores.max_difference:.2f} % of the scores' "
            f"range, over {scores.samples} pairs"
        )
    quality = graph.quality
    assert quality is not None  # `with_quality` measured it
    return f"mean cosine {quality.mean_cosine:.4f}, smallest {quality.min_cosine:.4f}, over {quality.samples} samples"


def describe_limits(graph: Graph) -> str:
    """Name the limits of a measured graph that is written by default.

    Example:
        >>> describe_limits(int8)  # doctest: +SKIP
        'The limits are 0.997 and 0.985'
    """
    if graph.score_quality is not None:
        return f"The limit of the Spearman correlation is {MIN_SPEARMAN}"
    return f"The limits are {MIN_MEAN_COSINE} and {MIN_COSINE}"
