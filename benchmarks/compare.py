"""Compare embedder with other programs on this machine, in one run. Writes tables and a plot.

Usage: `make bench`. It makes the environments and the artifact, and then runs this file.

Each measurement runs in its own process, in the environment of its program. In each round, every program does every
task once. So a machine that slows down slows all programs. The tables give medians and ranges.

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
from pages import with_tables
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
# The page with the tables. They are between these two lines.
PAGE = ROOT / "docs/benchmarks.md"
PAGE_MARKS = ("<!-- comparison -->", "<!-- /comparison -->")


@dataclass(frozen=True)
class Program:
    """A program that is measured.

    Attributes:
        label: its name in the tables.
        dtype: "fp32" or "int8". With "default", the program chooses a dtype for this CPU. Only the vectors of "fp32"
            must agree with the reference.
        environment: the virtual environment that it runs in.
        model: the directory of its model.
        maker: the environment that makes its model. None if `make` makes the model.
    """

    label: str
    dtype: str
    environment: Path
    model: Path
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
# The smallest cosine with the reference that an fp32 program may have.
MIN_COSINE = 0.9999
SIZE_TABLE_TITLE = "memory, sizes (MB); agreement"
TASKS = ("cold", "short", "long", "mixed", "queries")
# No program may use the Hub, and onnxruntime sends no telemetry.
VARIABLES = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=3, help="how often each program does each task")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--texts", type=int, help="the largest number of texts in each workload")
    parser.add_argument("--limit", type=float, default=120, help="skip a task of a program after this many seconds")
    options = parser.parse_args()

    names = [name for name in PROGRAMS if name in options.programs and available(name)]
    texts = workloads(options.texts)
    with tempfile.TemporaryDirectory() as scratch:
        make_models([PROGRAMS[name] for name in names], CHECKPOINT, calibration_texts(), Path(scratch))
        cosines = agreement(names, options.texts, Path(scratch))
        private = {name: second_process(name) for name in names}
        results = rounds(names, texts, options, Path(scratch))
    tables = "\n".join([*speed_table(results), "", *size_table(results, private, cosines), "", notes(results, texts)])
    options.output.write_text(tables + "\n", encoding="utf-8")
    options.output.with_suffix(".svg").write_text(chart(results), encoding="utf-8")
    if options.output == RESULT:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables, PAGE_MARKS), encoding="utf-8")
    print(tables)


def available(name):
    """Return whether the program can be measured. Print why not."""
    program = PROGRAMS[name]
    manifest = json.loads((ARTIFACT / "embedder.json").read_text(encoding="utf-8"))
    if name == "embedder-int8" and "int8" not in [graph["dtype"] for graph in manifest["graphs"]]:
        print(f"{name} is left out: the artifact has no int8 graph", flush=True)
        return False
    return is_installed(program)


def is_installed(program):
    """Return whether the environments of the program exist. Print which do not."""
    missing = [path for path in {program.environment, program.maker} - {None} if not (path / "bin/python").exists()]
    if missing:
        print(f"{program.label} is left out: .venv has no {', '.join(path.name for path in missing)}", flush=True)
    return not missing


def make_models(programs, checkpoint, calibration, scratch):
    """Make the models of other programs that do not exist yet. `calibration` has texts or pairs of texts."""
    path = write_inputs(calibration, scratch)
    for program in programs:
        if program.maker and not program.model.exists():
            print(f"making {program.model.name} for {program.label}", flush=True)
            arguments = [program.model.name, checkpoint, program.model, path]
            run([program.maker / "bin/python", ROOT / "benchmarks/graphs.py", *arguments])


def agreement(names, max_texts, scratch):
    """Return the cosines between each program's vectors and the reference's, as {program: array}.

    Raises:
        SystemExit: the vectors of an fp32 program differ from the reference's.
    """
    texts = agreement_texts()
    texts = texts if max_texts is None else spread(texts, min(max_texts, len(texts)))
    cosines, reference = {}, None
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        work(name, *encode_arguments("long", texts, scratch))
        vectors = np.load(scratch / "vectors.npy").astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        reference = vectors if reference is None else reference
        cosines[name] = (reference * vectors).sum(axis=1)
        smallest, mean = cosines[name].min(), cosines[name].mean()
        print(f"agreement over {len(texts)} texts: {name}: smallest cosine {smallest:.6f}, mean {mean:.6f}", flush=True)
        if PROGRAMS[name].dtype == "fp32" and smallest < MIN_COSINE:
            raise SystemExit(f"the vectors of {name} differ from {REFERENCE}'s. Their speeds cannot be compared")
    return cosines


def second_process(name):
    """Return the private memory of a process, in MB, while another process holds the same model. None if unknown."""
    print(f"second process: {name}", flush=True)
    with subprocess.Popen(
        command(name, "hold"),
        env=os.environ | VARIABLES,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as first:
        # Libraries may print lines before the JSON.
        if not any(line.startswith("{") for line in first.stdout):
            raise SystemExit(f"{name} could not hold its model")
        result = work(name, "second")
        first.stdin.close()
    return result["private_mb"]


def rounds(names, texts, options, scratch):
    """Return the results of all rounds, as {program: {task: [result, ...]}}."""
    results = {name: {task: [] for task in TASKS} for name in names}
    spent = Counter()
    for number in range(options.rounds):
        for task in TASKS:
            for name in names:
                if spent[name, task] > options.limit:
                    continue
                result = work(name, *task_arguments(task, texts, scratch))
                spent[name, task] += result["process_seconds"]
                results[name][task].append(result)
                shown = ", ".join(f"{figure} {value:,.2f}" for figure, value in result.items())
                print(f"{number + 1}/{options.rounds} {task}: {name}: {shown}", flush=True)
    return results


def task_arguments(task, texts, scratch):
    """Return the arguments of worker.py for a task."""
    if task == "cold":
        return ["cold"]
    if task == "queries":
        return ["queries", write_inputs(texts[task], scratch)]
    return encode_arguments(task, texts[task], scratch)


def encode_arguments(workload, texts, scratch):
    return ["encode", write_inputs(texts, scratch), scratch / "vectors.npy", workload]


def write_inputs(texts, scratch):
    """Write texts, pairs of texts or the paths of images to a file for a worker. Return its path."""
    path = scratch / "texts.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    return path


def command(name, *arguments):
    program = PROGRAMS[name]
    python = program.environment / "bin/python"
    return list(map(str, [python, ROOT / "benchmarks/worker.py", name, program.model, *arguments]))


def work(name, *arguments):
    """Return the worker's result, with the duration of the whole process in seconds."""
    start = time.perf_counter()
    result = json.loads(run(command(name, *arguments)).splitlines()[-1])
    return result | {"process_seconds": time.perf_counter() - start}


def run(words):
    """Run a command, and return what it prints. A command that fails ends the benchmark."""
    answer = subprocess.run(list(map(str, words)), env=os.environ | VARIABLES, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{answer.stderr[-4000:]}\nfailed: {' '.join(map(str, words))}")
    return answer.stdout


def figures(results, name, task, figure):
    return [result[figure] for result in results[name][task]]


def cell(results, name, task, figure, digits):
    """Return the median and the range of a figure as text, with so many `digits` after the point."""
    values = figures(results, name, task, figure)
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def table(corner, titles, rows):
    """Yield the lines of a Markdown table of numbers. `rows` are pairs of a name and its cells."""
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
    return table(SIZE_TABLE_TITLE, titles, rows.items())


def notes(results, texts):
    counts = {len(results[name][task]) for name in results for task in TASKS}
    fewer = [
        f"{PROGRAMS[name].label} {len(results[name][task])} at {task}"
        for name in results
        for task in TASKS
        if len(results[name][task]) < max(counts)
    ]
    sizes = "; ".join(f"{name}: {described(each)}" for name, each in texts.items())
    rounds = f"- Figures: medians over {max(counts)} rounds, with the range in brackets."
    if fewer:
        rounds += f" Fewer rounds, to save time: {'; '.join(fewer)}."
    lines = [
        f"- Machine: {machine()}.",
        f"{rounds} All programs take turns. Each measurement runs in its own process.",
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
        f"- Versions: {versions(PROGRAMS[name].environment for name in results)}.",
    ]
    return "\n".join(lines)


def chart(results):
    """Return a plot (SVG) of the speed of each program at each task, divided by the speed of the best other program.

    Programs in int8 have their own panel. The cold start is left out, because its bar would be 30 times as high as the
    others.
    """
    groups = {
        "short texts": ("short", "texts_per_second"),
        "long texts": ("long", "texts_per_second"),
        "mixed texts": ("mixed", "texts_per_second"),
        "one query": ("queries", "p50_ms"),
    }
    panels = {}
    for title, dtypes in (("not quantised", ("fp32", "default")), ("int8", ("int8",))):
        names = [name for name in results if PROGRAMS[name].dtype in dtypes]
        peers = [name for name in names if not name.startswith("embedder")]
        if peers:
            panels[title] = {PROGRAMS[name].label: [] for name in names}
        for task, figure in groups.values() if peers else ():
            # A figure is texts per second, or a time. The speed of a time is its inverse.
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
    """Return the size of all files in `directory`, in MB. Links are not followed."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def machine():
    """Return a description of this machine: its CPU, its cores, its system and its Python."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(": ")[1] for line in cpuinfo.read_text().splitlines() if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def versions(environments):
    """Return the versions of the relevant packages in each environment, as text."""
    wanted = ("embedder-onnx", "fastembed", "FlashRank", "onnxruntime", "openvino", "optimum-intel", "optimum-onnx")
    wanted += ("sentence-transformers", "tokenizers", "torch", "transformers")
    found = []
    for environment in dict.fromkeys(environments):
        packages = json.loads(run([environment / "bin/python", "-m", "pip", "list", "--format", "json"]))
        listed = ", ".join(f"{p['name']} {p['version']}" for p in packages if p["name"].replace("_", "-") in wanted)
        found.append(f"{environment.name}: {listed}")
    return "; ".join(found)


if __name__ == "__main__":
    main()
