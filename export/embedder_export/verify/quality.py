"""Measure how close the vectors of an int8 or fp16 graph are to fp32."""

from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.artifact.manifest import IMAGE, Quality

from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import real_sentences
from embedder_export.verify.compare import measure

# By default a graph is written only if its mean and its smallest cosine to fp32 reach these values.
MIN_MEAN_COSINE, MIN_COSINE = 0.997, 0.985


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
    cosine, _ = measure(*vectors)
    cosine = np.minimum(np.nan_to_num(cosine, nan=-1.0), 1.0)
    return Quality(len(samples), float(cosine.mean()), float(cosine.min()))


def is_good_enough(quality: Quality) -> bool:
    """Return whether a graph of this quality is written by default.

    Example:
        >>> is_good_enough(Quality(samples=120, mean_cosine=0.999, min_cosine=0.98))
        False
    """
    return quality.mean_cosine >= MIN_MEAN_COSINE and quality.min_cosine >= MIN_COSINE
