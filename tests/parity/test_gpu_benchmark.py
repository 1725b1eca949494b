"""The benchmark on a GPU is packed, unpacked and run, with small models on the CPU."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.report import agreement
from benchmarks.gpu.run import GpuMemory
from benchmarks.gpu.worker import save_vectors
from tests.pages import output_of

ROOT = Path(__file__).parents[2]
PIECE_BYTES = 1_000_000


@pytest.mark.slow
def test_benchmark_runs_from_its_pieces(tmp_path):
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")]),
    }
    pieces = tmp_path / "pieces"
    pack = [sys.executable, "-m", "benchmarks.gpu.pack", pieces, "--piece-mb", PIECE_BYTES / 1e6]
    output_of(map(str, [*pack, "--checkpoint", tmp_path / "none"]), cwd=ROOT, env=environment)
    assert len(list(pieces.glob("piece-*"))) > 1
    assert all(path.stat().st_size <= PIECE_BYTES for path in pieces.glob("piece-*"))

    # In the pieces is all that the benchmark needs: it does not run in this checkout.
    environment["PYTHONPATH"] = ""
    start = ["sh", pieces / "start.sh", tmp_path / "unpacked", tmp_path / "results"]
    options = ["--provider", "cpu", "--small", "--rounds", "1", "--models", "CLIP-B-32"]
    output_of(map(str, [*start, *options]), cwd=tmp_path, env=environment)
    lines = [json.loads(line) for line in (tmp_path / "results/gpu.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not [line for line in lines if line["kind"] == "failure"]
    assert {line["program"] for line in lines if line["kind"] == "done"} == {"embedder", "sdpa"}
    measured = {(line["program"], line["workload"]) for line in lines if line["kind"] == "speed"}
    assert measured == {(name, kind) for name in ("embedder", "sdpa") for kind in ("short", "images", "arrays")}
    (ours,) = [line for line in lines if line["kind"] == "agreement" and line["program"] == "embedder"]
    assert min(ours[kind]["reference"]["min_cosine"] for kind in ("agreement", "arrays")) > 0.999
    table = (tmp_path / "results/gpu.md").read_text(encoding="utf-8")
    assert "| CLIP-B-32 | short | " in table
    assert ">CLIP-B-32<" in (tmp_path / "results/gpu.svg").read_text(encoding="utf-8")

    # A second run measures nothing again.
    output_of(map(str, [*start, *options]), cwd=tmp_path, env=environment)
    again = (tmp_path / "results/gpu.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(again) == len(lines)


@pytest.mark.parametrize("count", [5, 24, 47, 143, 200])
def test_a_vector_is_compared_with_that_of_the_same_text(tmp_path, count):
    def encode(texts, batch_size):
        return np.array([np.random.default_rng(int(text)).normal(size=8) for text in texts])

    inputs = {"agreement": [str(number) for number in range(count)]}
    path = tmp_path / "vectors.npz"
    save_vectors("embedder", encode, inputs, {"vectors": str(path), "compared": 200, "alone": 24})
    np.savez(tmp_path / "reference.npz", agreement=encode(inputs["agreement"], None))
    found = agreement(path, tmp_path / "reference.npz")["agreement"]
    assert found["reference"]["count"] == count
    assert min(found[kind]["min_cosine"] for kind in ("batch", "reference")) == pytest.approx(1)


def test_the_peak_of_the_memory_is_in_mb_and_begins_anew_for_each_figure():
    used_bytes = [1_000_000]
    memory = GpuMemory(lambda: used_bytes[0])
    memory.stop()
    used_bytes[0] = 5_000_000
    assert memory.peak_mb() == 4
    used_bytes[0] = 2_000_000
    assert memory.peak_mb() == 1
