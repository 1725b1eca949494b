"""Compare the native builders with optimum and onnxruntime's fusions, for families of true size. Writes a table.

Usage: PYTHONPATH=. .venv/torch/bin/python benchmarks/converters.py [--families NAME ...] [--output FILE]

The command line exports each checkpoint twice. The native export runs in the environment without torch. The export by
optimum runs in the environment with torch, and also compares its vectors with sentence-transformers. Then the calls of
the two graphs alternate.
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
from tokenizers import Tokenizer

from embedder import Embedder
from embedder.artifact.manifest import GRAPH_INPUTS, POOLING_MASK
from tests.families import FAMILIES, seeded

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
# The sizes of the calls: (texts, tokens).
SHAPES = ((1, 16), (16, 32), (4, 128), (2, 256), (1, 512))
SECONDS_PER_SHAPE = 4
MIN_CALLS = 5


@dataclass(frozen=True)
class Export:
    """An export and its measurements. `difference` is the largest difference from sentence-transformers."""

    seconds: float
    peak_bytes: int
    nodes: int
    file_bytes: int
    difference: float
    form: str


@dataclass(frozen=True)
class Row:
    """A family and its measurements.

    Attributes:
        name: the family.
        exports: the two exports, by the name of the converter.
        calls: for each (threads, shape), the milliseconds of the native graph, and the ratio of the times: optimum's
            graph to the native graph.
    """

    name: str
    exports: dict[str, Export]
    calls: dict[tuple[int, tuple[int, int]], tuple[float, float]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", metavar="NAME", default=NAMES, help="measure only these families")
    parser.add_argument("--small", action="store_true", help="use small sizes, to see whether this program works")
    parser.add_argument("--seconds", type=float, default=SECONDS_PER_SHAPE, help="the duration of each shape")
    parser.add_argument("--output", type=Path, default=RESULTS / "converters.md", help="the file to write")
    options = parser.parse_args()
    rows, sizes = [], "small" if options.small else "true"
    for family in [REAL, *FAMILIES]:
        if family.name in options.families:
            with TemporaryDirectory() as scratch:
                rows.append(measure_family(family, Path(scratch), options.seconds, full=not options.small))
            print(rows[-1], file=sys.stderr, flush=True)
            options.output.write_text(table(rows, sizes) + "\n", encoding="utf-8")
    print(table(rows, sizes))


def measure_family(family, scratch, seconds, *, full):
    """Return the row of a family."""
    checkpoint = seeded(family.make, scratch / family.name, full=full)
    texts = parity_sentences()[::8]
    theirs = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True).encode(texts)
    exports = {}
    for name, command in COMMANDS.items():
        artifact = scratch / name
        export_seconds, peak = timed([*map(str, command), str(checkpoint), "--output", str(artifact)])
        model = Embedder(artifact, provider="cpu")
        _, difference = measure(model.encode(texts), theirs)
        (graph,) = model.manifest.graphs
        nodes = len(onnx.load(artifact / graph.file.name, load_external_data=False).graph.node)
        size = graph.file.size + graph.weights.size
        exports[name] = Export(
            seconds=export_seconds,
            peak_bytes=peak,
            nodes=nodes,
            file_bytes=size,
            difference=difference.max(),
            form=graph.form,
        )
        del model
    calls = {}
    vocabulary_size = Tokenizer.from_file(str(scratch / "native/tokenizer.json")).get_vocab_size()
    for threads in (1, 2):
        sessions = {name: session(scratch / name / "model.onnx", threads) for name in COMMANDS}
        for shape in SHAPES:
            calls[threads, shape] = time_calls(sessions, shape, vocabulary_size, seconds)
    return Row(family.name, exports, calls)


def session(path, threads):
    """Load a graph with the runtime's options, but with `threads` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def time_calls(sessions, shape, vocabulary_size, seconds):
    """Return the median milliseconds of the native graph, and the median ratio of optimum's time to the native time."""
    generator = np.random.default_rng(0)
    texts, tokens = shape
    lengths = np.linspace(tokens, max(1, tokens * 3 // 4), texts).astype(int)[:, None]
    mask = (np.arange(tokens) < lengths).astype(np.int64)
    feed = {
        GRAPH_INPUTS[0]: generator.integers(1000, 5000, shape) % vocabulary_size,
        GRAPH_INPUTS[1]: mask,
        POOLING_MASK: mask,
    }
    feeds = {
        name: {value.name: feed[value.name] for value in session.get_inputs()} for name, session in sessions.items()
    }
    times = {name: [] for name in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["native"]) < MIN_CALLS:
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds[name])
            times[name].append(time.perf_counter() - start)
    native, optimum = (np.array(times[name][1:]) for name in ("native", "optimum"))
    return 1000 * float(np.median(native)), float(np.median(optimum / native))


def table(rows, sizes):
    """Return the page with all tables."""
    tools = ("onnxruntime", "optimum-onnx", "torch", "transformers", "sentence-transformers")
    versions = ", ".join(f"{tool} {version(tool)}" for tool in tools)
    return "\n\n".join([*export_parts(rows, sizes), *call_parts(rows), f"On {machine()}. Versions: {versions}."])


def export_parts(rows, sizes):
    """Return the title, the notes and the table of the exports."""
    parts = [
        f"# The two converters, by family at {sizes} sizes",
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
    return [*parts, "\n".join(lines)]


def call_parts(rows):
    """Return the note and the tables of the calls, one for each number of threads."""
    parts = [
        "The time of a call, by texts x tokens: milliseconds of the native graph, and in brackets the time of "
        "optimum's graph as a multiple of it. Above 1 the native graph is faster. Both are medians of calls in turn. "
        "The shortest text of a batch has three quarters of the tokens."
    ]
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
    return parts


if __name__ == "__main__":
    main()
