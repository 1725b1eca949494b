"""Damage files, downloads and processes in thousands of ways, and count how embedder takes it. Writes a table.

Usage: PYTHONPATH=.:export .venv/export/bin/python -m benchmarks.faults [--parts NAME ...] [--case NUMBER ...]

`--case` runs single mutations again, by their numbers, and prints all about them.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from benchmarks.faults import downloads, kills
from benchmarks.faults.campaign import Campaign
from benchmarks.faults.cases import SEED, Case
from benchmarks.faults.checkpoint import write_checkpoint
from benchmarks.faults.downloads import ROOT, TEXTS, Repository
from benchmarks.faults.judge import ALLOWED, Outcome
from tests.tiny import write_tiny_artifact

_MINILM = ROOT / "artifacts/all-MiniLM-L6-v2"
_FINDING = "findings"
_PROGRESS_CASES = 1000
_NOTES = """\
Written by `make faults`. Each mutation runs in a child process with 4 GB of address space. The child loads the model
twice, and encodes three texts alone and together. `--case NUMBER` runs one mutation again.

- "as it is": the digests of the manifest must catch the change. "sealed again": sizes and digests were made right, as a
  hostile publisher can do. No digest protects a manifest, so every change of it counts as hostile.
- error of embedder: an `EmbedderError` with a message. For a command: exit status 1, a message, and no traceback.
- the original vectors: the same as with undamaged files, within 1e-5. Either the damage has no effect, or the program
  rebuilds a damaged cache.
- other vectors: only where a publisher may change the model. They are finite, the same at each call and at each load,
  and the same alone as in a batch.
- vectors that depend on the batch: only where a publisher wrote such a graph.
- Where a retry or a new run follows, it must succeed with the right vectors, and no file of the first one may be left.
- findings: everything else. Another exception, a panic, a dead process, a hang, a file opened outside of the artifact
  and the caches, code that ran, wrong vectors, files left behind, a token in a message.
"""
_VERSIONS = ("onnxruntime", "tokenizers", "huggingface_hub", "numpy")


def main() -> int:
    """Run the command line. Return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=list(_PARTS), default=list(_PARTS))
    parser.add_argument("--cases", type=int, default=12_000, help="number of mutations")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--case", type=int, nargs="+", help="run these mutations alone, and print all about them")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/faults.md")
    options = parser.parse_args()
    if options.case:
        return _show(options.case)
    counts: dict[str, Counter[tuple[str, str]]] = {}
    findings = []
    began = time.perf_counter()
    for part in options.parts:
        counts[part] = Counter()
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as scratch:
            for row, name, outcome in _PARTS[part](options, Path(scratch)):
                allowed = outcome.result in ALLOWED
                counts[part][row, outcome.result if allowed else _FINDING] += 1
                if counts[part].total() % _PROGRESS_CASES == 0:
                    print(f"{part}: {counts[part].total():,} cases", flush=True)
                if not allowed:
                    findings.append(f"- {row}, {name}: {outcome.result} {outcome.message[:300]!r}")
                    print(findings[-1], flush=True)
    options.output.write_text(_page(counts, findings, time.perf_counter() - began), encoding="utf-8")
    print(options.output.read_text())
    return 1 if findings else 0


Rows = Iterator[tuple[str, str, Outcome]]


def _mutations(options: argparse.Namespace, scratch: Path) -> Rows:
    for case, outcome in Campaign(scratch).run(range(options.first, options.first + options.cases)):
        yield _row(case), f"case {case.number}, {outcome.kind}", outcome


def _row(case: Case) -> str:
    """Return the row of the table in which a mutation is counted."""
    if case.target == "special file":
        return "a special file in the place of one"
    way = {"torch file": "zip, pickle", "graph": "protobuf"}.get(case.target, "JSON") if case.structural else "bytes"
    if case.target in ("manifest", "prepacked copy", "packed by the publisher", "check record"):
        return f"{case.target}: {way}"
    return f"{case.target}: {way}, {'sealed again' if case.sealed else 'as it is'}"


def _downloads(options: argparse.Namespace, scratch: Path) -> Rows:
    for kind, repository in _repositories(scratch).items():
        homes = scratch / f"{kind} homes"
        homes.mkdir()
        for outcome in downloads.run(repository, homes):
            yield kind, outcome.kind, outcome


def _many(options: argparse.Namespace, scratch: Path) -> Rows:
    for kind, repository in _repositories(scratch).items():
        for outcome in downloads.run_many_at_once(repository, scratch / f"{kind} at once"):
            yield f"{kind}: {outcome.kind}", "", outcome


def _kills(options: argparse.Namespace, scratch: Path) -> Rows:
    for operation in _operations(scratch):
        for outcome in kills.kill(operation, scratch / operation.name):
            yield outcome.kind, "", outcome


def _disks(options: argparse.Namespace, scratch: Path) -> Rows:
    if not kills.own_mounts():
        print("no disks are filled: this user may not mount one")
        return
    for operation in _operations(scratch):
        if operation.before:  # it writes nothing
            continue
        for outcome in kills.fill_disk(operation, scratch / f"{operation.name}, disk"):
            yield outcome.kind, "", outcome


_PARTS = {"mutations": _mutations, "downloads": _downloads, "many": _many, "kills": _kills, "disks": _disks}
_TITLES = {
    "mutations": "Damaged and hostile files",
    "downloads": "Downloads that fail, then a retry",
    "many": "Twenty processes at once on empty caches, then one without a network",
    "kills": "Processes killed at a random moment, then a new run",
    "disks": "Disks that are too small, then a run with room",
}


def _repositories(scratch: Path) -> dict[str, Repository]:
    """Return a tiny artifact and a small checkpoint to serve, with what a process prints with them."""
    artifact, checkpoint, exported = scratch / "artifact", scratch / "checkpoint", scratch / "exported"
    write_tiny_artifact(artifact)
    write_checkpoint(checkpoint)
    _run("embedder_export", str(checkpoint), "--output", str(exported))
    return {
        "artifact": Repository("org/artifact", artifact, "embedder.json", "model.onnx.data", _printed(artifact)),
        "checkpoint": Repository("org/checkpoint", checkpoint, "config.json", "model.safetensors", _printed(exported)),
    }


def _operations(scratch: Path) -> list[kills.Operation]:
    """Return the commands to kill. The real model is used if it is here, because it takes longer to fetch and pack."""
    served = _repositories(scratch)
    artifact = served["artifact"]
    if _MINILM.is_dir():
        artifact = Repository("org/minilm", _MINILM, artifact.first, artifact.weights, _printed(_MINILM))
    return kills.operations_of(artifact, served["checkpoint"])


def _printed(model: Path) -> str:
    return _run("embedder", "encode", "--model", str(model))


def _run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, "EMBEDDER_PREPACK": "0"}
    return subprocess.run(command, env=environment, input=TEXTS, capture_output=True, text=True, check=True).stdout


def _show(numbers: list[int]) -> int:
    findings = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        for case, outcome in Campaign(Path(scratch), verbose=True).run(numbers):
            print(case, outcome, sep="\n")
            findings += outcome.result not in ALLOWED
    return 1 if findings else 0


def _page(counts: dict[str, Counter[tuple[str, str]]], findings: list[str], seconds: float) -> str:
    every: Counter[tuple[str, str]] = Counter()
    for part, counted in counts.items():
        for (_, result), count in counted.items():
            every[_TITLES[part], result] += count
    lines = ["# How embedder takes faults", "", _NOTES, *_table(every)]
    for part, counted in counts.items():
        lines += ["", f"## {_TITLES[part]}", "", *_table(counted)]
    if findings:
        lines += ["", "## Findings", "", *findings]
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONS)
    lines += ["", f"Seed {SEED}. {seconds / 60:.0f} minutes. Python {platform.python_version()}, {versions}."]
    return "\n".join(lines) + "\n"


def _table(counted: Counter[tuple[str, str]]) -> list[str]:
    columns = [result for result in (*ALLOWED, _FINDING) if result == _FINDING or _sum(counted, result=result)]
    lines = [f"| what | cases | {' | '.join(columns)} |", "|---|" + "---:|" * (1 + len(columns))]
    for row in dict.fromkeys([*(row for row, _ in sorted(counted)), None]):
        numbers = [_sum(counted, row), *(_sum(counted, row, result) for result in columns)]
        lines.append(f"| {row or 'all'} | {' | '.join(f'{number:,}' for number in numbers)} |")
    return lines


def _sum(counted: Counter[tuple[str, str]], row: str | None = None, result: str | None = None) -> int:
    return sum(count for key, count in counted.items() if row in (None, key[0]) and result in (None, key[1]))


if __name__ == "__main__":
    sys.exit(main())
