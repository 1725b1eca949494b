"""Load real vectors into vector stores, and compare time, size, memory and recall. Writes tables.

Usage: `make bench-stores`. It makes the environment and the artifact, and then runs this file.

store_vectors.py makes the vectors. Each measurement runs in its own process: store_worker.py loads a store, and a
second process opens it again and searches. Each result is written to figures.jsonl at once. A run that was stopped goes
on there, and the tables have all results of the file.

The tables go to benchmarks/results/stores.md and to docs/vector-stores.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import numpy as np
from compare import ARTIFACT, ROOT, VARIABLES, machine, size_mb, table, with_tables
from store_vectors import QUERY_COUNT, REAL_COUNT, TOP_K, prepare
from store_worker import DIMENSION

RESULT = ROOT / "benchmarks/results/stores.md"
WORK = ROOT / "dist/stores"
# The page shows the tables between these two lines.
PAGE = ROOT / "docs/vector-stores.md"
PAGE_MARKS = ("<!-- stores -->", "<!-- /stores -->")
SIZES = (10_000, 100_000, 1_000_000)
# The table of loads and memory is of this size.
MAIN_SIZE = 100_000
PACKAGES = ("apsw", "chromadb", "duckdb", "duckdb-extension-vss", "faiss-cpu", "lancedb", "numkong", "numpy")
PACKAGES += ("qdrant-client", "sqlite-vec", "usearch")


@dataclass(frozen=True)
class Store:
    """A store that is measured.

    Attributes:
        label: its name in the tables.
        method: how it searches.
    """

    label: str
    method: str


STORES = {
    "npy": Store("embedder, `semantic_search`", "exact, in the mapped .npy"),
    "index": Store("embedder, `VectorIndex`", "exact, float32"),
    "index-int8": Store("embedder, `VectorIndex`, int8", "all, int8"),
    "index-binary": Store("embedder, `VectorIndex`, binary", "all by bits, the best again by int8"),
    "duckdb": Store("DuckDB", "exact"),
    "duckdb-vss": Store("DuckDB, vss", "HNSW"),
    "sqlite-vec": Store("sqlite-vec", "exact"),
    "sqlite-vec-bits": Store("sqlite-vec, bits", "all by bits, 80 again exactly"),
    "qdrant": Store("Qdrant, local mode", "exact"),
    "lancedb": Store("LanceDB", "exact"),
    "lancedb-ivf-pq": Store("LanceDB, IVF_PQ", "20 partitions, 100 again exactly"),
    "lancedb-hnsw": Store("LanceDB, IVF_HNSW_SQ", "20 partitions, 20 again exactly"),
    "chroma": Store("Chroma", "HNSW"),
    "faiss": Store("faiss, IVF-PQ", "32 lists, 48 bytes a vector"),
    "faiss-rescored": Store("faiss, IVF-PQ and .npy", "the same, 100 again exactly"),
    "usearch-f16": Store("usearch, float16", "HNSW, mapped"),
    "usearch-i8": Store("usearch, int8", "HNSW, mapped"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, default=WORK, help="the directory of vectors, stores and figures.jsonl")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=list(STORES), metavar="STORE")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="how many vectors to load")
    parser.add_argument("--limit", type=float, default=300, help="stop a store that loads longer than so many seconds")
    options = parser.parse_args()

    prepare(options.work, options.sizes, ARTIFACT)
    path = options.work / "figures.jsonl"
    figures = read(path)
    for size, name in [(size, name) for size in options.sizes for name in STORES if name in options.stores]:
        if (name, size) in figures:
            continue
        figures[name, size] = measured(name, size, options.work, options.limit)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"store": name, "size": size} | figures[name, size]) + "\n")
        print(f"{size:,} {name}: {figures[name, size]}", flush=True)
    text = "\n".join([*main_table(figures), "", *growth_table(figures), "", notes(figures)])
    options.output.write_text(text + "\n", encoding="utf-8")
    if options.output == RESULT:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), text, PAGE_MARKS), encoding="utf-8")
    print(text)


def read(path):
    """Return the figures of earlier runs, as {(store, size): figures}."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(line.pop("store"), line.pop("size")): line for line in map(json.loads, lines)}


def measured(name, size, work, limit_s):
    """Load a store and search in it. Return the figures. A store that takes too long has "limit_s" alone."""
    vectors, directory = work / str(size), work / "store"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    found = work / "found.npy"
    try:
        loaded = worker(limit_s, name, "load", vectors, directory)
        searched = worker(limit_s, name, "search", vectors, directory, work / "queries.npy", found)
        return loaded | searched | {"disk_mb": size_mb(directory), "recall": recall(found, vectors / "exact.npy")}
    except subprocess.TimeoutExpired:
        return {"limit_s": limit_s}
    finally:
        shutil.rmtree(directory)


def worker(limit_s, *arguments):
    """Run store_worker.py, and return its result.

    Raises:
        SystemExit: it failed.
        subprocess.TimeoutExpired: it took longer than `limit_s` seconds.
    """
    words = [sys.executable, ROOT / "benchmarks/store_worker.py", *arguments]
    environment = os.environ | VARIABLES | {"PYTHONPATH": str(ROOT), "ANONYMIZED_TELEMETRY": "False"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread of faiss that waits leaves its core to other programs
    answer = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=limit_s)
    if answer.returncode:
        raise SystemExit(f"{answer.stderr[-4000:]}\nfailed: {' '.join(map(str, words))}")
    return json.loads(answer.stdout.splitlines()[-1])


def recall(found_path, exact_path):
    """Return the share of the ids of exact search that a store found."""
    found = np.load(found_path)
    exact = np.load(exact_path)[: len(found)]
    return float(np.mean([len({*one} & {*other}) / TOP_K for one, other in zip(found, exact, strict=True)]))


def main_table(figures):
    """Yield the table of all stores with `MAIN_SIZE` vectors, or with the most that were loaded."""
    size = MAIN_SIZE if any(size == MAIN_SIZE for _, size in figures) else max(size for _, size in figures)
    titles = ["how it searches", "load (s)", "its CPU time (s)", "disk (MB)", "peak of the load (MB)"]
    titles += ["memory of a search (MB)", "one query, p50 (ms)", "its CPU time (ms)", f"recall@{TOP_K}"]
    columns = [("seconds", 1), ("cpu_seconds", 1), ("disk_mb", 0), ("peak_mb", 0)]
    columns += [("own_mb", 0), ("p50_ms", 1), ("cpu_ms", 1), ("recall", 3)]
    rows = [
        (store.label, [store.method, *(cell(figures[name, size], *column) for column in columns)])
        for name, store in STORES.items()
        if (name, size) in figures
    ]
    return table(f"{size:,} vectors", titles, rows)


def growth_table(figures):
    """Yield the table of queries, loads and recalls of all sizes. CPU time depends least on what else is running."""
    sizes = sorted({size for _, size in figures})
    columns = [("cpu_ms", 1, "CPU of a query (ms)"), ("cpu_seconds", 1, "CPU of the load (s)"), ("recall", 3, "recall")]
    titles = [f"{title}, {size:,}" for _, _, title in columns for size in sizes]
    rows = [
        (store.label, [cell(figures.get((name, size)), key, digits) for key, digits, _ in columns for size in sizes])
        for name, store in STORES.items()
        if any((name, size) in figures for size in sizes)
    ]
    return table("growth", titles, rows)


def cell(figures, key, digits):
    """Return a figure as text. "-" was not measured, and ">300 s" was stopped."""
    if figures is None:
        return "-"
    return f"{figures[key]:,.{digits}f}" if key in figures else f">{figures['limit_s']:,.0f} s"


def notes(figures):
    sizes = sorted({size for _, size in figures})
    installed = {distribution.name: distribution.version for distribution in distributions()}
    fewer = min((each["queries"] for each in figures.values() if "queries" in each), default=0)
    lines = [
        f"- Machine: {machine()}. One run. Each load and each search runs in a process of its own. If other programs "
        "run meanwhile, look at the CPU times.",
        f"- Vectors: all-MiniLM-L6-v2 in int8, {DIMENSION} numbers, length 1. Sentences and pairs of sentences "
        "from SciFact, XQuAD, banking77, clinc150, STS Benchmark and Tatoeba, in English.",
        f"- Queries: up to {QUERY_COUNT} claims and questions, one after the other, for about 20 seconds; the fewest "
        f"were {fewer}. p50 is the median.",
        "- CPU time: of all threads together; of a query, the mean. With several threads, it may exceed the time.",
        f"- Recall: the share of the {TOP_K} nearest vectors by `semantic_search` in float32 that the store finds.",
        "- Load: from the file of vectors (.npy; Parquet for LanceDB and DuckDB) to the closed store, with its index.",
        "- Disk: all files that a search needs. Where it needs the .npy file, that is counted.",
        "- Peak of the load: the largest resident memory of the process. The pages of mapped files count.",
        "- Memory of a search: what belongs to the process alone after the queries. Mapped files do not count, because "
        "the system can take that memory back.",
        f"- Versions: {', '.join(f'{name} {installed[name]}' for name in PACKAGES if name in installed)}.",
    ]
    missing = [store.label for name, store in STORES.items() if not any((name, size) in figures for size in sizes)]
    if missing:
        lines.append(f"- Not measured in this run: {', '.join(missing)}.")
    if sizes[-1] > REAL_COUNT:
        lines.insert(
            2,
            f"- More than {REAL_COUNT:,} vectors: mixtures of two real vectors that are near to each other are added. "
            "They lie more densely than texts do.",
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
