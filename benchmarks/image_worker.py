"""One measurement in a process of its own, run by images.py in the environment of the program that is measured.

Usage: python image_worker.py PROGRAM MODEL cold|encode INPUTS.json VECTORS.npy
       python image_worker.py make CHECKPOINT

INPUTS.json holds paths of images, or texts. The last line that is printed is JSON: of `cold` the seconds from before
the first import to the first vector, of `encode` the inputs per second, and of both the process' peak resident memory
in MB. `make` writes the checkpoint that all programs are measured with.
"""

import json
import sys
import time
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

from worker import START, embedder, peak_mb, read, sentence_transformers, throughput

# Of clip-ViT-B-32, as of every model that is called so.
TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
PATCHES = {"image_size": 224, "patch_size": 32}
# As newer checkpoints write it, which all programs can read.
SIZES = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
DIMENSION = 512
PACKAGES = ("embedder", "fastembed", "onnxruntime", "pillow", "sentence-transformers", "torch", "transformers")


def fastembed(path):
    import numpy as np
    from fastembed import ImageEmbedding

    model = ImageEmbedding("Qdrant/clip-ViT-B-32-vision", specific_model_path=path, local_files_only=True)
    return lambda images, batch_size: np.array(list(model.embed(images, batch_size=batch_size)))


PROGRAMS = {
    "embedder": embedder,
    "embedder-int8": partial(embedder, graph="int8"),
    "torch": sentence_transformers,
    "fastembed": fastembed,
}
# Those that were fastest; embedder fills its own.
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
    """What this environment has of the packages that matter."""
    found = {each.metadata["Name"].lower().replace("_", "-"): each.version for each in distributions()}
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)


def make(path):
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.clips import PREPROCESSOR, write_clip

    preprocessor = PREPROCESSOR | SIZES
    write_clip(Path(path), text=TEXT, vision=VISION | PATCHES, projection_dim=DIMENSION, preprocessor=preprocessor)


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else main(*sys.argv[1:])
