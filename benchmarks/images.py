"""embedder against its peers on images and their captions, by a CLIP model, in one run; writes a table.

Usage: `make bench-images`, which makes the environments, the checkpoint and the artifact, then runs this.

The model has the size of clip-ViT-B-32, and random weights: speed and agreement do not depend on what they are. As in
compare.py each measurement is a process of its own, and in each round every program takes its turn at every task.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from compare import FASTEMBED, PEERS, ROOT, SIZES, TORCH, Program, cell, figures, machine, run, size_mb, table, written
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
LEAST_COSINE = 0.9999
# Of images and captions that the programs' vectors are compared on.
COMPARED = 48
TASKS = ("cold", "images", "captions")
# What fastembed's model of images is no part of.
OMITTED = {("fastembed", "captions")}
CAPTIONS = 300
TEMPLATES = ("{}", "a photo of {}", "a picture that shows {}", "{} in the background, somewhat out of focus")
# The longer edge of an image in pixels, by turns; None is as it is.
EDGES = (None, 1600, 640, 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/images.md")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program at each task")
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
    """The artifact's graph of images, under the names that fastembed looks for."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shutil.copy(ARTIFACT / "image.onnx", directory / "model.onnx")
    shutil.copy(ARTIFACT / "image.onnx.data", directory)
    shutil.copy(CHECKPOINT / "preprocessor_config.json", directory)


def photographs(directory, count):
    """The paths of `count` JPEGs: what pictures there are, then parts of them, of several sizes."""
    pictures = list(real_pictures() or drawn_pictures())
    paths = []
    for number in range(count):
        turn, index = divmod(number, len(pictures))
        picture = pictures[index]
        margin = min(picture.size) * turn // 40
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
    """What people say of pictures, in several wordings; without them other sentences."""
    path = DATA / "images/captions.tsv"
    found = [line.split("\t")[1] for line in lines(path)[1:]] if path.exists() else []
    texts = list(dict.fromkeys(found)) or parity_texts()
    return [template.format(text) for template in TEMPLATES for text in texts]


def agreement(names, inputs, scratch):
    """{(program, task): cosines of its vectors to the reference's}; raises where fp32 is no fp32."""
    cosines, references = {}, {}
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        for task in ("images", "captions"):
            if (name, task) in OMITTED:
                continue
            work(name, "encode", inputs[task][:COMPARED], scratch)
            vectors = normalize(np.load(scratch / "vectors.npy"))
            cosines[name, task] = (references.setdefault(task, vectors) * vectors).sum(axis=1)
            least = cosines[name, task].min()
            print(f"agreement over {len(vectors)} {task}: {name}: smallest cosine {least:.6f}", flush=True)
            if PROGRAMS[name].precision == "fp32" and least < LEAST_COSINE:
                raise SystemExit(f"{name}'s vectors of {task} are others than those of {REFERENCE}: it does other work")
    return cosines


def rounds(names, inputs, count, scratch):
    """The results of all turns, as {program: {task: [result, ...]}}."""
    results = {name: {task: [] for task in TASKS} for name in names}
    turns = [(number, task, name) for number in range(count) for task in TASKS for name in names]
    for number, task, name in turns:
        if (name, task) not in OMITTED:
            result = work(name, "cold" if task == "cold" else "encode", inputs[task], scratch)
            results[name][task].append(result)
            print(f"{number + 1}/{count} {task}: {name}: {result}", flush=True)
    return results


def work(name, task, inputs, scratch):
    """The result of image_worker.py."""
    program = PROGRAMS[name]
    words = [program.environment / "bin/python", ROOT / "benchmarks/image_worker.py", name, program.model, task]
    return json.loads(run([*words, written(inputs, scratch), scratch / "vectors.npy"]).splitlines()[-1])


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
        rows[PROGRAMS[name].label] = [*cells, *("-" if each is None else f"{each.min():.6f}" for each in found)]
    return table(SIZES, titles, rows.items())


def notes(results, inputs):
    count = max(len(turns) for tasks in results.values() for turns in tasks.values())
    batches = "; ".join(
        f"{PROGRAMS[name].label} {BATCH_SIZES[name]}" for name in results if BATCH_SIZES[name] is not None
    )
    versions = "; ".join(f"{PROGRAMS[name].label}: {tasks['cold'][0]['versions']}" for name, tasks in results.items())
    lines = [
        f"- Machine: {machine()}.",
        f"- Figures: medians over {count} rounds, with the range in brackets. All programs take turns. Each "
        "measurement is a process of its own.",
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
    """How many files, how large, and of how many pixels: the least, the median and the most."""
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
