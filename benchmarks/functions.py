"""Measure the AWS Lambda function of `make lambda`: its start, stage by stage, its calls, and its memory.

Usage: `make bench-functions`, as root on Linux.

The function runs as the tests run it: under AWS' runtime interface client, in a sandbox, with the CPU time and the
memory that Lambda gives to each size. In each round everything is done once. So a machine that slows down slows all.

The tables go to benchmarks/results/functions.md and to docs/aws-lambda.md.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

from compare import machine, with_tables

from tests.lambda_sandbox import Place, copy_client, no_limit_of, run_function, unpack
from tests.lambda_zip import build_zip

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "artifacts/all-MiniLM-L6-v2"
RESULT = ROOT / "benchmarks/results/functions.md"
# The page with the tables. They are between these two lines.
PAGE = ROOT / "docs/aws-lambda.md"
PAGE_MARKS = ("<!-- functions -->", "<!-- /functions -->")
WORKER = Path(__file__).with_name("function_worker.py").read_text(encoding="utf-8")

# The memory of a function in MB. None has no limits.
SIZES = (512, 1024, 1769, None)
STAGES = ("interpreter", "NumPy", "onnxruntime", "session", "tokenizers", "tokenizer", "first vector")
QUERY = {"inputs": ["What is the capital of France?"]}
_SUBJECTS = ("She will finish", "The team wants to see", "Nobody has read", "We paid for")
_THINGS = ("report", "kitchen table", "version of the library", "bicycle")
SENTENCES = {"inputs": [f"{who} the new {thing} before the end of the week." for who in _SUBJECTS for thing in _THINGS]}
# As many texts as a request may have, and texts of as many tokens as the model reads.
LARGE = ({"inputs": [f"text {number}" for number in range(1000)]}, {"inputs": ["many words and " * 100] * 64})
WARM_CALLS = 50


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--frozen-s", type=float, default=180, help="how long the function is frozen before a call")
    options = parser.parse_args()
    for controller in ("memory", "cpu"):
        if no_limit_of(controller):
            raise SystemExit(f"bench-functions: {no_limit_of(controller)}")

    with tempfile.TemporaryDirectory() as scratch:
        archive = make_zip(Path(scratch))
        place = Place(
            unpack(archive, subfolder(Path(scratch), "task")), copy_client(subfolder(Path(scratch), "runtime"))
        )
        empty = make_empty(place, subfolder(Path(scratch), "empty"))
        figures = defaultdict(list)
        for number in range(options.rounds):
            for size in SIZES:
                # Which of the two is first changes, as what ran before leaves a warm or a cold processor.
                modes = ("handler", "imports") if number % 2 else ("imports", "handler")
                measure(replace(place, memory_mb=size), replace(empty, memory_mb=size), modes, figures)
            print(f"round {number + 1} of {options.rounds}", flush=True)
        peak_mb = peak_of_large_requests(replace(place, memory_mb=512, cpus=1))
        frozen = call_after_freeze(replace(place, memory_mb=1769), options.frozen_s)
        sizes = archive.stat().st_size, sum(file.stat().st_size for file in place.task.rglob("*") if file.is_file())
    tables = "\n\n".join(
        [
            "\n".join(stage_table(figures)),
            "\n".join(bar_table(figures)),
            "\n".join(call_table(figures)),
            notes(options, sizes, peak_mb, frozen),
        ]
    )
    options.output.write_text(f"{tables}\n", encoding="utf-8")
    if options.output == RESULT:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables, PAGE_MARKS), encoding="utf-8")
    print(tables)


def make_zip(scratch):
    """Build the zip as `make lambda` does. Return its path."""
    build_zip(Path(sys.executable).parent, MODEL, scratch / "dist")
    (archive,) = (scratch / "dist").glob("*.zip")
    return archive


def subfolder(scratch, name):
    (scratch / name).mkdir()
    return scratch / name


def make_empty(place, directory):
    """Return the place of a function that does nothing, in `directory`."""
    (directory / "lambda_function.py").write_text("def handler(event, context):\n    return event\n")
    directory.chmod(0o755)
    return replace(place, task=directory)


def measure(place, empty, modes, figures):
    """Measure a function of one size once. Add the seconds and bytes to `figures`, by their names and the size."""
    size = place.memory_mb
    for mode in modes:
        figures[mode, size].append(max(end for _, end in start(place, mode).values()))
    for stage, span in start(place, "stages").items():
        figures[stage, size].append(span)
    with run_function(empty) as function:
        figures["client", size].append(function.wait_until_ready())
    forget_files(place.task)
    with run_function(place) as function:
        figures["uncached", size].append(function.wait_until_ready())
    with run_function(place) as function:
        figures["init", size].append(function.wait_until_ready())
        figures["first call", size].append(seconds(function, QUERY))
        figures["query", size] += [seconds(function, QUERY) for _ in range(WARM_CALLS)]
        figures["sentences", size] += [seconds(function, SENTENCES) for _ in range(WARM_CALLS // 5)]
        figures["memory", size].append(function.peak_mb())


def start(place, mode):
    """Start the worker, and return its result."""
    with run_function(replace(place, command=("-c", WORKER, mode))) as function:
        status = function.wait()
        if status != 0:
            raise SystemExit(f"the worker failed: {function.log.read_text()}")
        return json.loads((function.tmp / "result.json").read_text())


def seconds(function, event):
    invocation = function.api.send(event)
    invocation.response()
    return invocation.seconds


def forget_files(directory):
    """Make the system forget what it has cached of these files. The next start reads them from the disk."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak_of_large_requests(place):
    """Return the peak of the resident memory after the largest requests, in MB."""
    with run_function(place) as function:
        for event in LARGE:
            seconds(function, event)
        return function.peak_mb()


def call_after_freeze(place, frozen_s):
    """Return the seconds of a call after the function was frozen for `frozen_s` seconds, and of the one after it."""
    with run_function(place) as function:
        function.wait_until_ready()
        seconds(function, QUERY)
        function.freeze()
        time.sleep(frozen_s)
        invocation = function.api.send(QUERY)
        function.thaw()
        invocation.response()
        return invocation.seconds, seconds(function, QUERY)


def ms(values):
    return f"{median(values) * 1000:,.0f}"


def fine_ms(values):
    ordered = sorted(values)
    return f"{median(ordered) * 1000:,.1f} ({ordered[int(len(ordered) * 0.95)] * 1000:,.1f})"


def head(title):
    columns = [f"{size:,} MB, {size / 1769:.2f} vCPU" if size else "no limit" for size in SIZES]
    return [f"| {' | '.join([title, *columns])} |", f"|---|{'---:|' * len(SIZES)}"]


def rows(figures, table):
    """Return a row for each name and each function of a table."""
    return [f"| {' | '.join([label, *(show(figures, size) for size in SIZES)])} |" for label, show in table.items()]


def stage_table(figures):
    def span(stage):
        return lambda figures, size: "–".join(
            f"{median(values) * 1000:,.0f}" for values in zip(*figures[stage, size], strict=True)
        )

    return [*head("stage, ms after the process starts"), *rows(figures, {stage: span(stage) for stage in STAGES})]


def bar_table(figures):
    table = {
        "process start to first vector, ms": lambda f, size: ms(f["handler", size]),
        "imports of NumPy, onnxruntime and tokenizers, and the session, ms": lambda f, size: ms(f["imports", size]),
        "ratio": lambda f, size: f"{median(f['handler', size]) / median(f['imports', size]):.2f}",
    }
    return [*head("start"), *rows(figures, table)]


def call_table(figures):
    table = {
        "start under AWS' client, ms": lambda f, size: ms(f["init", size]),
        "start of the client alone, ms": lambda f, size: ms(f["client", size]),
        "start with no file in the page cache, ms": lambda f, size: ms(f["uncached", size]),
        "first call, ms": lambda f, size: ms(f["first call", size]),
        "warm call, one query, median (p95), ms": lambda f, size: fine_ms(f["query", size]),
        "warm call, 16 sentences, median (p95), ms": lambda f, size: fine_ms(f["sentences", size]),
        "peak memory, MB": lambda f, size: f"{max(f['memory', size]):,.0f}",
    }
    return [*head("function"), *rows(figures, table)]


def notes(options, sizes, peak_mb, frozen):
    versions = ", ".join(f"{name} {version(name)}" for name in ("awslambdaric", "numpy", "onnxruntime", "tokenizers"))
    return "\n".join(
        [
            f"- Medians of {options.rounds} starts. Each is a new process, in a sandbox with the limits of this size.",
            "- The session is opened while the tokenizer is loaded. With less than one vCPU, they share its time.",
            "- In the second table, a plain process imports the packages of the zip and opens the session.",
            "- That process loads no tokenizer, which takes 20 ms. It collects garbage, and gives OpenBLAS all cores.",
            "- Peak memory is the largest resident memory of the process. Pages of files that it reads count.",
            f"- The zip has {sizes[0] / 1e6:.0f} MB, and unpacked {sizes[1] / 1e6:.0f} MB.",
            f"- Requests of 1,000 short texts and of 64 long ones raise the peak memory to {peak_mb:.0f} MB.",
            f"- With 1,769 MB, a call after {options.frozen_s / 60:.0f} minutes in which the function was frozen took "
            f"{frozen[0] * 1000:.1f} ms, and the next one {frozen[1] * 1000:.1f} ms.",
            f"- On {machine()}. Versions: {versions}.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
