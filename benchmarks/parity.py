"""Compare the vectors of every family of text models with sentence-transformers. Writes a table.

Usage: PYTHONPATH=. .venv/torch/bin/python benchmarks/parity.py [--full] [--families NAME ...] [--output FILE]

tests/families.py makes a checkpoint of each family. With --full, the checkpoint has its true size. The command line
exports it, and a new process loads it. Then both programs encode the same sentences in many languages. The real
all-MiniLM-L6-v2 comes first.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from compare import machine
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify.compare import measure
from quality import DATA, lines
from sentence_transformers import SentenceTransformer

from embedder import Embedder
from tests.families import FAMILIES, Family, seeded

ROOT = Path(__file__).parents[1]
REAL = Family("all-MiniLM-L6-v2", lambda directory, full: ROOT / "checkpoints/all-MiniLM-L6-v2")
RESULTS = ROOT / "benchmarks/results"
# A small program that runs a command and prints its peak memory in kB. It is needed because a child process inherits
# the peak of its parent.
PEAK_PROGRAM = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)
LOAD_PROGRAM = "import sys, embedder; embedder.Embedder(sys.argv[1]).encode('The first vector.')"
SENTENCES_PER_FILE = 20


@dataclass(frozen=True)
class Row:
    """A row of the table: a family and its measurements. Peaks are in bytes."""

    name: str
    dimension: int
    cosine: float
    difference: float
    checkpoint_bytes: int
    artifact_bytes: int
    export_seconds: float
    export_peak: int
    load_seconds: float
    load_peak: int


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="use the true sizes; takes gigabytes, and almost an hour")
    parser.add_argument("--families", nargs="+", metavar="NAME", help="measure only these families")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    families = [family for family in [REAL, *FAMILIES] if not options.families or family.name in options.families]
    texts = sentences(options.full)
    rows = []
    for family in families:
        with TemporaryDirectory() as scratch:
            rows.append(measure_family(family, Path(scratch), options.full, texts))
        print(rows[-1], file=sys.stderr, flush=True)
    text = table(rows, options.full, len(texts))
    print(text)
    output = options.output or RESULTS / f"parity{'-full' if options.full else ''}.md"
    output.write_text(text + "\n", encoding="utf-8")


def measure_family(family, scratch, full, texts):
    """Return the row of a family."""
    checkpoint = seeded(family.make, scratch / family.name, full=full)
    artifact = scratch / "artifact"
    command = [sys.executable, "-m", "embedder_export", str(checkpoint), "--output", str(artifact), "--dtypes", "fp32"]
    export_seconds, export_peak = timed(command)
    load_seconds, load_peak = timed([sys.executable, "-c", LOAD_PROGRAM, str(artifact)])
    options = {"prompt": family.prompt}
    ours = Embedder(artifact, provider="cpu").encode(texts, **options)
    reference = SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)
    theirs = reference.encode(texts, show_progress_bar=False, **options)
    cosine, difference = measure(ours, theirs)
    return Row(
        name=family.name,
        dimension=ours.shape[1],
        cosine=cosine.min(),
        difference=difference.max(),
        checkpoint_bytes=total_bytes(checkpoint),
        artifact_bytes=total_bytes(artifact),
        export_seconds=export_seconds,
        export_peak=export_peak,
        load_seconds=load_seconds,
        load_peak=load_peak,
    )


def timed(command):
    """Run `command`. Return its duration in seconds, and its peak resident memory in bytes."""
    start = time.perf_counter()
    answer = subprocess.run([sys.executable, "-c", PEAK_PROGRAM, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, int(answer.stdout) * 1024


def sentences(full):
    """Return the export's own sentences, and some of each language in the test data. With `full`, return fewer."""
    texts = parity_sentences()[:: 4 if full else 1]
    if DATA.is_dir():
        for path in sorted((DATA / "bitext/tatoeba").glob("*.tsv")):
            texts += [line.split("\t")[0] for line in lines(path)[1 : 1 + SENTENCES_PER_FILE]]
        for path in sorted((DATA / "sts").glob("*.tsv")):
            texts += [line.split("\t")[1] for line in lines(path)[1 : 1 + SENTENCES_PER_FILE]]
    return texts


def total_bytes(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def table(rows, full, count):
    size = "their true sizes" if full else "small sizes"
    parts = [
        f"# Parity with sentence-transformers, by family, at {size}",
        f"Written by `make parity{'-full' if full else ''}`. Each row is a checkpoint that is built as in the model's "
        "repository (body, tokenizer, pooling, head, layout), with random weights. The first row is the real model. "
        "The difference is the largest difference in one number, as a share of the vector's length.",
        "| stands for | dim. | smallest cosine | largest difference | checkpoint (MB) | artifact (MB) "
        "| export (s) | its peak memory (MB) | process to first vector (s) | its peak memory (MB) |",
    ]
    parts[-1] += "\n|---|" + "---:|" * 9
    for row in rows:
        memory = [f"{value / 1e6:,.1f}" for value in (row.checkpoint_bytes, row.artifact_bytes)]
        parts[-1] += (
            f"\n| {row.name} | {row.dimension} | {row.cosine:.8f} | {row.difference:.1e} | {' | '.join(memory)} "
            f"| {row.export_seconds:.0f} | {row.export_peak / 1e6:,.0f} | {row.load_seconds:.2f} "
            f"| {row.load_peak / 1e6:,.0f} |"
        )
    tools = ("embedder-onnx", "onnxruntime", "sentence-transformers", "torch", "transformers", "optimum-onnx")
    versions = ", ".join(f"{tool} {version(tool)}" for tool in tools)
    parts.append(f"Over {count} texts; on {machine()}. Versions: {versions}.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
