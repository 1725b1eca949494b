"""Measure how bytes, build time and search time of indexes grow with the number of vectors. Writes a table.

Usage: `make bench-indexes`. It makes the environment, and then runs this file.

The exact kinds and the bits are `VectorIndex`. HNSW and IVF-PQ are `FaissIndex`. IVF-PQ has about 4 * sqrt(n) lists and
is trained on 64 vectors for each list: faiss' guidelines ask for 30 to 256.

`python -m benchmarks.plan` reads the table.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import faiss
import journal
from compare import ROOT, machine
from vectors import DIM, QUERIES, TOP_K, ids, near, recall, timed, vectors

import embedder
from embedder import FaissIndex, VectorIndex

RESULT = ROOT / "benchmarks/results/indexes.md"
CODE_BYTES = 48
TRAINING_VECTORS_PER_LIST = 64
VECTORS_PER_ADD = 50_000
# How many links or lists a search visits.
EF_SEARCH, NPROBE = 64, 32


@dataclass(frozen=True)
class Kind:
    """A kind of index.

    Attributes:
        make: returns an empty index for so many vectors.
        add: adds the vectors. It is timed.
        train: trains the index on some of the vectors. It is timed apart. None if the kind needs no training.
    """

    make: Callable
    add: Callable
    train: Callable | None = None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--vectors", type=int, nargs="+", default=[25_000, 100_000, 400_000], help="numbers of vectors")
    parser.add_argument("--queries", type=int, default=QUERIES, help="how many queries each index answers")
    parser.add_argument("--journal", type=Path, help="keep the lines in this file, and take those that it has")
    options = parser.parse_args()

    done = {tuple(entry["key"]): entry["row"] for entry in journal.read(options.journal)}
    for count in options.vectors:
        for key, row in measure(count, options.queries, done):
            journal.append(options.journal, {"key": key, "row": row})
            done[key] = row
    rows = [done[key] for key in sorted(done, key=lambda key: (KIND_NAMES.index(key[0]), key[1]))]
    table = "\n".join([*head(), *rows, ""])
    table = "\n".join([table, *notes()])
    options.output.write_text(table + "\n", encoding="utf-8")
    print(table)


def add_blocks(index, corpus):
    for start in range(0, len(corpus), VECTORS_PER_ADD):
        index.add(corpus[start : start + VECTORS_PER_ADD])


def add_with_ids(index, corpus):
    index.add(corpus, range(len(corpus)))


def make_hnsw(count):
    index = FaissIndex(DIM, factory="HNSW32")
    faiss.ParameterSpace().set_index_parameter(index.index, "efSearch", EF_SEARCH)
    return index


def make_ivf_pq(count):
    index = FaissIndex(DIM, factory=f"IVF{list_count(count)},PQ{CODE_BYTES}")
    faiss.ParameterSpace().set_index_parameter(index.index, "nprobe", NPROBE)
    return index


def train_ivf_pq(index, corpus):
    index.index.train(corpus[: TRAINING_VECTORS_PER_LIST * list_count(len(corpus))])


def list_count(count):
    """Return the number of lists of IVF for so many vectors: the power of two that is nearest to 4 * sqrt(count)."""
    return 2 ** round(2 + (count.bit_length() - 1) / 2)


KINDS = {
    "exact, float32": Kind(lambda count: VectorIndex(DIM, precision="float32"), add_blocks),
    "exact, int8": Kind(lambda count: VectorIndex(DIM, precision="int8"), add_blocks),
    "bits, rescored": Kind(lambda count: VectorIndex(DIM, precision="binary"), add_blocks),
    "HNSW32": Kind(make_hnsw, add_with_ids),
    "IVF-PQ48": Kind(make_ivf_pq, add_with_ids, train_ivf_pq),
}
KIND_NAMES = list(KINDS)


def measure(count, query_count, done):
    """Yield a key, the name of a kind and `count`, and its line of the table. Keys in `done` are skipped."""
    kinds = {name: kind for name, kind in KINDS.items() if (name, count) not in done}
    if not kinds:
        return
    corpus = vectors(count, max(2, count // 200))
    queries = near(corpus, query_count)
    exact = ids(embedder.semantic_search(queries, corpus, top_k=TOP_K))
    for name, kind in kinds.items():
        index = kind.make(count)
        train_s = timed(lambda kind=kind, index=index: kind.train(index, corpus)) if kind.train else 0.0
        add_s = timed(lambda kind=kind, index=index: kind.add(index, corpus))
        found = ids(index.search(queries, TOP_K))
        one_s = median(timed(lambda index=index, query=query: index.search(query, TOP_K)) for query in queries)
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "index"
            index.save(path)
            size = path.stat().st_size
        cells = [name, f"{count:,}", f"{train_s:.2f}", f"{add_s:.2f}", f"{size:,}", f"{size / count:,.1f}"]
        cells += [f"{1000 * one_s:.2f}", f"{recall(found, exact):.3f}"]
        print(f"{cells}", flush=True)
        yield (name, count), f"| {' | '.join(cells)} |"


def head():
    titles = ["vectors", "train (s)", "add (s)", "bytes", "bytes a vector", "one query (ms)"]
    titles.append(f"recall of the exact top {TOP_K}")
    yield f"| index | {' | '.join(titles)} |"
    yield "|---|" + "---:|" * len(titles)


def notes():
    yield f"- Vectors: {DIM} numbers each, around random centres, of length 1. With real ones, recall differs."
    yield (
        f"- HNSW32: 32 links, efConstruction 40, efSearch {EF_SEARCH}. IVF-PQ48: about 4 * sqrt(n) lists, "
        f"{TRAINING_VECTORS_PER_LIST} training vectors for each, {CODE_BYTES} bytes of code, nprobe {NPROBE}."
    )
    yield "- Times: the vectors are in memory, and no file is written. Bytes: the size of the index as a file."
    versions = ", ".join(f"{name} {version(name)}" for name in ("embedder-onnx", "faiss-cpu", "numpy"))
    yield f"- On {machine()}, {os.cpu_count()} cores at work. Versions: {versions}. One run."


if __name__ == "__main__":
    main()
