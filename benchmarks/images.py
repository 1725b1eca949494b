"""Compare embedder with other programs on images and captions, with a CLIP model. Writes a table.

Usage: `make bench-images`. It makes the environments, the checkpoint and the artifact, and then runs this file.

The model has the size of clip-ViT-B-32 and random weights. Speed and agreement do not depend on the weights. As in
compare.py, each measurement runs in its own process, and in each round every program does every task once.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from compare import (
    FASTEMBED,
    MIN_COSINE,
    PEERS,
    ROOT,
    SIZE_TABLE_TITLE,
    TORCH,
    Program,
    cell,
    figures,
    machine,
    run,
    size_mb,
    table,
    write_inputs,
)
from image_worker import BATCH_SIZES
from PIL import Image
from quality import DATA, lines
from workloads import described, parity_texts, spread

from embedder.vectors.similarity import normalize

NAME = "clip-ViT-B-32-random"
CHECKPOINT = ROOT / "checkpoints" / NAME
ARTIFACT = ROOT / "artifacts" / NAME
OURS = ROOT / ".venv/images"

PROGRAMS = {
    "embedder": Program("embedder", "fp32", OURS, ARTIFACT),
    "embedder-int8": Program("embedder, int8", "int8", OURS, ARTIFACT),
    "torch": Program("sentence-transformers, torch", "fp32", TORCH, CHECKPOINT),
    "fastembed": Program("fastembed", "fp32", FASTEMBED, PEERS / NAME),
}
REFERENCE = "embedder"
# The number of images, and of captions, for the comparison of vectors.
COMPARED = 48
TASKS = ("cold", "images", "captions")
# Programs and tasks that do not go together: fastembed's image model has no texts.
OMITTED = {("fastembed", "captions")}
CAPTIONS = 300
TEMPLATES = ("{}", "a photo of {}", "a picture that shows {}", "{} in the background, somewhat out of focus")
# The longer edges of the images in pixels, one after the other. None keeps the size.
EDGES = (None, 1600, 640, 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/images.md")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program does each task")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--images", type=int, default=150, help="how many images")
    options = parser.parse_args()

    names = [name for name in PROGRAMS if name in options.programs]
    if "fastembed" in names:
        write_fastembed_model(PROGRAMS["fastembed"].model)
    with tempfile.TemporaryDirectory() as scratch:
        images = photographs(Path(scratch), options.images)
        inputs = {"cold": images[:1], "images": images, "captions": spread(captions(), CAPTIONS)}
        cosines = agreement(names, inputs, Path(scratch))
        results = rounds(names, inputs, options.rounds, Path(scratch))
        explained = notes(results, inputs)
    text = "\n".join([*speed_table(results), "", *size_table(results, cosines), "", explained])
    options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def write_fastembed_model(directory):
    """Copy the artifact's image graph to the file names that fastembed expects."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copy(ARTIFACT / "image.onnx", directory / "model.onnx")
    shutil.copy(ARTIFACT / "image.onnx.data", directory)
    shutil.copy(CHECKPOINT / "preprocessor_config.json", directory)


def photographs(directory, count):
    """Write `count` JPEGs and return their paths. They are the pictures, and then parts of them, in several sizes."""
    pictures = list(real_pictures() or drawn_pictures())
    paths = []
    for number in range(count):
        repetition, index = divmod(number, len(pictures))
        picture = pictures[index]
        margin = min(picture.size) * repetition // 40
        part = picture.crop((margin, margin // 2, picture.width - margin // 2, picture.height - margin))
        if edge := EDGES[number % len(EDGES)]:
            part = part.resize([max(1, round(side * edge / max(part.size))) for side in part.size])
        paths.append(str(directory / f"{number:04}.jpg"))
        part.save(paths[-1], quality=90)
    return paths


def real_pictures():
    paths = sorted((DATA / "images/photos").glob("*"))
    return [Image.open(path).convert("RGB") for path in paths]


def drawn_pictures():
    from embedder_export.samples.images import sample_images

    return map(Image.fromarray, sample_images())


def captions():
    """Return captions of pictures in several wordings. Without test data, return other sentences."""
    path = DATA / "images/captions.tsv"
    found = [line.split("\t")[1] for line in lines(path)[1:]] if path.exists() else []
    texts = list(dict.fromkeys(found)) or parity_texts()
    return [template.format(text) for template in TEMPLATES for text in texts]


def agreement(names, inputs, scratch):
    """Return the cosines between each program's vectors and the reference's, as {(program, task): array}.

    Raises:
        SystemExit: the vectors of an fp32 program differ from the reference's.
    """
    cosines, references = {}, {}
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        for task in ("images", "captions"):
            if (name, task) in OMITTED:
                continue
            work(name, "encode", inputs[task][:COMPARED], scratch)
            vectors = normalize(np.load(scratch / "vectors.npy"))
            cosines[name, task] = (references.setdefault(task, vectors) * vectors).sum(axis=1)
            smallest = cosines[name, task].min()
            print(f"agreement over {len(vectors)} {task}: {name}: smallest cosine {smallest:.6f}", flush=True)
            if PROGRAMS[name].dtype == "fp32" and smallest < MIN_COSINE:
                raise SystemExit(
                    f"the vectors of {name} for {task} differ from {REFERENCE}'s. Their speeds cannot be compared"
                )
    return cosines


def rounds(names, inputs, count, scratch):
    """Return the results of all rounds, as {program: {task: [result, ...]}}."""
    results = {name: {task: [] for task in TASKS} for name in names}
    turns = [(number, task, name) for number in range(count) for task in TASKS for name in names]
    for number, task, name in turns:
        if (name, task) not in OMITTED:
            result = work(name, "cold" if task == "cold" else "encode", inputs[task], scratch)
            results[name][task].append(result)
            print(f"{number + 1}/{count} {task}: {name}: {result}", flush=True)
    return results


def work(name, task, inputs, scratch):
    """Run image_worker.py, and return its result."""
    program = PROGRAMS[name]
    words = [program.environment / "bin/python", ROOT / "benchmarks/image_worker.py", name, program.model, task]
    return json.loads(run([*words, write_inputs(inputs, scratch), scratch / "vectors.npy"]).splitlines()[-1])


def speed_table(results):
    columns = [
        ("images/s", "images", "per_second", 1),
        ("captions/s", "captions", "per_second", 0),
        ("cold start to the first image (s)", "cold", "seconds", 2),
    ]
    rows = {
        PROGRAMS[name].label: [
            cell(results, name, *column) if results[name][column[0]] else "-" for _, *column in columns
        ]
        for name in results
    }
    return table(f"{NAME}, CPU", [title for title, *_ in columns], rows.items())


def size_table(results, cosines):
    titles = ["peak, first image", "images", "captions", "installed", "smallest cosine, images", "captions"]
    rows = {}
    for name in results:
        peaks = [figures(results, name, task, "peak_mb") for task in TASKS]
        cells = [f"{median(peak):,.0f}" if peak else "-" for peak in peaks]
        cells.append(f"{size_mb(PROGRAMS[name].environment):,.0f}")
        found = [cosines.get((name, task)) for task in ("images", "captions")]
        rows[PROGRAMS[name].label] = [*cells, *("-" if array is None else f"{array.min():.6f}" for array in found)]
    return table(SIZE_TABLE_TITLE, titles, rows.items())


def notes(results, inputs):
    count = max(len(rounds) for tasks in results.values() for rounds in tasks.values())
    batches = "; ".join(
        f"{PROGRAMS[name].label} {BATCH_SIZES[name]}" for name in results if BATCH_SIZES[name] is not None
    )
    versions = "; ".join(f"{PROGRAMS[name].label}: {tasks['cold'][0]['versions']}" for name, tasks in results.items())
    lines = [
        f"- Machine: {machine()}.",
        f"- Figures: medians over {count} rounds, with the range in brackets. All programs take turns. Each "
        "measurement runs in its own process.",
        "- Model: the size of clip-ViT-B-32, with random weights.",
        f"- Images: {sizes(inputs['images'])}. They are given as paths and read from the page cache, so decoding is in "
        "the figures.",
        f"- Captions: {described(inputs['captions'])}.",
        "- Cold start: a new process, from its first import to the vector of the first image.",
        "- Memory: the peak of the process.",
        f"- Agreement: cosines with the vectors of {REFERENCE} in fp32, over {COMPARED} images and {COMPARED} "
        "captions.",
        "- fastembed runs embedder's fp32 graph, under the name of its own CLIP model.",
        "- sentence-transformers has Pillow and no torchvision. Its ONNX backend is left out, because it cannot run "
        "CLIP: it exports both sides as one graph, which needs texts and images at once.",
        f"- Batches: {batches}; embedder fills its own.",
        f"- Versions: {versions}.",
    ]
    return "\n".join(lines)


def sizes(paths):
    """Return the number of files, their size in MB, and the range and the median of their megapixels, as text."""
    pixels = []
    for path in paths:
        with Image.open(path) as image:
            pixels.append(image.width * image.height / 1e6)
    megabytes = sum(Path(path).stat().st_size for path in paths) / 1e6
    return (
        f"{len(paths):,} JPEGs, together {megabytes:,.0f} MB, of {min(pixels):.2f} to {max(pixels):.2f} megapixels, "
        f"median {median(pixels):.2f}"
    )


if __name__ == "__main__":
    main()
