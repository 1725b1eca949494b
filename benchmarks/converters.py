"""The native builders against optimum with onnxruntime's fusions, by family at true sizes, as a table.

Usage: PYTHONPATH=. .venv/torch/bin/python benchmarks/converters.py [--families NAME ...] [--output FILE]

Each checkpoint is exported by the command line twice: natively in the light environment, and by optimum in the
environment with torch, where it is also compared with sentence-transformers. Then the two graphs take turns.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from compare import machine
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import measure
from parity import REAL, RESULTS, ROOT, timed
from sentence_transformers import SentenceTransformer

from embedder import Embedder
from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK
from tests.families import FAMILIES, seeded, unpickle

NAMES = (
    "all-MiniLM-L6-v2",
    "msmarco-bert-base-dot-v5",
    "msmarco-distilbert-base-tas-b",
    "all-distilroberta-v1",
    "paraphrase-multilingual-mpnet-base-v2",
    "all-mpnet-base-v2",
    "paraphrase-albert-small-v2",
    "instructor-base",
    "LaBSE",
)
COMMANDS = {
    "native": [ROOT / ".venv/export/bin/embedder-export", "--converter", "native", "--dtypes", "fp32"],
    "optimum": [
        *(ROOT / ".venv/torch/bin/embedder-export", "--converter", "optimum", "--verify", "reference"),
        *("--dtypes", "fp32"),
    ],
}
# (texts, tokens).
SHAPES = ((1, 16), (16, 32), (4, 128), (2, 256), (1, 512))
SECONDS = 4


@dataclass(frozen=True)
class Export:
    seconds: float
    peak_bytes: int
    nodes: int
    file_bytes: int
    difference: float
    form: str


@dataclass(frozen=True)
class Row:
    name: str
    exports: dict[str, Export]
    # By threads and shape: milliseconds of the native graph, and optimum's time as a multiple of that.
    calls: dict[tuple[int, tuple[int, int]], tuple[float, float]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", metavar="NAME", default=NAMES, help="only these")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each shape")
    parser.add_argument("--output", type=Path, default=RESULTS / "converters.md", help="where to write the table")
    options = parser.parse_args()
    rows = []
    for family in [REAL, *FAMILIES]:
        if family.name in options.families:
            with TemporaryDirectory() as scratch:
                rows.append(measured(family, Path(scratch), options.seconds))
            print(rows[-1], file=sys.stderr, flush=True)
            options.output.write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


def measured(family, scratch, seconds):
    checkpoint = seeded(family.make, scratch / family.name, full=True)
    unpickle(checkpoint)
    texts = parity_sentences()[::8]
    theirs = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True).encode(texts)
    exports = {}
    for name, command in COMMANDS.items():
        artifact = scratch / name
        took, peak = timed([*map(str, command), str(checkpoint), "--output", str(artifact)])
        model = Embedder(artifact, provider="cpu")
        _, difference = measure(model.encode(texts), theirs)
        (graph,) = model.manifest.graphs
        nodes = len(onnx.load(artifact / graph.file.name, load_external_data=False).graph.node)
        size = graph.file.size + graph.weights.size
        exports[name] = Export(took, peak, nodes, size, difference.max(), graph.form)
        del model
    calls = {}
    for threads in (1, 2):
        sessions = {name: session(scratch / name / "model.onnx", threads) for name in COMMANDS}
        for shape in SHAPES:
            calls[threads, shape] = compared(sessions, shape, seconds)
    return Row(family.name, exports, calls)


def session(path, threads):
    """Load a graph as the runtime does, except for the number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compared(sessions, shape, seconds):
    """Return the native graph's median milliseconds, and the median ratio of optimum's time to it, call by call."""
    generator = np.random.default_rng(0)
    texts, tokens = shape
    lengths = np.linspace(tokens, max(1, tokens * 3 // 4), texts).astype(int)[:, None]
    mask = (np.arange(tokens) < lengths).astype(np.int64)
    feed = {GRAPH_INPUTS[0]: generator.integers(1000, 5000, shape), GRAPH_INPUTS[1]: mask, POOLING_MASK: mask}
    feeds = {name: {value.name: feed[value.name] for value in each.get_inputs()} for name, each in sessions.items()}
    times = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["native"]) < 5:
        for name, each in sessions.items():
            start = time.perf_counter()
            each.run(None, feeds[name])
            times[name].append(time.perf_counter() - start)
    native, optimum = (np.array(times[name][1:]) for name in ("native", "optimum"))
    return 1000 * float(np.median(native)), float(np.median(optimum / native))


def table(rows):
    parts = [
        "# The two converters, by family at true sizes",
        "Written by `make converters`. Each figure is native / optimum. optimum has the fusions that were fastest for "
        "it.",
        "- Export: the whole command. The native one runs without torch. The one by optimum runs with torch, and also "
        "compares its vectors.\n"
        "- Difference: the largest difference from sentence-transformers in one number, as a share of the vector's "
        "length.",
    ]
    lines = [
        "| stands for | export (s) | its peak memory (MB) | nodes | artifact (MB) | difference | optimum's form |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        pairs = [
            " / ".join(form(each) for each in row.exports.values())
            for form in (
                lambda export: f"{export.seconds:.1f}",
                lambda export: f"{export.peak_bytes / 1e6:,.0f}",
                lambda export: f"{export.nodes:,}",
                lambda export: f"{export.file_bytes / 1e6:,.1f}",
                lambda export: f"{export.difference:.1e}",
            )
        ]
        lines.append(f"| {row.name} | {' | '.join(pairs)} | {row.exports['optimum'].form} |")
    parts.append("\n".join(lines))
    parts.append(
        "The time of a call, by texts x tokens: milliseconds of the native graph, and in brackets the time of "
        "optimum's graph as a multiple of it. Above 1 the native graph is faster. Both are medians of calls in turn. "
        "The shortest text of a batch has three quarters of the tokens."
    )
    for threads in (1, 2):
        lines = [
            f"| {threads} thread{'s' if threads > 1 else ''} | "
            + " | ".join(f"{texts} x {tokens}" for texts, tokens in SHAPES)
            + " |",
            "|---|" + "---:|" * len(SHAPES),
        ]
        for row in rows:
            cells = [f"{row.calls[threads, shape][0]:.1f} ({row.calls[threads, shape][1]:.3f})" for shape in SHAPES]
            lines.append(f"| {row.name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    tools = ("onnxruntime", "optimum-onnx", "torch", "transformers", "sentence-transformers")
    named = ", ".join(f"{tool} {version(tool)}" for tool in tools)
    parts.append(f"On {machine()}. Versions: {named}.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
