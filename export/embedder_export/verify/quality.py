"""How much a graph of another dtype loses beside fp32."""

from pathlib import Path

import numpy as np
from embedder import Embedder
from embedder.artifact.manifest import IMAGE, Quality

from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import real_sentences
from embedder_export.verify.compare import measure

# The mean and the smallest cosine to fp32 that a graph must reach to be written by default.
MIN_MEAN_COSINE, MIN_COSINE = 0.997, 0.985


def measure_quality(artifact: Path, modality: str, dtype: str) -> Quality:
    """Compare the vectors of the graph of `dtype` with those of fp32, on samples that did not calibrate it."""
    samples = sample_images()[1::2] if modality == IMAGE else real_sentences()[1::2]
    vectors = []
    for name in (dtype, "fp32"):
        with Embedder(artifact, provider="cpu", dtype=name) as model:  # one in memory at a time
            vectors.append(model.encode(samples))
    cosine, _ = measure(*vectors)
    cosine = np.minimum(np.nan_to_num(cosine, nan=-1.0), 1.0)
    return Quality(len(samples), float(cosine.mean()), float(cosine.min()))


def is_good_enough(quality: Quality) -> bool:
    """Whether a graph of this quality is written by default."""
    return quality.mean_cosine >= MIN_MEAN_COSINE and quality.min_cosine >= MIN_COSINE
