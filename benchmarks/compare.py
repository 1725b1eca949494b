"""embedder against sentence-transformers on this machine, in one run; writes a table.

Usage: `make bench`, which makes the two environments and the artifact, then runs this.

Each measurement is a process of its own, and the two programs take turns, so that a machine that slows down slows
both. The table gives medians.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from quality import DATA, lines

ROOT = Path(__file__).parents[1]
NAME = "all-MiniLM-L6-v2"
# program: its environment, and the model in the form that it takes
PROGRAMS = {
    "embedder": (ROOT / ".venv/lean", ROOT / "artifacts" / NAME),
    "sentence-transformers": (ROOT / ".venv/sentence-transformers", ROOT / "checkpoints" / NAME),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/comparison.md")
    parser.add_argument("--cold-rounds", type=int, default=9)
    parser.add_argument("--bulk-rounds", type=int, default=3)
    parser.add_argument("--bulk-texts", type=int, default=1000)
    options = parser.parse_args()

    texts = parity_texts()
    mixed, mixed_source = mixed_texts(options.bulk_texts)
    cold = rounds(options.cold_rounds, "cold", dict.fromkeys(PROGRAMS, ()))
    with tempfile.TemporaryDirectory() as scratch:
        encode_rounds(1, texts, Path(scratch))
        ours, theirs = (np.load(Path(scratch) / f"{program}.npy").astype(np.float64) for program in PROGRAMS)
        speed = encode_rounds(options.bulk_rounds, mixed, Path(scratch))
    cosine = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)

    def row(label, digits, values):
        return f"| {label} | " + " | ".join(f"{value:,.{digits}f}" for value in values) + " |"

    table = [
        f"| {NAME}, fp32, CPU | " + " | ".join(PROGRAMS) + " |",
        "|---|---:|---:|",
        row("cold start: new process, import to first vector (s)", 2, [medians(cold, p, "seconds") for p in PROGRAMS]),
        row("peak memory at the first vector (MB)", 0, [medians(cold, p, "peak_mb") for p in PROGRAMS]),
        row(f"{len(mixed):,} mixed texts (texts/s)", 0, [medians(speed, p, "texts_per_second") for p in PROGRAMS]),
        row("peak memory over these texts (MB)", 0, [medians(speed, p, "peak_mb") for p in PROGRAMS]),
        row("installed environment (MB)", 0, [size_mb(environment) for environment, _ in PROGRAMS.values()]),
        row("model on disk (MB)", 0, [size_mb(model) for _, model in PROGRAMS.values()]),
    ]
    notes = (
        f"Parity over {len(texts)} texts: smallest cosine {cosine.min():.7f}, largest difference of a number "
        f"{np.abs(ours - theirs).max():.1e}. Medians of {options.cold_rounds} cold starts and {options.bulk_rounds} "
        f"bulk runs, taking turns, on {machine()}. Mixed texts: {mixed_source}. Versions: {versions()}."
    )
    result = "\n".join([*table, "", notes, ""])
    options.output.write_text(result, encoding="utf-8")
    print(result)


def rounds(count, task, arguments):
    """The results of `count` turns of the worker's `task`, as {program: [result, ...]}."""
    results = {program: [] for program in PROGRAMS}
    for number in range(count):
        for program, (environment, model) in PROGRAMS.items():
            print(f"{task} {number + 1}/{count}: {program}", flush=True)
            worker = [environment / "bin/python", ROOT / "benchmarks/worker.py", program, model, task]
            command = list(map(str, [*worker, *arguments[program]]))
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            results[program].append(json.loads(answer.stdout.splitlines()[-1]))
    return results


def encode_rounds(count, texts, scratch):
    """As `rounds`, of encoding `texts`; leaves the vectors as `scratch`/PROGRAM.npy."""
    path = scratch / "texts.json"
    path.write_text(json.dumps(texts), encoding="utf-8")
    return rounds(count, "encode", {program: [path, scratch / f"{program}.npy"] for program in PROGRAMS})


def medians(results, program, figure):
    return median(result[figure] for result in results[program])


def parity_texts():
    return lines(ROOT / "export/embedder_export/parity_sentences.txt")


def mixed_texts(count):
    """Texts of very different lengths: real ones where there are any beside the checkout, else our own."""
    real = DATA / "text_mixed_en.jsonl"
    if real.exists():
        return [json.loads(line)["text"] for line in lines(real)[:count]], "short requests to long abstracts, English"
    own = parity_texts() + lines(ROOT / "examples/collection.txt")
    return (own * (count // len(own) + 1))[:count], "this project's own sentences and passages, repeated"


def size_mb(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def machine():
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next((line.split(": ")[1] for line in cpuinfo.read_text().splitlines() if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def versions():
    found = []
    for environment, _ in PROGRAMS.values():
        command = [environment / "bin/python", "-m", "pip", "list", "--format", "json"]
        packages = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        wanted = ("embedder", "onnxruntime", "tokenizers", "sentence-transformers", "torch", "transformers")
        found += [f"{p['name']} {p['version']}" for p in packages if p["name"] in wanted]
    return ", ".join(dict.fromkeys(found))


if __name__ == "__main__":
    main()
