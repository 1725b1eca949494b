"""Measure how the throughput of this machine grows with threads and with processes. Writes a table.

Usage: `make bench-scaling`. It makes the environment and the artifact, and then runs this file.

One process is an `Embedder`. More processes are an `EncoderPool`. The numbers of threads and of processes are the
powers of two up to the number of cores, and the number of cores. Pairs that need more threads than there are cores are
left out, but for one: as many threads in each of two processes as there are cores. It shows what too many threads cost.

Each measurement runs in its own process. In each round, each pair is measured once. From four cores on, the number of
texts grows with the cores that are used. On Linux, the benchmark also sees what other programs take of the cores
meanwhile. The figure of a pair is that of the round in which they took least.

`python -m benchmarks.plan` reads the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import journal
from compare import ARTIFACT, NAME, ROOT, VARIABLES, machine
from workloads import all_texts, described, spread

from embedder import Embedder, EncoderPool
from embedder.common.cores import usable_cores

RESULT = ROOT / "benchmarks/results/scaling.md"
DTYPES = ("fp32", "int8")
# Texts for each core that is used. With these, a measurement takes some seconds.
TEXTS_PER_CORE = {"short": 900, "mixed": 250}
# Settings of fewer cores encode as many texts as if they used so many. So they all encode the same texts.
MIN_CORES = 4
# The texts that are encoded before the clock starts.
WARM_UP_TEXTS = 64


@dataclass(frozen=True)
class Setting:
    """One measurement: so many `processes`, with so many `threads` each."""

    workload: str
    dtype: str
    processes: int
    threads: int


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=3, help="how often each pair is measured")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--texts", type=int, help="the largest number of texts for each core")
    parser.add_argument("--journal", type=Path, help="keep the rounds in this file, and count those that it has")
    options = parser.parse_args()

    cores = usable_cores()
    settings = [
        Setting(workload, dtype, processes, threads)
        for dtype in options.dtypes
        for workload in TEXTS_PER_CORE
        for processes, threads in pairs(cores)
    ]
    texts = {workload: distinct(found) for workload, found in all_texts().items() if workload in TEXTS_PER_CORE}
    results = rounds(settings, texts, options, cores)
    table = "\n".join([*rows(results, cores), "", *notes(results, texts, cores)])
    options.output.write_text(table + "\n", encoding="utf-8")
    print(table)


def pairs(cores):
    """Return the pairs of processes and threads that are measured, without copies.

    Example:
        >>> pairs(2)
        [(1, 1), (1, 2), (2, 1), (2, 2)]
    """
    counts = [2**power for power in range(cores.bit_length()) if 2**power < cores] + [cores]
    fitting = [(processes, threads) for processes in counts for threads in counts if processes * threads <= cores]
    return [*fitting, (2, cores)] if cores > 1 else fitting


def distinct(texts):
    """Return the texts without copies, in their order. A copy would be encoded once, and so count as very fast."""
    return list(dict.fromkeys(texts))


def rounds(settings, texts, options, cores):
    """Return the results of all rounds, as {setting: [result, ...]}."""
    results = {setting: [] for setting in settings}
    for entry in journal.read(options.journal):
        results.setdefault(Setting(**entry["setting"]), []).append(entry["result"])
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for setting in settings:
                result = measure(setting, texts[setting.workload], options.texts, cores, Path(scratch) / "texts.json")
                results[setting].append(result)
                journal.append(options.journal, {"setting": asdict(setting), "result": result})
                print(f"{number + 1}/{options.rounds} {setting}: {result}", flush=True)
    return results


def measure(setting, texts, max_texts, cores, path):
    """Measure a setting in a new process. Return the result of `work`."""
    per_core = min(TEXTS_PER_CORE[setting.workload], max_texts or sys.maxsize)
    used = min(cores, max(setting.processes * setting.threads, MIN_CORES))
    count = min(len(texts), per_core * used)
    path.write_text(json.dumps(spread(texts, count)), encoding="utf-8")
    words = [sys.executable, __file__, "work", path, setting.dtype, setting.processes, setting.threads]
    start, busy_s, own_s = time.perf_counter(), busy_seconds(), child_seconds()
    answer = subprocess.run(list(map(str, words)), env=os.environ | VARIABLES, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"{answer.stderr[-4000:]}\nfailed: {setting}")
    others_s = busy_seconds() - busy_s - (child_seconds() - own_s)
    others = max(0.0, others_s / (time.perf_counter() - start) / os.cpu_count())
    return json.loads(answer.stdout.splitlines()[-1]) | {"others": others}


def busy_seconds():
    """Return the seconds that all cores of this machine have worked. 0 if the system does not say."""
    if sys.platform != "linux":
        return 0.0
    user, nice, system, _, _, irq, soft_irq, steal, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def child_seconds():
    """Return the seconds that the processes which this one has started have worked, their own processes included."""
    times = os.times()
    return times.children_user + times.children_system


def work(path, dtype, processes, threads):
    """Encode the texts of a JSON file. Print texts per second, tokens per second and the seconds of the start."""
    texts = json.loads(Path(path).read_text(encoding="utf-8"))
    processes, threads = int(processes), int(threads)
    start = time.perf_counter()
    if processes == 1:
        model = Embedder(ARTIFACT, dtype=dtype, threads=threads)
        seconds, start_s = timed(model.encode, texts), time.perf_counter() - start
    else:
        # The chunks are as large as in a long job. A small chunk has few texts of similar length.
        chunk_size = max(1, len(texts) // (2 * processes))
        with EncoderPool(ARTIFACT, workers=processes, dtype=dtype, threads=threads) as pool:
            seconds = timed(lambda items: pool.encode(items, chunk_size=chunk_size), texts)
            start_s = time.perf_counter() - start
    counter = Embedder(ARTIFACT, dtype=dtype)
    tokens = sum(min(count, counter.max_seq_length) for count in counter.count_tokens(texts))
    print(json.dumps({"texts": len(texts), "tokens": int(tokens), "seconds": seconds, "start_s": start_s - seconds}))


def timed(encode, texts):
    """Return the seconds of encoding all texts, after a few of them."""
    encode(texts[:WARM_UP_TEXTS])
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start


def quietest(results, setting):
    """Return the result of a setting in the round in which other programs took least of the cores."""
    return min(results[setting], key=lambda result: result["others"])


def rate(result, figure):
    """Return the rate of a result, of texts or of tokens per second."""
    return result[figure] / result["seconds"]


def rows(results, cores):
    """Yield the lines of the table: a line for each setting."""
    yield (
        "| dtype | workload | processes | threads each | texts/s | tokens/s | times as fast as one thread | "
        "efficiency | start (s) | share of other programs |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for setting in results:
        one = rate(quietest(results, Setting(setting.workload, setting.dtype, 1, 1)), "tokens")
        result = quietest(results, setting)
        found = [rate(each, "texts") for each in results[setting]]
        speed_up = rate(result, "tokens") / one
        cells = [
            setting.dtype,
            setting.workload,
            str(setting.processes),
            str(setting.threads),
            f"{rate(result, 'texts'):,.1f} ({min(found):,.1f}-{max(found):,.1f})",
            f"{rate(result, 'tokens'):,.0f}",
            f"{speed_up:.2f}",
            f"{speed_up / min(cores, setting.processes * setting.threads):.2f}",
            f"{result['start_s']:.2f}",
            f"{100 * result['others']:.0f} %",
        ]
        yield f"| {' | '.join(cells)} |"


def notes(results, texts, cores):
    yield f"- {NAME} on {machine()}. {cores} usable cores. Versions: {versions()}."
    rounds = max(map(len, results.values()))
    yield (
        f"- Figures: of {rounds} rounds, that in which other programs took least of the cores, with the range "
        "of all rounds in brackets. Each measurement runs in its own process. The pairs take turns."
    )
    for workload, found in texts.items():
        result = next(results[setting][0] for setting in results if setting.workload == workload)
        yield (
            f"- {workload}: {result['tokens'] / result['texts']:.1f} tokens each; evenly taken from {described(found)}."
        )
    yield (
        "- Efficiency: the tokens per second, divided by the tokens per second of one thread and by the number of "
        "cores in use. "
        "One process is an `Embedder`, more are an `EncoderPool`."
    )
    yield "- Start: loading the model, starting the processes, and the first few texts."


def versions():
    names = ("embedder-onnx", "onnxruntime", "tokenizers", "numpy")
    return ", ".join(f"{name} {version(name)}" for name in names)


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(*sys.argv[2:])
    else:
        main()
