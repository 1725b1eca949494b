"""Compare `embedder serve` with infinity under the same load on this machine, in one run. Writes tables.

Usage: PYTHONPATH=.:export .venv/export/bin/python benchmarks/servers.py [--programs PROGRAM ...] [--output FILE]

Each round measures the servers one after the other: it starts a server, measures each load, and stops the server. The
clients are those of `embedder bench-server`. A client sends its next request when it has its answer. The clients share
the cores with the server. For our server, each round also measures `encode` in the clients' process, before and after
each of several loads. The speed of a shared machine changes within a minute, so that only neighbours can be compared.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from compare import ARTIFACT, CHECKPOINT, PEERS, REFERENCE, ROOT, encode_arguments, machine, run, table, work
from workloads import agreement_texts, all_texts, described, spread

from embedder import Embedder
from embedder.serve.load_test import LoadResult, LoadSettings, measure_load
from tests.servers import free_port

SERVER = ROOT / ".venv/export"
INFINITY = ROOT / ".venv/infinity"
RESULT = ROOT / "benchmarks/results/servers.md"
# Clients at the same time, and the texts of each request. `encode` is measured around the first load.
LOADS = ((32, 1), (200, 1), (8, 16))
TEXT_COUNT = 2000
PAIRS_PER_ROUND = 3
MAX_TOKENS = 256
START_TIMEOUT_S = 300
TEXTS_PER_REQUEST = 16
MODEL_NAME = "all-MiniLM-L6-v2"
# No program may use the Hub or send telemetry.
VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'export'}",
}


@dataclass(frozen=True)
class Program:
    """A server.

    Attributes:
        label: its name in the tables.
        environment: the virtual environment that it runs in.
        route: where it answers as OpenAI does.
        command: its command for a directory of scratch files, without the port.
        dtype: the dtype of our server. None: it is another server.
    """

    label: str
    environment: Path
    route: str
    command: Callable[[Path], list[str]]
    dtype: str | None = None


@dataclass
class Figures:
    """What was measured of a server, in all rounds. Seconds, megabytes, texts per second, and cosines."""

    start_s: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    in_process: list[float] = field(default_factory=list)
    loads: dict[tuple[int, int], list[LoadResult]] = field(default_factory=dict)
    smallest_cosine: float = 1.0


def serve_embedder(dtype):
    words = [str(SERVER / "bin/python"), "-m", "embedder", "serve", str(ARTIFACT), "--dtype", dtype]
    return lambda scratch: words


def serve_infinity(engine, model):
    program = [str(INFINITY / "bin/infinity_emb"), "v2", "--engine", engine]
    options = ["--device", "cpu", "--dtype", "float32", "--served-model-name", MODEL_NAME]
    # Its optimum engine takes the vector of the first token unless it is told.
    options += ["--pooling-method", "mean"]
    return lambda scratch: [*program, "--model-id", str(model(scratch)), *options]


def infinitys_graph(scratch):
    """Return a copy of the graph's directory, which infinity writes its optimised graph to.

    infinity's optimum engine takes the limit of tokens from this field. Other programs cut texts at 256 tokens.
    """
    directory = scratch / "infinity-optimum"
    if not directory.exists():
        shutil.copytree(PEERS / "onnx", directory)
        settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        settings["max_position_embeddings"] = MAX_TOKENS
        (directory / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


PROGRAMS = {
    "embedder": Program("embedder serve, fp32", SERVER, "/v1/embeddings", serve_embedder("fp32"), "fp32"),
    "embedder-int8": Program("embedder serve, int8", SERVER, "/v1/embeddings", serve_embedder("int8"), "int8"),
    "infinity-torch": Program(
        "infinity, torch", INFINITY, "/embeddings", serve_infinity("torch", lambda scratch: CHECKPOINT)
    ),
    "infinity-optimum": Program(
        "infinity, optimum", INFINITY, "/embeddings", serve_infinity("optimum", infinitys_graph)
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is put under each load")
    parser.add_argument("--seconds", type=float, default=5, help="the duration of each load")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    options = parser.parse_args()

    names = [name for name in PROGRAMS if name in options.programs and available(name)]
    figures = {name: Figures() for name in names}
    texts = load_texts()
    with tempfile.TemporaryDirectory() as scratch:
        reference = reference_vectors(Path(scratch))
        for _ in range(options.rounds):
            for name in names:
                measure(name, figures[name], texts, options.seconds, reference, Path(scratch))
    options.output.write_text(tables(figures, texts, options) + "\n", encoding="utf-8")
    print(tables(figures, texts, options))


def available(name):
    """Return whether the server can be measured. Print why not."""
    environment = PROGRAMS[name].environment
    if not (environment / "bin/python").exists():
        print(f"{name} is left out: .venv has no {environment.name}", flush=True)
        return False
    if name == "infinity-optimum" and not (PEERS / "onnx").exists():
        print(f"{name} is left out: `make bench` makes its graph", flush=True)
        return False
    return True


def load_texts():
    return spread(all_texts()["mixed"], TEXT_COUNT)


def reference_vectors(scratch):
    """Return unit vectors of sentence-transformers for `agreement_texts()`."""
    work(REFERENCE, *encode_arguments("long", agreement_texts(), scratch))
    return unit(np.load(scratch / "vectors.npy"))


def measure(name, figures, texts, seconds, reference, scratch):
    """Measure a server once, and add what was found to `figures`."""
    program = PROGRAMS[name]
    with started(program, scratch) as (url, process, start_s):
        figures.start_s.append(start_s)
        if program.dtype:
            measure_share(name, figures, url, texts, seconds)
        for load in LOADS[bool(program.dtype) :]:
            measure_one(name, figures, url, load, texts, seconds)
        figures.peak_mb.append(peak_mb(process.pid))
        cosines = (unit(ask_all(url, agreement_texts())) * reference).sum(axis=1)
        figures.smallest_cosine = min(figures.smallest_cosine, float(cosines.min()))


def measure_share(name, figures, url, texts, seconds):
    """Measure the first load some times, and `encode` in this process before and after each time."""
    model = Embedder(ARTIFACT, dtype=PROGRAMS[name].dtype)
    before = encode_speed(model, texts)
    for _ in range(PAIRS_PER_ROUND):
        measure_one(name, figures, url, LOADS[0], texts, seconds)
        after = encode_speed(model, texts)
        figures.in_process.append((before + after) / 2)
        before = after
    model.close()


def encode_speed(model, texts):
    """Return the texts per second of `encode`."""
    begin = time.perf_counter()
    model.encode(texts)
    return len(texts) / (time.perf_counter() - begin)


def measure_one(name, figures, url, load, texts, seconds):
    clients, count = load
    result = measure_load(LoadSettings(url, clients, seconds, count, MODEL_NAME), texts)
    if result.failures:
        raise SystemExit(f"{name} did not answer all requests: {result.failures}")
    figures.loads.setdefault(load, []).append(result)
    print(f"{name}: {clients} clients, {count} texts: {load_cell([result])}", flush=True)


@contextmanager
def started(program, scratch) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """Run a server. Yield its address, its process, and the seconds from its start to its first vector."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{program.route}"
    command = [*program.command(scratch), "--host", "127.0.0.1", "--port", str(port)]
    with (scratch / "log").open("wb") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=os.environ | VARIABLES, stdout=log, stderr=log, cwd=scratch)
        try:
            wait_for_vector(url, process, scratch / "log")
            yield url, process, time.perf_counter() - begin
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for_vector(url, process, log):
    give_up = time.perf_counter() + START_TIMEOUT_S
    while process.poll() is None and time.perf_counter() < give_up:
        try:
            ask(url, ["The first vector."])
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    raise SystemExit(f"the server did not start: {log.read_text(encoding='utf-8')[-4000:]}")


def ask(url, texts):
    """Return the vectors of `texts`, float32 (n, dimension)."""
    body = json.dumps({"input": texts, "model": MODEL_NAME, "encoding_format": "float"}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return np.array([item["embedding"] for item in json.load(answer)["data"]], np.float32)


def ask_all(url, texts):
    starts = range(0, len(texts), TEXTS_PER_REQUEST)
    return np.concatenate([ask(url, texts[start : start + TEXTS_PER_REQUEST]) for start in starts])


def unit(vectors):
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def peak_mb(pid):
    """Return the largest resident memory of a process in MB. The servers have one process each."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


def load_cell(results):
    """Return texts per second, p50 and p99 as text: medians over the rounds."""
    p50, p99 = (median(result.percentile_ms(percent) for result in results) for percent in (50, 99))
    return f"{median(result.texts_per_s for result in results):,.0f}; {p50:,.0f}; {p99:,.0f}"


def tables(figures, texts, options):
    """Return the page: the loads, the start and the memory, and how it was measured."""
    titles = [f"{clients} clients x {count} text{'s'[: count > 1]}" for clients, count in LOADS]
    rows = [(PROGRAMS[name].label, [load_cell(each.loads[load]) for load in LOADS]) for name, each in figures.items()]
    parts = [*table("texts/s; p50 (ms); p99 (ms)", titles, rows), ""]
    rows = [(PROGRAMS[name].label, other_cells(each)) for name, each in figures.items()]
    titles = ["`encode` in process (texts/s)", "share at 32 x 1", "start (s)", "peak memory (MB)", "smallest cosine"]
    return "\n".join([*parts, *table("beside the load", titles, rows), "", notes(figures, texts, options)])


def other_cells(figures):
    in_process = share = "-"
    if figures.in_process:
        in_process = f"{median(figures.in_process):,.0f}"
        served = [result.texts_per_s for result in figures.loads[LOADS[0]]]
        share = f"{median(np.divide(served, figures.in_process)):.0%}"
    start_s, peak = median(figures.start_s), median(figures.peak_mb)
    return [in_process, share, f"{start_s:.1f}", f"{peak:,.0f}", f"{figures.smallest_cosine:.6f}"]


def notes(figures, texts, options):
    lines = [
        f"- Machine: {machine()}. The clients are one process on the same cores.",
        f"- Medians over {options.rounds} rounds of {options.seconds:g} seconds for each load. The servers take turns.",
        f"- {MODEL_NAME}. Texts: {described(texts)}. Every program cuts texts at {MAX_TOKENS} tokens.",
        "- A client sends its next request when it has its answer. Vectors come as JSON numbers.",
        f"- `encode` in process: all texts in one call, in the clients' process, before and after each of "
        f"{PAIRS_PER_ROUND} loads a round. Share: the median of the server's part of it.",
        "- Start: from the command to the first vector. infinity first encodes batches to time itself.",
        "- Peak memory: the largest resident memory of the server. Cosine: with sentence-transformers, over sentences "
        "of many kinds and long texts.",
        f"- Versions: {versions(figures)}.",
    ]
    return "\n".join(lines)


def versions(names):
    """Return the versions of the relevant packages in each environment, as text."""
    wanted = ("embedder-onnx", "httptools", "infinity-emb", "infinity_emb", "onnxruntime", "optimum", "orjson")
    wanted += ("sentence-transformers", "starlette", "tokenizers", "torch", "transformers", "uvicorn", "uvloop")
    found = []
    for environment in dict.fromkeys(PROGRAMS[name].environment for name in names):
        packages = json.loads(run([environment / "bin/python", "-m", "pip", "list", "--format", "json"]))
        listed = ", ".join(f"{each['name']} {each['version']}" for each in packages if each["name"].lower() in wanted)
        found.append(f"{environment.name}: {listed}")
    return "; ".join(found)


if __name__ == "__main__":
    main()
