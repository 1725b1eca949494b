"""Make the tables and the plot of the GPU benchmark from its results.

Usage: PYTHONPATH=.:export python -m benchmarks.gpu.report gpu.jsonl

They go to benchmarks/results/gpu.md and gpu.svg, and the tables also to docs/benchmarks.md.
"""

import json
import sys
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.gpu.models import IMAGE_WORKLOADS, MODELS
from benchmarks.pages import with_tables
from benchmarks.plot import plot

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/gpu.md"
# The page with the tables. They are between these two lines.
PAGE = ROOT / "docs/benchmarks.md"
PAGE_MARKS = ("<!-- gpu -->", "<!-- /gpu -->")
PAGE_PLOT = "![Speed beside sentence-transformers on a GPU](../benchmarks/results/gpu.svg)"
OURS = "embedder"
LABELS = {
    OURS: "embedder",
    "sdpa": "sentence-transformers",
    "flash": "sentence-transformers, flash attention",
}
PEER = LABELS["sdpa"]
# The panels of the plot: the first, second and third workload of the models. The words after the line are for CLIP.
PANELS = ("short", "long / images", "mixed / arrays")


def main(results):
    lines = read(Path(results))
    RESULT.write_text(tables(lines) + "\n", encoding="utf-8")
    RESULT.with_suffix(".svg").write_text(chart(lines), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    shown = f"{PAGE_PLOT}\n\n{tables(lines)}"
    PAGE.write_text(with_tables(page, shown, PAGE_MARKS), encoding="utf-8")


def read(path):
    """Return the results. The last line is left out if it was cut off."""
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def agreement(vectors, reference):
    """Return the cosines of a program's vectors with the reference's, and the effect of a batch.

    Both are .npz files. "agreement-rows" lists some rows of "agreement". "agreement-alone" has the vectors of the same
    inputs, encoded one at a time.
    """
    found = {}
    with np.load(vectors) as ours:
        for name in ("agreement", "arrays"):
            if name in ours:
                together, alone = unit(ours[name]), unit(ours[f"{name}-alone"])
                found[name] = {"batch": differences(together[ours[f"{name}-rows"]], alone)}
                if reference.exists():
                    with np.load(reference) as theirs:
                        expected = unit(theirs[name])
                    count = min(len(expected), len(together))
                    found[name]["reference"] = differences(together[:count], expected[:count])
    return found


def unit(vectors):
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def differences(ours, theirs):
    cosines = (ours * theirs).sum(axis=1)
    return {
        "count": len(ours),
        "min_cosine": cosines.min(),
        "mean_cosine": cosines.mean(),
        "max_difference": np.abs(ours - theirs).max(),
    }


def tables(lines):
    machine = next((line for line in lines if line["kind"] == "machine"), {})
    parts = [speed_table(lines, machine), other_table(lines), notes(lines, machine)]
    return "\n\n".join("\n".join(part) for part in parts)


def find(lines, **wanted):
    return [line for line in lines if wanted.items() <= line.items()]


def rows_of(lines, kind="speed"):
    """Yield each model with its programs that have results of this kind, embedder first."""
    for name in MODELS:
        programs = [program for program in LABELS if find(lines, kind=kind, model=name, program=program)]
        if programs:
            yield name, programs


def best_of(lines, name, program, workload):
    """Return the median speed at the batch size that was fastest, its lines, and this batch size. None without any."""
    found = find(lines, kind="speed", model=name, program=program, workload=workload)
    if not found:
        return None
    fastest = max(found, key=lambda line: line["per_second"])["batch_size"]
    chosen = [line for line in found if line["batch_size"] == fastest]
    return median(line["per_second"] for line in chosen), chosen, fastest


def speed_table(lines, machine):
    """Yield a row for each model and workload."""
    titles = ["workload", "embedder (inputs/s)", "sentence-transformers (inputs/s)", "its batch size", "times as fast"]
    titles += ["embedder (tokens/s)", "its share of the matrix rate", "share of sentence-transformers"]
    titles += ["GPU memory of embedder (MB)", "of sentence-transformers (MB)"]
    yield f"| {machine.get('card', 'unknown')} | {' | '.join(titles)} |"
    yield "|---|---|" + "---:|" * (len(titles) - 1)
    for name, programs in rows_of(lines):
        sizes = next((line["sizes"] for line in find(lines, kind="sizes", model=name)), {})
        for workload in MODELS[name].counts:
            ours, peer = best_of(lines, name, OURS, workload), best_peer(lines, name, programs, workload)
            size = sizes.get(workload)
            row = [name, workload, speed_of(ours), speed_of(peer), str(peer[2]) if peer else "-"]
            row.append(f"{ours[0] / peer[0]:.2f}" if ours and peer else "-")
            has_tokens = ours and size and workload not in IMAGE_WORKLOADS
            row.append(number(ours[0] * size["tokens"] / size["inputs"]) if has_tokens else "-")
            row += [share(result, size, machine) for result in (ours, peer)]
            row += [memory(result) for result in (ours, peer)]
            yield f"| {' | '.join(row)} |"


def best_peer(lines, name, programs, workload):
    """Return the fastest of the other programs as `best_of` does."""
    found = [best_of(lines, name, program, workload) for program in programs if program != OURS]
    return max(filter(None, found), default=None, key=lambda result: result[0])


def speed_of(result):
    return number(result[0]) if result else "-"


def share(result, size, machine):
    rate = machine.get("operations_per_second")
    if not (result and size and rate):
        return "-"
    return f"{100 * result[0] * size['operations'] / size['inputs'] / rate:.1f} %"


def memory(result):
    peaks = [line["gpu_mb"] for line in result[1] if "gpu_mb" in line] if result else []
    return number(max(peaks)) if peaks else "-"


def number(value):
    """Return a number with three digits or more, as text."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def other_table(lines):
    """Yield a row for each model and program: times, and how close the vectors are."""
    titles = ["program", "one query, p50 (ms)", "p95 (ms)", "start (s)", "smallest cosine with fp32", "mean"]
    titles += ["smallest cosine, alone and in a batch", "largest difference"]
    yield f"| times; agreement | {' | '.join(titles)} |"
    yield "|---|---|" + "---:|" * (len(titles) - 1)
    for name, programs in rows_of(lines, "query"):
        for program in programs:
            wanted = {"model": name, "program": program}
            queries, starts = find(lines, kind="query", **wanted), find(lines, kind="start", **wanted)
            row = [name, LABELS[program]]
            row += [f"{median(line[figure] for line in queries):.2f}" for figure in ("p50_ms", "p95_ms")]
            row += [f"{min(line['seconds'] for line in starts):.1f}"]
            row += closeness(find(lines, kind="agreement", **wanted))
            yield f"| {' | '.join(row)} |"


def closeness(found):
    """Return the cells on agreement. For a model of images too, each is the worse of texts and images."""
    kinds = [line[name] for line in found for name in ("agreement", "arrays") if name in line]
    references = [kind["reference"] for kind in kinds if "reference" in kind]
    batches = [kind["batch"] for kind in kinds]
    return [
        f"{min(each['min_cosine'] for each in references):.6f}" if references else "-",
        f"{min(each['mean_cosine'] for each in references):.6f}" if references else "-",
        f"{min(each['min_cosine'] for each in batches):.6f}" if batches else "-",
        f"{max(each['max_difference'] for each in batches):.1e}" if batches else "-",
    ]


def notes(lines, machine):
    rate = machine.get("operations_per_second", 0) / 1e12
    attention = {line["attention"] for line in find(lines, kind="start") if line.get("attention")}
    rounds = 1 + max((line["round"] for line in lines if line["kind"] == "done"), default=0)
    turns = "one round" if rounds == 1 else f"medians of up to {rounds} rounds"
    dtype = machine.get("dtype")
    yield (
        f"- Card: {machine.get('card')}. Both programs run in {dtype}. The matrix rate was measured with "
        f"large {dtype} matrices in torch: {rate:,.1f} TFLOP/s."
    )
    yield (
        f"- Figures: {turns}. Each program runs a model in its own process, and the programs take turns. The batch "
        "size of sentence-transformers is the fastest for the workload, out of 128, 512 and 2048, and 32 if 128 is the "
        "fastest. Both programs sort texts by length. The attention of sentence-transformers: "
        f"{', '.join(sorted(attention)) or '-'}."
    )
    yield "- Models: all-MiniLM-L6-v2 has its real weights. The others have true sizes and random weights."
    yield (
        "- Workloads: images are JPEG files of 640 x 480 pixels; arrays are decoded images in the model's size. All "
        "inputs of a workload are different. A program that needs more than about a second encodes only as many of "
        "them, evenly spread. With fewer texts, the lengths in a batch differ more, which costs it some speed."
    )
    yield from workload_notes(lines)
    yield (
        "- Share of the matrix rate: the operations in a second that the inputs need without padding, divided by the "
        "measured rate. Times as fast: beside the fastest of sentence-transformers."
    )
    yield "- GPU memory: the peak of the card in use, beyond what was in use before."
    yield "- Start: a new process, from its first import to its first vector; the fastest of the rounds."
    yield (
        "- Agreement: cosines with sentence-transformers in fp32; of the vectors of a text alone and in a batch; and "
        "the largest difference of a component of these two, where vectors have length 1."
    )
    yield f"- Versions: {machine.get('versions')}; CUDA {machine.get('cuda')}."
    if not machine.get("flash"):
        yield "- Flash attention with unpadded texts is not measured: the package flash_attn is not installed there."
    missing = [
        line["model"] for line in find(lines, kind="sizes") if not find(lines, kind="speed", model=line["model"])
    ]
    if missing:
        yield f"- Not measured: {', '.join(missing)}. The time limit came first."
    for line in find(lines, kind="failure"):
        labels = {name: line[name] for name in ("model", "program", "step", "round") if name in line}
        if not find(lines, kind="prepared" if "step" in line else "done", **labels):  # else it succeeded later
            last = line["text"].strip().split("\n")[-1][:200]
            yield f"- Not measured: {', '.join(map(str, labels.values()))}: {last or line['status']}"


def workload_notes(lines):
    """Yield the inputs of each model that was measured, and how many of them sentence-transformers encoded."""
    for line in find(lines, kind="sizes"):
        if not find(lines, kind="speed", model=line["model"]):
            continue
        described = []
        for name, size in line["sizes"].items():
            tokens = "" if name in IMAGE_WORKLOADS else f", {size['tokens'] / size['inputs']:,.0f} tokens each"
            peer = best_peer(lines, line["model"], [program for program in LABELS if program != OURS], name)
            encoded = min((each.get("inputs", size["inputs"]) for each in peer[1]), default=0) if peer else 0
            few = f" ({PEER}: {encoded:,} of them)" if 0 < encoded < size["inputs"] else ""
            described.append(f"{name}: {size['inputs']:,}{tokens}{few}")
        yield f"- Inputs of {line['model']}: {'; '.join(described)}."


def chart(lines):
    """Return a plot (SVG): the speed of embedder divided by the best speed of sentence-transformers.

    The first panel has the first workload of each model, and so on. A model that was not measured is left out.
    """
    card = next((line["card"] for line in lines if line["kind"] == "machine"), "")
    ratios = {}
    for name, programs in rows_of(lines):
        pairs = [
            (best_of(lines, name, OURS, workload), best_peer(lines, name, programs, workload))
            for workload in MODELS[name].counts
        ]
        if all(ours and peer for ours, peer in pairs):
            ratios[name] = [ours[0] / peer[0] for ours, peer in pairs]
    panels = {
        panel: {LABELS[OURS]: [each[index] for each in ratios.values()], PEER: [1.0] * len(ratios)}
        for index, panel in enumerate(PANELS)
    }
    title = f"{card}: speed beside the fastest of sentence-transformers (1.0); higher is faster"
    return plot(title, list(ratios), panels if ratios else {})


if __name__ == "__main__":
    main(*sys.argv[1:])
