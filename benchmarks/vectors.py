"""Compare search, mining and quantisation with sentence-transformers and faiss, in one process. Writes a table.

Usage: PYTHONPATH=. .venv/torch/bin/python benchmarks/vectors.py [--vectors N] [--rounds N] [--output FILE]

In each round, every program does every task once. So a machine that slows down slows all programs. Before the rounds,
every program does the task once without a timer. A ratio is the time of the other program divided by that of embedder
in the same round. The table has the median of the ratios. Memory is the largest growth of the process' anonymous memory
during a call.

(This file is not named kernels.py, because transformers would import it instead of the package `kernels`.)
"""

import argparse
import logging
import os
import threading
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import torch
from compare import ROOT, machine
from sentence_transformers import util
from sentence_transformers.util.quantization import semantic_search_faiss

import embedder
from embedder import VectorIndex
from embedder.common.load_once import LoadOnce
from embedder.vectors import simd

DIM = 384
QUERIES = 100
TOP_K = 10
MANY = 1000
# The number of vectors to search in, divided by the number of vectors to mine, cluster and align.
SEARCH_FACTOR = 100
# The number of vectors to search in, divided by the number of copies to search in.
COPIES_FACTOR = 5
# A file is remembered as intact only if it is at least this old.
MIN_FILE_AGE_S = 2.1
OURS = "embedder"
NUMPY_ALONE = "embedder without NumKong"
FAISS = "faiss"
REFERENCE = "sentence-transformers"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/kernels.md")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="how many vectors to search in")
    parser.add_argument("--rounds", type=int, default=5, help="how often each task is timed")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # sentence-transformers warns about calibration

    corpus = vectors(options.vectors, max(2, options.vectors // 200))
    queries = near(corpus, QUERIES)
    sample = vectors(max(100, options.vectors // SEARCH_FACTOR), max(2, options.vectors // SEARCH_FACTOR // 50))
    parts = [
        f"- Vectors: {DIM} numbers each, around random centres, of length 1. Searches find the top {TOP_K} for "
        f"{QUERIES} queries.\n"
        f"- Figures: median seconds of {options.rounds} rounds. In brackets: the time as a multiple of embedder's.\n"
        "- MB: how much the process grew during the first call. Memory that it had freed before and used again does "
        "not count.",
        table("search", searches(corpus, queries), options.rounds),
        table("search in copies of one vector", copies(corpus, queries), options.rounds),
        table("mining", mining(sample), options.rounds),
        *quantized(corpus, queries, options.rounds),
        index_table(corpus, queries, options.rounds),
    ]
    names = ("numpy", "numkong", "torch", "sentence-transformers", "faiss-cpu")
    parts.append(f"On {machine()}. Versions: {', '.join(f'{name} {version(name)}' for name in names)}.")
    options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts))


def vectors(n, groups):
    """Return `n` vectors of length 1 in groups of different density. They are made in blocks to save memory."""
    random = np.random.default_rng(n)
    centres = random.standard_normal((groups, DIM), np.float32)
    made = np.empty((n, DIM), np.float32)
    for start in range(0, n, 10_000):
        part = made[start : start + 10_000]
        part[:] = random.standard_normal(part.shape, np.float32)
        part *= random.uniform(0.3, 1.5, (len(part), 1)).astype(np.float32)
        part += centres[random.integers(0, groups, len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made


def near(corpus, n):
    """Return `n` random vectors of the corpus with some noise."""
    random = np.random.default_rng(0)
    return corpus[random.integers(0, len(corpus), n)] + 0.02 * random.standard_normal((n, DIM), np.float32)


def searches(corpus, queries):
    """Return the tasks of exact search, as {task: {program: call}}."""
    flat = faiss.IndexFlatIP(DIM)
    flat.add(corpus)
    ours, theirs = torch.from_numpy(queries), torch.from_numpy(corpus)
    n = f"{len(corpus):,}"
    return {
        f"{n}, cosine": {
            OURS: lambda: embedder.semantic_search(queries, corpus, top_k=TOP_K),
            REFERENCE: lambda: util.semantic_search(ours, theirs, top_k=TOP_K),
        },
        f"{n}, cosine, top {MANY:,}": {
            OURS: lambda: embedder.semantic_search(queries, corpus, top_k=MANY),
            REFERENCE: lambda: util.semantic_search(ours, theirs, top_k=MANY),
        },
        f"{n}, cosine, one query": {
            OURS: lambda: embedder.semantic_search(queries[0], corpus, top_k=TOP_K),
            REFERENCE: lambda: util.semantic_search(ours[0], theirs, top_k=TOP_K),
        },
        f"{n}, dot product": {
            OURS: lambda: embedder.semantic_search(queries, corpus, top_k=TOP_K, score_function=embedder.dot_score),
            REFERENCE: lambda: util.semantic_search(ours, theirs, top_k=TOP_K, score_function=util.dot_score),
            FAISS: lambda: flat.search(queries, TOP_K),
        },
        f"{n}, dot product, one query": {
            OURS: lambda: embedder.semantic_search(queries[0], corpus, top_k=TOP_K, score_function=embedder.dot_score),
            REFERENCE: lambda: util.semantic_search(ours[0], theirs, top_k=TOP_K, score_function=util.dot_score),
            FAISS: lambda: flat.search(queries[:1], TOP_K),
        },
    }


def copies(corpus, queries):
    """Return the tasks of search in a corpus whose rows are all equal, as {task: {program: call}}."""
    copied = np.repeat(corpus[:1], len(corpus) // COPIES_FACTOR, axis=0)
    ours, theirs = torch.from_numpy(queries), torch.from_numpy(copied)
    return {
        f"{len(copied):,}, top {k:,}": {
            OURS: lambda k=k: embedder.semantic_search(queries, copied, top_k=k),
            REFERENCE: lambda k=k: util.semantic_search(ours, theirs, top_k=k),
        }
        for k in (TOP_K, MANY)
    }


def mining(sample):
    """Return the tasks of mining, clustering and alignment, as {task: {program: call}}."""
    tensor = torch.from_numpy(sample)
    half = len(sample) // 2
    source, target = sample[:half], near(sample[:half], half)
    n = f"{len(sample):,}"
    return {
        f"paraphrases among {n}": {
            OURS: lambda: embedder.paraphrase_mining_embeddings(sample),
            REFERENCE: lambda: util.paraphrase_mining_embeddings(tensor),
        },
        f"communities of {n}, threshold 0.75": {
            OURS: lambda: embedder.community_detection(sample),
            REFERENCE: lambda: util.community_detection(tensor),
        },
        f"communities of {n}, threshold 0.5": {
            OURS: lambda: embedder.community_detection(sample, 0.5),
            REFERENCE: lambda: util.community_detection(tensor, 0.5),
        },
        f"bitext, {half:,} and {half:,}": {
            OURS: lambda: embedder.bitext_mining(source, target),
            "faiss, flat, both ways": lambda: aligned_by_faiss(source, target),
        },
    }


def aligned_by_faiss(source, target, k=4):
    """Align as the scripts of sentence-transformers and LASER do: nearest vectors by faiss, and margins in loops."""
    source, target = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (source, target))
    found = []
    for one, other in ((source, target), (target, source)):
        index = faiss.IndexFlatIP(DIM)
        index.add(other)
        found.append(index.search(one, k))
    means = [cosines.mean(axis=1) for cosines, _ in found]
    scores = [np.empty_like(cosines) for cosines, _ in found]
    for side, (cosines, ids) in enumerate(found):
        for row in range(len(ids)):
            for at, other in enumerate(ids[row]):
                scores[side][row, at] = cosines[row, at] / ((means[side][row] + means[1 - side][other]) / 2)
    best = [ids[np.arange(len(ids)), s.argmax(axis=1)] for (_, ids), s in zip(found, scores, strict=True)]
    pairs = [*enumerate(best[0].tolist()), *((i, j) for j, i in enumerate(best[1].tolist()))]
    highest = np.concatenate([s.max(axis=1) for s in scores])
    taken, kept = (set(), set()), []
    for at in np.argsort(-highest):
        i, j = pairs[at]
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            kept.append([highest[at], i, j])
    return kept


def quantized(corpus, queries, rounds):
    """Yield the tables of quantisation: speed, and recall."""
    exact = ids(embedder.semantic_search(queries, corpus, top_k=TOP_K))
    ranges = np.stack([corpus.min(axis=0), corpus.max(axis=0)])
    codes = {name: embedder.quantize_embeddings(corpus, name, ranges) for name in ("int8", "ubinary")}
    yield table(f"quantised, {len(corpus):,}", quantized_searches(codes, queries, ranges), rounds)
    tasks = {
        "to int8": {
            OURS: lambda: embedder.quantize_embeddings(corpus, "int8", ranges),
            REFERENCE: lambda: util.quantize_embeddings(corpus, "int8", ranges),
        },
        "to bits": {
            OURS: lambda: embedder.quantize_embeddings(corpus, "ubinary"),
            REFERENCE: lambda: util.quantize_embeddings(corpus, "ubinary"),
        },
    }
    yield table(f"quantising {len(corpus):,}", tasks, rounds)
    rows = ["| recall of the exact top 10 | int8 | binary |", "|---|---:|---:|"]
    for multiplier in (1, 2, 4, 16):
        found = [recall(ids(search(queries, codes, name, ranges, multiplier)), exact) for name in codes]
        rows.append(f"| {multiplier} times as many scored again | {' | '.join(f'{share:.3f}' for share in found)} |")
    yield "\n".join(rows)


def quantized_searches(codes, queries, ranges):
    """Return the tasks of search in quantised vectors, as {task: {program: call}}. faiss does not score again."""
    bits = faiss.IndexBinaryFlat(DIM)
    bits.add(codes["ubinary"])
    scalar = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(codes["int8"]), 10_000):
        scalar.add(codes["int8"][start : start + 10_000].astype(np.float32))
    candidates = 2 * TOP_K
    tasks = {}
    for n in (QUERIES, 10, 1):
        some, few = queries[:n], "" if n == QUERIES else f", {n} queries" if n > 1 else ", one query"
        numbers = embedder.quantize_embeddings(some, "int8", ranges).astype(np.float32)
        packed = embedder.quantize_embeddings(some, "ubinary")
        int8 = partial(search, some, codes, "int8", ranges)
        binary = partial(search, some, codes, "ubinary", ranges)
        tasks[f"int8{few}"] = {
            OURS: int8,
            NUMPY_ALONE: without_numkong(int8),
            FAISS: partial(scalar.search, numbers, candidates),
        }
        tasks[f"binary{few}"] = {
            OURS: binary,
            NUMPY_ALONE: without_numkong(binary),
            FAISS: partial(bits.search, packed, candidates),
            f"{REFERENCE}, faiss": partial(
                semantic_search_faiss, some, corpus_index=bits, corpus_precision="ubinary", top_k=TOP_K
            ),
        }
    return tasks


def without_numkong(call):
    """Return a function that does `call` as if NumKong were not installed."""

    def run():
        numkong, simd._numkong = simd._numkong, LoadOnce(lambda: None)
        try:
            return call()
        finally:
            simd._numkong = numkong

    return run


def search(queries, codes, precision, ranges, multiplier=2):
    return embedder.semantic_search_quantized(
        queries, codes[precision], precision, TOP_K, ranges, rescore_multiplier=multiplier
    )


def index_table(corpus, queries, rounds):
    """Return the table of `VectorIndex`, with a row for each precision."""
    exact = ids(embedder.semantic_search(queries, corpus, top_k=TOP_K))
    titles = ("MB", "save (s)", "first load (s)", "load (s)", f"{QUERIES} queries (s)", "one query (ms)", "recall")
    rows = [f"| VectorIndex, {len(corpus):,} | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    with TemporaryDirectory(dir=ROOT / "benchmarks") as scratch:
        os.environ["XDG_CACHE_HOME"] = scratch
        for precision in ("float32", "int8", "binary"):
            path = Path(scratch) / precision
            index = VectorIndex(DIM, precision=precision)
            for start in range(0, len(corpus), 50_000):
                index.add(corpus[start : start + 50_000])
            save = timed(lambda index=index, path=path: index.save(path))
            del index
            if len(corpus) > 100_000:
                time.sleep(MIN_FILE_AGE_S)
            first = timed(lambda path=path: VectorIndex.load(path))
            again = timed(lambda path=path: VectorIndex.load(path))
            loaded = VectorIndex.load(path)
            found = loaded.search(queries, TOP_K)
            many = median(timed(lambda loaded=loaded: loaded.search(queries, TOP_K)) for _ in range(rounds))
            one = median(timed(lambda loaded=loaded, q=q: loaded.search(q, TOP_K)) for q in queries[: 4 * rounds])
            cells = [f"{path.stat().st_size / 1e6:,.0f}", *(f"{s:.2f}" for s in (save, first, again, many))]
            rows.append(f"| {precision} | {' | '.join(cells)} | {1000 * one:.1f} | {recall(ids(found), exact):.3f} |")
    return "\n".join(rows)


def table(title, tasks, rounds):
    """Run the tasks, {task: {program: call}}, and return a table of their times and memory."""
    programs = list(dict.fromkeys(program for calls in tasks.values() for program in calls))
    rows = [f"| {title} | {' | '.join(programs)} |", f"|---|{'---:|' * len(programs)}"]
    for task, calls in tasks.items():
        seconds = {program: [] for program in calls}
        memory = {program: peak(call) for program, call in calls.items()}  # this call is not timed
        for _ in range(rounds):
            for program, call in calls.items():
                seconds[program].append(timed(call))
        cells = [cell(seconds, memory, program) if program in calls else "" for program in programs]
        rows.append(f"| {task} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    return "\n".join(rows)


def cell(seconds, memory, program):
    """Return the median time of a program, its ratio to embedder's time, and its memory, as text."""
    text = f"{median(seconds[program]):.3f}"
    if program != OURS:
        ratio = median(theirs / ours for theirs, ours in zip(seconds[program], seconds[OURS], strict=True))
        text += f" ({ratio:.1f} x)"
    return f"{text}, {memory[program]:.0f} MB"


def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak(call):
    """Return the largest growth of the anonymous memory during `call`, in MB."""
    if not Path("/proc/self/status").exists():
        call()
        return float("nan")
    done, before, largest = threading.Event(), anonymous(), [0.0]

    def watch():
        while not done.wait(0.002):
            largest[0] = max(largest[0], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return largest[0]


def anonymous():
    """Return the anonymous memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024 / 1e6


def ids(hits):
    return [[hit["corpus_id"] for hit in row] for row in hits]


def recall(found, exact):
    """Return the share of the ids of exact search that were found."""
    return np.mean([len(set(one) & set(other)) / len(other) for one, other in zip(found, exact, strict=True)])


if __name__ == "__main__":
    main()
