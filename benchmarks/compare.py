"""Compare embedder with other programs on this machine, in one run. Writes tables and a plot.

Usage: `make bench`, which makes the environments and the artifact, then runs this.

Each measurement is a process of its own, in the environment of its program. In each round every program takes its turn
at every task. So a machine that slows down slows all programs. The tables give medians and ranges.

The tables go to benchmarks/results/comparison.md and to docs/benchmarks.md, the plot to comparison.svg.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from plot import plot
from workloads import agreement_texts, calibration_texts, described, spread, workloads

ROOT = Path(__file__).parents[1]
NAME = "all-MiniLM-L6-v2"
CHECKPOINT = ROOT / "checkpoints" / NAME
ARTIFACT = ROOT / "artifacts" / NAME
PEERS = ROOT / "checkpoints/peers"
LEAN = ROOT / ".venv/lean"
TORCH = ROOT / ".venv/reference"
ONNX = ROOT / ".venv/sentence-transformers-onnx"
OPENVINO = ROOT / ".venv/sentence-transformers-openvino"
FASTEMBED = ROOT / ".venv/fastembed"
RESULT = ROOT / "benchmarks/results/comparison.md"
# The page that shows the tables, between these two lines.
PAGE = ROOT / "docs/benchmarks.md"
PAGE_MARKS = ("<!-- comparison -->", "<!-- /comparison -->")


@dataclass(frozen=True)
class Program:
    label: str
    # "default" where it is the program's own choice on this CPU, and not to be held to fp32's agreement.
    precision: str
    environment: Path
    model: Path
    # The environment that makes the model, for those that `make` does not make.
    maker: Path | None = None


PROGRAMS = {
    "embedder": Program("embedder", "fp32", LEAN, ARTIFACT),
    "embedder-int8": Program("embedder, int8", "int8", LEAN, ARTIFACT),
    "onnxruntime": Program("onnxruntime in a bare loop", "fp32", LEAN, PEERS / "plain", ONNX),
    "torch": Program("sentence-transformers, torch", "fp32", TORCH, CHECKPOINT),
    "onnx": Program("sentence-transformers, ONNX", "fp32", ONNX, PEERS / "onnx", ONNX),
    "onnx-qint8": Program("sentence-transformers, ONNX, qint8", "int8", ONNX, PEERS / "onnx-qint8", ONNX),
    "openvino": Program("sentence-transformers, OpenVINO", "default", OPENVINO, PEERS / "openvino", OPENVINO),
    "openvino-fp32": Program("sentence-transformers, OpenVINO, fp32", "fp32", OPENVINO, PEERS / "openvino", OPENVINO),
    "openvino-qint8": Program(
        "sentence-transformers, OpenVINO, qint8", "int8", OPENVINO, PEERS / "openvino-qint8", OPENVINO
    ),
    "fastembed": Program("fastembed", "fp32", FASTEMBED, PEERS / "plain", ONNX),
}
REFERENCE = "torch"
LEAST_COSINE = 0.9999
SIZES = "memory, sizes (MB); agreement"
TASKS = ("cold", "short", "long", "mixed", "queries")
# For all programs alike: nothing is looked for on a hub, and onnxruntime reports to nobody.
SETTINGS = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program at each task")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--texts", type=int, help="at most so many texts of each workload")
    parser.add_argument("--limit", type=float, default=120, help="seconds at a task after which a program is let off")
    options = parser.parse_args()

    names = [name for name in PROGRAMS if name in options.programs and available(name)]
    texts = workloads(options.texts)
    with tempfile.TemporaryDirectory() as scratch:
        make_models(names, Path(scratch))
        cosines = agreement(names, options.texts, Path(scratch))
        private = {name: second_process(name) for name in names}
        results = rounds(names, texts, options, Path(scratch))
    written = "\n".join([*speed_table(results), "", *size_table(results, private, cosines), "", notes(results, texts)])
    options.output.write_text(written + "\n", encoding="utf-8")
    options.output.with_suffix(".svg").write_text(chart(results), encoding="utf-8")
    if options.output == RESULT:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), written), encoding="utf-8")
    print(written)


def with_tables(page, written):
    """Return `page` with `written` between its marks."""
    first, last = PAGE_MARKS
    before, after = page.split(first)[0], page.split(last)[1]
    return f"{before}{first}\n\n{written}\n\n{last}{after}"


def available(name):
    """Whether the program can be measured; says so where it cannot."""
    program = PROGRAMS[name]
    manifest = json.loads((ARTIFACT / "embedder.json").read_text(encoding="utf-8"))
    if name == "embedder-int8" and "int8" not in [graph["dtype"] for graph in manifest["graphs"]]:
        print(f"{name} is left out: the artifact has no int8 graph", flush=True)
        return False
    missing = [each for each in {program.environment, program.maker} - {None} if not (each / "bin/python").exists()]
    if missing:
        print(f"{name} is left out: there is no {', '.join(path.name for path in missing)} in .venv", flush=True)
    return not missing


def make_models(names, scratch):
    """Have the peers' models made, those that are not there yet."""
    path = scratch / "calibration.json"
    path.write_text(json.dumps(calibration_texts()), encoding="utf-8")
    for name in names:
        program = PROGRAMS[name]
        if program.maker and not program.model.exists():
            print(f"making {program.model.name} for {name}", flush=True)
            arguments = [program.model.name, CHECKPOINT, program.model, path]
            run([program.maker / "bin/python", ROOT / "benchmarks/graphs.py", *arguments])


def agreement(names, most_texts, scratch):
    """The cosines of each program's vectors to the reference's, as {program: array}; raises where fp32 is no fp32."""
    texts = agreement_texts()
    texts = texts if most_texts is None else spread(texts, min(most_texts, len(texts)))
    cosines, reference = {}, None
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        work(name, *encode_arguments("long", texts, scratch))
        vectors = np.load(scratch / "vectors.npy").astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        reference = vectors if reference is None else reference
        cosines[name] = (reference * vectors).sum(axis=1)
        least, mean = cosines[name].min(), cosines[name].mean()
        print(f"agreement over {len(texts)} texts: {name}: smallest cosine {least:.6f}, mean {mean:.6f}", flush=True)
        if PROGRAMS[name].precision == "fp32" and least < LEAST_COSINE:
            raise SystemExit(f"{name}'s vectors are others than those of {REFERENCE}: it does other work")
    return cosines


def second_process(name):
    """The memory in MB that is private to a process while another one holds the same model; None if unknown."""
    print(f"second process: {name}", flush=True)
    with subprocess.Popen(
        command(name, "hold"),
        env=os.environ | SETTINGS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as first:
        # What comes before the JSON is a library's.
        if not any(line.startswith("{") for line in first.stdout):
            raise SystemExit(f"{name} could not hold its model")
        result = work(name, "second")
        first.stdin.close()
    return result["private_mb"]


def rounds(names, texts, options, scratch):
    """The results of all turns, as {program: {task: [result, ...]}}."""
    results = {name: {task: [] for task in TASKS} for name in names}
    spent = Counter()
    for number in range(options.rounds):
        for task in TASKS:
            for name in names:
                if spent[name, task] > options.limit:
                    continue
                result = work(name, *task_arguments(task, texts, scratch))
                spent[name, task] += result["took"]
                results[name][task].append(result)
                shown = ", ".join(f"{figure} {value:,.2f}" for figure, value in result.items())
                print(f"{number + 1}/{options.rounds} {task}: {name}: {shown}", flush=True)
    return results


def task_arguments(task, texts, scratch):
    if task == "cold":
        return ["cold"]
    if task == "queries":
        return ["queries", written(texts[task], scratch)]
    return encode_arguments(task, texts[task], scratch)


def encode_arguments(workload, texts, scratch):
    return ["encode", written(texts, scratch), scratch / "vectors.npy", workload]


def written(texts, scratch):
    path = scratch / "texts.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    return path


def command(name, *arguments):
    program = PROGRAMS[name]
    python = program.environment / "bin/python"
    return list(map(str, [python, ROOT / "benchmarks/worker.py", name, program.model, *arguments]))


def work(name, *arguments):
    """The worker's result, with the seconds that the whole process took."""
    start = time.perf_counter()
    result = json.loads(run(command(name, *arguments)).splitlines()[-1])
    return result | {"took": time.perf_counter() - start}


def run(words):
    answer = subprocess.run(list(map(str, words)), env=os.environ | SETTINGS, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{answer.stderr[-4000:]}\nfailed: {' '.join(map(str, words))}")
    return answer.stdout


def figures(results, name, task, figure):
    return [result[figure] for result in results[name][task]]


def cell(results, name, task, figure, digits):
    """The median and the range of a figure."""
    values = figures(results, name, task, figure)
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def table(corner, titles, rows):
    """The lines of a table of numbers, of which each row begins with its name."""
    yield f"| {corner} | " + " | ".join(titles) + " |"
    yield "|---|" + "---:|" * len(titles)
    for name, cells in rows:
        yield f"| {name} | {' | '.join(cells)} |"


def speed_table(results):
    columns = [
        ("short (texts/s)", "short", "texts_per_second", 0),
        ("long (texts/s)", "long", "texts_per_second", 0),
        ("mixed (texts/s)", "mixed", "texts_per_second", 0),
        ("one query, p50 (ms)", "queries", "p50_ms", 1),
        ("p95 (ms)", "queries", "p95_ms", 1),
        ("cold start (s)", "cold", "seconds", 2),
    ]
    rows = {PROGRAMS[name].label: [cell(results, name, *column) for _, *column in columns] for name in results}
    return table(f"{NAME}, CPU", [title for title, *_ in columns], rows.items())


def size_table(results, private, cosines):
    titles = [f"peak, {task}" for task in ("first vector", "short", "long", "mixed", "one query")]
    titles += ["second process", "installed", "model", "smallest cosine", "mean"]
    rows = {}
    for name in results:
        program = PROGRAMS[name]
        megabytes = [median(figures(results, name, task, "peak_mb")) for task in TASKS]
        megabytes += [private[name], size_mb(program.environment), size_mb(program.model)]
        cells = ["-" if value is None else f"{value:,.0f}" for value in megabytes]
        rows[program.label] = [*cells, f"{cosines[name].min():.6f}", f"{cosines[name].mean():.6f}"]
    return table(SIZES, titles, rows.items())


def notes(results, texts):
    turns = {len(results[name][task]) for name in results for task in TASKS}
    fewer = [
        f"{PROGRAMS[name].label} {len(results[name][task])} at {task}"
        for name in results
        for task in TASKS
        if len(results[name][task]) < max(turns)
    ]
    sizes = "; ".join(f"{name}: {described(each)}" for name, each in texts.items())
    rounds = f"- Figures: medians over {max(turns)} rounds, with the range in brackets."
    if fewer:
        rounds += f" Fewer rounds, to save time: {'; '.join(fewer)}."
    lines = [
        f"- Machine: {machine()}.",
        f"{rounds} All programs take turns. Each measurement is a process of its own.",
        f"- Texts: {sizes}. Every program cuts texts at 256 tokens.",
        "- Cold start: a new process, from its first import to its first vector.",
        "- Memory: the peak of the process. Second process: its private memory while another process holds the same "
        "model.",
        "- Agreement: cosines with the vectors of sentence-transformers with torch, over sentences of many kinds and "
        "long texts.",
        "- Batches: 32 short, 8 long or 16 mixed texts, sorted by length. fastembed does not sort: 16, 4 and 1. "
        "embedder fills its own.",
        "- ONNX graph: the three programs that use it share the one of sentence-transformers, with its optimisations "
        "O3. qint8 follows its documentation for this CPU.",
        "- OpenVINO: without fp32 it takes bfloat16, if the CPU has it. Its qint8 is calibrated with "
        f"{len(calibration_texts())} mixed texts.",
        f"- Versions: {versions(results)}.",
    ]
    return "\n".join(lines)


def chart(results):
    """Draw how fast each program is at each task, as a ratio to the best other program.

    Programs in int8 have a panel of their own. The cold start is left out: its bar would be thirty times as high as all
    others.
    """
    groups = {
        "short texts": ("short", "texts_per_second"),
        "long texts": ("long", "texts_per_second"),
        "mixed texts": ("mixed", "texts_per_second"),
        "one query": ("queries", "p50_ms"),
    }
    panels = {}
    for title, precisions in (("not quantised", ("fp32", "default")), ("int8", ("int8",))):
        names = [name for name in results if PROGRAMS[name].precision in precisions]
        peers = [name for name in names if not name.startswith("embedder")]
        if peers:
            panels[title] = {PROGRAMS[name].label: [] for name in names}
        for task, figure in groups.values() if peers else ():
            # Of times the least is best, of rates the most.
            speeds = {name: median(figures(results, name, task, figure)) for name in names}
            if figure != "texts_per_second":
                speeds = {name: 1 / value for name, value in speeds.items()}
            best = max(speeds[name] for name in peers)
            for name in names:
                panels[title][PROGRAMS[name].label].append(speeds[name] / best)
    return plot(
        f"{NAME} on {machine()}: speed beside the best other program (1.0); higher is faster", list(groups), panels
    )


def size_mb(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def machine():
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(": ")[1] for line in cpuinfo.read_text().splitlines() if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def versions(names):
    """What each environment has of the packages that matter."""
    wanted = ("embedder", "fastembed", "onnxruntime", "openvino", "optimum-intel", "optimum-onnx")
    wanted += ("sentence-transformers", "tokenizers", "torch", "transformers")
    found = []
    for environment in dict.fromkeys(PROGRAMS[name].environment for name in names):
        packages = json.loads(run([environment / "bin/python", "-m", "pip", "list", "--format", "json"]))
        listed = ", ".join(f"{p['name']} {p['version']}" for p in packages if p["name"].replace("_", "-") in wanted)
        found.append(f"{environment.name}: {listed}")
    return "; ".join(found)


if __name__ == "__main__":
    main()
