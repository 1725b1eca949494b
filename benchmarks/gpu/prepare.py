"""Prepare one model of the GPU benchmark. run.py starts it.

Usage: python -m benchmarks.gpu.prepare reference|export MODEL PREPARED WORK PROVIDER [--small]

- reference: write the checkpoint and the inputs of each workload, print the sizes of the inputs, and write the vectors
  that sentence-transformers gives in fp32.
- export: write the artifact.

PREPARED is the directory that pack.py packs. Everything is written to WORK.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from benchmarks.gpu.models import CLIP_SIDE, IMAGE_TOKENS, IMAGE_WORKLOADS, MINILM, MODELS

# With --small: the inputs of each workload, and the characters of a text.
SMALL_COUNT, SMALL_LENGTH = 8, 60
# Texts that are encoded one at a time.
QUERIES = 200
# Texts of a workload that are compared with the reference.
COMPARED = 48
# Passages in a text of the workload "very long".
PASSAGES = 8
# The longer edge, in pixels, of the images that are read from files.
EDGE = 640


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("model")
    parser.add_argument("prepared", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("provider")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    STEPS[options.step](options)


def make_reference(options):
    """Write the checkpoint and the inputs, if they are not there, and the reference."""
    if not inputs_path(options).exists():
        start = time.monotonic()
        write_checkpoint(options)
        seconds = time.monotonic() - start
        print(json.dumps({"kind": "prepared", "step": "checkpoint", "seconds": seconds}), flush=True)
    write_reference(options)


def inputs_path(options):
    return options.work / "inputs" / f"{options.model}.json"


def write_checkpoint(options):
    from benchmarks.gpu.checkpoints import write_model

    checkpoint = options.work / "checkpoints" / options.model
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if options.model == MINILM and not options.small:
        checkpoint.unlink(missing_ok=True)
        checkpoint.symlink_to((options.prepared / "checkpoints" / MINILM).resolve())
    else:
        write_model(options.model, checkpoint, full=not options.small)
    inputs = inputs_of(options)
    print(json.dumps({"kind": "sizes", "sizes": sizes_of(options.model, checkpoint, inputs)}), flush=True)
    path = inputs_path(options)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(inputs), encoding="utf-8")


def inputs_of(options):
    """Return the inputs of each workload, as {workload: list}."""
    texts = json.loads((options.prepared / "texts.json").read_text(encoding="utf-8"))
    if options.small:
        texts = {name: [text[:SMALL_LENGTH] for text in found] for name, found in texts.items()}
    long = texts["long"]
    texts["very long"] = [" ".join(long[start : start + PASSAGES]) for start in range(len(long))]
    counts = {name: SMALL_COUNT if options.small else count for name, count in MODELS[options.model].counts.items()}
    inputs = {name: distinct(texts[name], count) for name, count in counts.items() if name in texts}
    inputs["queries"] = distinct(texts["queries"], SMALL_COUNT if options.small else QUERIES)
    inputs["agreement"] = [
        text for name in counts if name in texts for text in inputs[name][:: len(inputs[name]) // COMPARED or 1]
    ]
    folder = options.work / "images"
    if "images" in counts:
        inputs["images"] = write_images(folder / "files", counts["images"], EDGE)
        inputs["arrays"] = write_images(folder / "arrays", counts["arrays"], CLIP_SIDE)
    return inputs


def distinct(texts, count):
    """Return `count` different texts. Where there are too few, their words are also taken in other orders.

    embedder encodes equal texts only once, so repeated texts would be no fair comparison.
    """
    found = dict.fromkeys(texts[:: max(1, len(texts) // count)])
    turn = 0
    while len(found) < count:
        turn += 1
        found |= dict.fromkeys(turned(text.split(), turn) for text in texts)
    return list(found)[:count]


def turned(words, turn):
    """Return the words as a text that begins with another word."""
    first = turn % max(1, len(words))
    return " ".join([*words[first:], *words[:first]])


def write_images(directory, count, edge):
    """Write `count` JPEGs and return their paths. Each is another part of a drawn image."""
    from embedder_export.samples.images import sample_images
    from PIL import Image

    directory.mkdir(parents=True, exist_ok=True)
    pictures = sample_images()
    paths = []
    for number in range(count):
        picture = Image.fromarray(pictures[number % len(pictures)])
        margin = min(picture.size) * (number // len(pictures)) // 40
        part = picture.crop((margin, margin // 2, picture.width - margin // 2, picture.height - margin))
        size = (edge, edge * 3 // 4) if edge == EDGE else (edge, edge)
        paths.append(str(directory / f"{number:04}.jpg"))
        part.resize(size).save(paths[-1], quality=90)
    return paths


def sizes_of(name, checkpoint, inputs):
    """Return the tokens of each workload, and the floating-point operations that they need without padding."""
    from tokenizers import Tokenizer

    model = MODELS[name]
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    limits = checkpoint / "sentence_bert_config.json"
    clip_limit = 77
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads(limits.read_text())["max_seq_length"] if limits.exists() else clip_limit)
    sizes = {}
    for workload in model.counts:
        if workload in IMAGE_WORKLOADS:
            tower, tokens = model.image, [IMAGE_TOKENS] * len(inputs[workload])
        else:
            tower, tokens = model.text, [len(text) for text in tokenizer.encode_batch(inputs[workload])]
        sizes[workload] = {
            "inputs": len(tokens),
            "tokens": sum(tokens),
            "operations": sum(map(tower.operations, tokens)),
        }
    return sizes


def write_reference(options):
    import numpy as np
    import torch
    from PIL import Image
    from sentence_transformers import SentenceTransformer

    checkpoint = options.work / "checkpoints" / options.model
    settings = {"attn_implementation": "eager", "dtype": torch.float32}
    model = SentenceTransformer(str(checkpoint), device=options.provider, local_files_only=True, model_kwargs=settings)
    inputs = json.loads(inputs_path(options).read_text(encoding="utf-8"))
    chosen = {"agreement": inputs["agreement"]}
    if "arrays" in inputs:
        chosen["arrays"] = [Image.open(path).convert("RGB") for path in inputs["arrays"][:COMPARED]]
    path = options.work / "reference" / f"{options.model}.npz"
    path.parent.mkdir(exist_ok=True)
    vectors = {name: model.encode(items, batch_size=16, show_progress_bar=False) for name, items in chosen.items()}
    np.savez(path, **vectors)


def write_artifact(options):
    from embedder_export import pipeline
    from embedder_export.checkpoint.read import read_checkpoint

    # The export compares vectors on the CPU, which takes most of its time. The benchmark compares them on the GPU.
    pipeline.verify = lambda stage, manifest, *_: manifest
    pipeline._with_quality = lambda work, stage, manifest: manifest
    dtype = "fp16" if options.provider == "cuda" else "fp32"
    checkpoint = read_checkpoint(str(options.work / "checkpoints" / options.model))
    output = options.work / "artifacts" / options.model
    start = time.monotonic()

    def report(line):
        print(f"{time.monotonic() - start:5.1f} s: {line}", flush=True)

    pipeline.export(checkpoint, output, report, pipeline.ExportSettings(dtypes=(dtype,)))
    report("done")


STEPS = {"reference": make_reference, "export": write_artifact}

if __name__ == "__main__":
    main()
