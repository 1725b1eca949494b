"""Compare embedder with sentence-transformers on a GPU, without network. Writes results as it goes, a table and a plot.

Usage: python -m benchmarks.gpu.run --prepared DIR --output DIR [--limit-s 420] [--provider cpu --small]

pack.py packs DIR. Each program runs each model in its own process, and the programs take turns. gpu.jsonl gets a
line as soon as something is measured. A second run leaves out what the file has already, so a run that was cut off goes
on. On a CPU with small models, the same code runs in seconds: this is for tests.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.gpu import report
from benchmarks.gpu.models import MODELS
from benchmarks.gpu.worker import PROGRAMS

# The batch sizes of sentence-transformers. worker.py says which are tried.
BATCH_SIZES = (32, 128, 512, 2048)
SAMPLE_EVERY_S = 0.02
# How often to look whether a checkpoint is there.
POLL_S = 0.1
# After the limit, a running process has this many seconds to end.
GRACE_S = 60
# Inputs of each kind that are compared with the reference, and those that are also encoded alone.
COMPARED, ALONE = 200, 24
ROOT = Path(__file__).parents[2]


class Results:
    """The results in a file, a line of JSON each. Safe to share between threads."""

    def __init__(self, path):
        self.path = path
        self.lines = report.read(path) if path.exists() else []
        self._lock = threading.Lock()

    def add(self, **line):
        with self._lock:
            self.lines.append(line)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)

    def find(self, **wanted):
        """Return the lines that have these values."""
        return [line for line in self.lines if wanted.items() <= line.items()]


def main():
    options = parse_options()
    for directory in (options.output, options.work):
        directory.mkdir(parents=True, exist_ok=True)
    results = Results(options.output / "gpu.jsonl")
    clock = Clock(options.limit_s)
    install_wheels(options.prepared)
    if not results.find(kind="machine"):
        run_step(["benchmarks.gpu.machine", options.provider], options, results, clock, {"step": "machine"})
    if not results.find(kind="machine"):
        raise SystemExit(results.lines[-1]["text"])
    prepare(options, results, clock)
    for number in range(options.rounds):
        for name in options.models:
            programs = options.programs if number % 2 == 0 else options.programs[::-1]
            for program in programs:
                measure(number, name, program, options, results, clock)
        write_report(options, results)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", type=Path, required=True, help="the directory that pack.py has packed")
    parser.add_argument("--output", type=Path, required=True, help="the directory for gpu.jsonl, gpu.md and gpu.svg")
    parser.add_argument("--work", type=Path, help="the directory for checkpoints and artifacts; default: in PREPARED")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="use small models and few inputs")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=2, help="how often each program runs each model")
    parser.add_argument("--limit-s", type=float, default=420, help="start nothing after this many seconds")
    options = parser.parse_args()
    options.work = options.work or options.prepared / "work"
    return options


class Clock:
    """The time that is left."""

    def __init__(self, limit_s):
        self._end = time.monotonic() + limit_s

    def left_s(self):
        return self._end - time.monotonic()


def install_wheels(prepared):
    """Install the packed wheels beside this interpreter's packages. They come first on the path."""
    wheels = sorted(map(str, prepared.glob("wheels/*.whl")))
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--upgrade", "--target", str(prepared / "site"), *wheels], check=True)


def environment(prepared):
    """Return the environment of the processes: this checkout, the packed wheels and data, and no network.

    The export runs each graph on the CPU only once, so it prepacks no weights.
    """
    path = [str(ROOT), str(ROOT / "export"), str(prepared / "site"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "EMBEDDER_TEST_DATA": str(prepared / "data"),
        "EMBEDDER_PREPACK": "0",
        "HF_HUB_OFFLINE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }


def prepare(options, results, clock):
    """Make the checkpoints, the reference vectors and the artifacts of all models at the same time."""
    with ThreadPoolExecutor(len(options.models)) as pool:
        list(pool.map(lambda name: prepare_model(name, options, results, clock), options.models))


def prepare_model(name, options, results, clock):
    """Make what a model needs, if it is not there. The export begins as soon as the checkpoint is there."""
    inputs = options.work / "inputs" / f"{name}.json"

    def step(word):
        if results.find(kind="prepared", step=word, model=name) and inputs.exists():
            return
        start = time.monotonic()
        words = ["benchmarks.gpu.prepare", word, name, options.prepared, options.work, options.provider]
        words += ["--small"] if options.small else []
        if run_step(words, options, results, clock, {"model": name, "step": word}):
            results.add(kind="prepared", step=word, model=name, seconds=time.monotonic() - start)

    with ThreadPoolExecutor(1) as pool:
        reference = pool.submit(step, "reference")
        while not (inputs.exists() or reference.done()):
            time.sleep(POLL_S)
        if inputs.exists():
            step("export")
        reference.result()


def measure(number, name, program, options, results, clock):
    """Run a program with a model, unless that was done. In later rounds, take its best batch sizes."""
    labels = {"model": name, "program": program, "round": number}
    directory = options.work / ("artifacts" if program == "embedder" else "checkpoints") / name
    inputs = options.work / "inputs" / f"{name}.json"
    if results.find(kind="done", **labels) or not (inputs.exists() and directory.exists()):
        return
    if program == "flash" and not results.find(kind="machine", flash=True):
        return
    if number and not results.find(kind="done", **labels | {"round": 0}):
        return  # it failed
    vectors = options.work / f"vectors-{name}-{program}.npz"
    specification = {
        "program": program,
        "model": str(directory),
        "provider": options.provider,
        "inputs": str(inputs),
        "batch_sizes": {workload: batch_sizes(results, labels, workload) for workload in MODELS[name].counts},
        "vectors": str(vectors),
        "compared": COMPARED,
        "alone": ALONE,
    }
    path = options.work / "specification.json"
    path.write_text(json.dumps(specification), encoding="utf-8")
    if run_step(["benchmarks.gpu.worker", path], options, results, clock, labels):
        if number == 0:
            reference = options.work / "reference" / f"{name}.npz"
            results.add(kind="agreement", **labels, **report.agreement(vectors, reference))
        results.add(kind="done", **labels)


def batch_sizes(results, labels, workload):
    """Return the batch sizes that the program tries. embedder chooses its own."""
    if labels["program"] == "embedder":
        return [None]
    wanted = {"model": labels["model"], "program": labels["program"], "workload": workload}
    found = results.find(kind="speed", **wanted)
    return [max(found, key=lambda line: line["per_second"])["batch_size"]] if found else list(BATCH_SIZES)


def run_step(words, options, results, clock, labels):
    """Run a module. Add each line of JSON that it prints to the results, with the labels. Return whether it succeeded.

    On a GPU, a line gets the peak of the GPU's memory in use since the line before, in MB.
    """
    if clock.left_s() <= 0:
        return False
    command = [sys.executable, "-m", *map(str, words)]
    memory = GpuMemory.start() if options.provider == "cuda" else None
    with TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment(options.prepared), stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        )
        timer = threading.Timer(clock.left_s() + GRACE_S, process.kill)
        timer.start()
        for line in process.stdout:
            if line.startswith("{"):
                peak = {} if memory is None else {"gpu_mb": memory.peak_mb()}
                results.add(**labels | json.loads(line) | peak)
            else:
                print(*labels.values(), line, end="", flush=True)
        status = process.wait()
        timer.cancel()
        if memory is not None:
            memory.stop()
        if status:
            errors.seek(0)
            results.add(kind="failure", **labels, status=status, text=errors.read()[-2000:])
    return status == 0


class GpuMemory:
    """The memory of the first GPU that is in use, beyond what was in use at first. A thread samples it."""

    def __init__(self, used_bytes):
        self._used_bytes = used_bytes
        self._first = self._peak = used_bytes()
        self._stopped = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    @classmethod
    def start(cls):
        """Return a sampler, or None where NVIDIA's library does not tell."""
        try:
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            return cls(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        except Exception as error:  # a missing figure is no reason to end the benchmark
            print(f"the GPU's memory is not measured: {error!r}", flush=True)
            return None

    def _sample(self):
        while not self._stopped.wait(SAMPLE_EVERY_S):
            self._peak = max(self._peak, self._used_bytes())

    def peak_mb(self):
        """Return the peak since the last call, in MB."""
        peak, self._peak = max(self._peak, self._used_bytes()), 0.0
        return (peak - self._first) / 1e6

    def stop(self):
        self._stopped.set()


def write_report(options, results):
    """Write the table and the plot of the results so far."""
    table = report.tables(results.lines)
    (options.output / "gpu.md").write_text(table + "\n", encoding="utf-8")
    (options.output / "gpu.svg").write_text(report.chart(results.lines), encoding="utf-8")
    print(table, flush=True)


if __name__ == "__main__":
    main()
