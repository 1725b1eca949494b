"""Do one measurement of a program. images.py runs this file in its own process, in the program's environment.

Usage: python image_worker.py PROGRAM MODEL cold|encode INPUTS.json VECTORS.npy
       python image_worker.py make CHECKPOINT

INPUTS.json has the paths of images, or texts. The last line of the output is JSON:
- cold: the seconds from before the first import to the first vector,
- encode: the inputs per second,
- both: the peak resident memory of the process in MB.

`make` writes the checkpoint for all programs.
"""

import json
import sys
import time
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from worker import START, embedder, peak_mb, read, sentence_transformers, throughput

# The sizes of clip-ViT-B-32.
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
PATCHES = {"image_size": 224, "patch_size": 32}
# The form of these settings in newer checkpoints. All programs can read it.
PREPROCESSOR_SIZES = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
DIMENSION = 512
PACKAGES = ("embedder-onnx", "fastembed", "onnxruntime", "pillow", "sentence-transformers", "torch", "transformers")


def fastembed(path):
    import numpy as np
    from fastembed import ImageEmbedding

    model = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=path, local_files_only=True)
    return lambda images, batch_size: np.array(list(model.embed(images, batch_size=batch_size)))


PROGRAMS = {
    "embedder": embedder,
    "embedder-int8": partial(embedder, dtype="int8"),
    "torch": sentence_transformers,
    "fastembed": fastembed,
}
# The fastest batch sizes. With None, embedder chooses its batches.
BATCH_SIZES = {"embedder": None, "embedder-int8": None, "torch": 16, "fastembed": 16}


def main(program, path, task, inputs_path, vectors_path):
    encode = PROGRAMS[program](path)
    inputs = read(inputs_path)
    if task == "cold":
        encode(inputs, 1)
        result = {"seconds": time.perf_counter() - START, "peak_mb": peak_mb(), "versions": versions()}
    else:
        result = throughput(encode, inputs, vectors_path, BATCH_SIZES[program])
        result["per_second"] = result.pop("texts_per_second")
    print(json.dumps(result), flush=True)


def versions():
    """Return the versions of the relevant packages in this environment, as text."""
    found = {package.metadata["Name"].lower().replace("_", "-"): package.version for package in distributions()}
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)


def make(path):
    """Write the checkpoint for all programs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.clips import PREPROCESSOR, write_clip

    preprocessor = PREPROCESSOR | PREPROCESSOR_SIZES
    write_clip(Path(path), text=TEXT, vision=VISION | PATCHES, projection_dim=DIMENSION, preprocessor=preprocessor)


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else main(*sys.argv[1:])
