"""Do one measurement of a vector store. stores.py runs this file in its own process.

Usage: python store_worker.py STORE load VECTORS DIRECTORY
       python store_worker.py STORE search VECTORS DIRECTORY QUERIES.npy FOUND.npy

VECTORS is a directory with vectors.npy and vectors.parquet, which store_vectors.py makes. DIRECTORY is the store's own
directory. `search` opens the store again, asks one query after the other, and writes the ids that it finds to
FOUND.npy.

The last line of the output is JSON:
- load: the seconds from reading the vectors to closing the store, the index included; the CPU seconds of all threads
  meanwhile; the peak resident memory in MB,
- search: the milliseconds of opening the store and of a query (p50, p95); the mean CPU milliseconds of a query; the
  number of queries; the memory in MB that belongs to the process alone, without mapped files.

The packages are imported before the time is measured.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from worker import kilobytes, peak_mb

import embedder

DIMENSION = 384
TOP_K = 10
WARM_UP_QUERIES = 5
# A store that is slow answers fewer queries.
SEARCH_LIMIT_S = 20
MIN_QUERIES = 20
BLOCK = 10_000
# faiss learns from a sample of so many vectors.
TRAINING_SAMPLE = 50_000


def mapped_npy():
    """Search exactly in the .npy file itself, which is mapped. There is nothing to load."""

    def load(vectors, directory):
        (directory / "vectors.npy").hardlink_to(vectors / "vectors.npy")

    def reopen(directory):
        corpus = np.load(directory / "vectors.npy", mmap_mode="r")

        def search(query):
            hits = embedder.semantic_search(query, corpus, top_k=TOP_K, score_function=embedder.dot_score)[0]
            return [hit["corpus_id"] for hit in hits]

        return search

    return load, reopen


def vector_index(precision):
    def load(vectors, directory):
        index = embedder.VectorIndex(DIMENSION, precision=precision)
        for block in blocks(vectors):
            index.add(block)
        index.save(directory / "vectors.index")

    def reopen(directory):
        index = embedder.VectorIndex.load(directory / "vectors.index")
        return lambda query: [hit["corpus_id"] for hit in index.search(query, TOP_K)[0]]

    return load, reopen


def lancedb(index=None, probes=None, refine=None):
    """Compare with all vectors, or with those that an index finds.

    Args:
        index: "IvfPq" or "IvfHnswSq", a class of lancedb.index.
        probes: the number of partitions to search.
        refine: so many times as many candidates are scored again with the whole vectors.
    """
    import lancedb
    import pyarrow.dataset
    from lancedb import index as kinds

    def load(vectors, directory):
        data = pyarrow.dataset.dataset(vectors / "vectors.parquet")
        table = lancedb.connect(directory).create_table("vectors", data)
        if index:
            table.create_index("embedding", config=getattr(kinds, index)(distance_type="cosine"))

    def reopen(directory):
        table = lancedb.connect(directory).open_table("vectors")

        def search(query):
            question = table.search(query).distance_type("cosine").select(["id", "_distance"]).limit(TOP_K)
            if index:
                question = question.nprobes(probes)
            if refine:
                question = question.refine_factor(refine)
            return question.to_arrow()["id"].to_pylist()

        return search

    return load, reopen


def qdrant():
    import warnings

    from qdrant_client import QdrantClient, models

    warnings.filterwarnings("ignore", "Local mode is not recommended", UserWarning)

    def load(vectors, directory):
        client = QdrantClient(path=str(directory))
        size = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
        client.create_collection("vectors", vectors_config=size)
        array = np.load(vectors / "vectors.npy", mmap_mode="r")
        client.upload_collection("vectors", vectors=array, ids=range(len(array)))
        client.close()

    def reopen(directory):
        client = QdrantClient(path=str(directory))
        return lambda query: [point.id for point in client.query_points("vectors", query=query, limit=TOP_K).points]

    return load, reopen


def chroma():
    import chromadb

    def load(vectors, directory):
        client = chromadb.PersistentClient(str(directory))
        settings = {"hnsw": {"space": "cosine"}}
        collection = client.create_collection("vectors", embedding_function=None, configuration=settings)
        array = np.load(vectors / "vectors.npy", mmap_mode="r")
        rows = client.get_max_batch_size()
        for start in range(0, len(array), rows):
            part = array[start : start + rows]
            collection.add(ids=list(map(str, range(start, start + len(part)))), embeddings=part)

    def reopen(directory):
        collection = chromadb.PersistentClient(str(directory)).get_collection("vectors", embedding_function=None)

        def search(query):
            found = collection.query(query_embeddings=[query], n_results=TOP_K, include=[])
            return list(map(int, found["ids"][0]))

        return search

    return load, reopen


def duckdb(index=False):
    """Compare with all vectors, or with those that the extension vss finds."""
    import duckdb

    def connect(path, **options):
        connection = duckdb.connect(path, **options)
        if index:
            # This package has the extension. Where there is a network, `INSTALL vss` fetches it.
            import duckdb_extension_vss

            (file,) = Path(duckdb_extension_vss.__file__).parent.rglob("vss.duckdb_extension")
            connection.execute(f"LOAD '{file}'")
            connection.execute("SET hnsw_enable_experimental_persistence = true")
        return connection

    def load(vectors, directory):
        with connect(directory / "vectors.duckdb") as connection:
            connection.execute(
                f"CREATE TABLE vectors AS SELECT id, embedding::FLOAT[{DIMENSION}] AS embedding FROM read_parquet(?)",
                [str(vectors / "vectors.parquet")],
            )
            if index:
                connection.execute("CREATE INDEX nearest ON vectors USING HNSW (embedding) WITH (metric = 'cosine')")

    def reopen(directory):
        connection = connect(directory / "vectors.duckdb", read_only=True)
        vectors = f"(embedding, ?::FLOAT[{DIMENSION}])"
        order = f"array_cosine_distance{vectors}" if index else f"array_inner_product{vectors} DESC"
        question = f"SELECT id FROM vectors ORDER BY {order} LIMIT {TOP_K}"
        # The vector is given as text. A list of 384 numbers would take 25 ms longer.
        return lambda query: [id for (id,) in connection.execute(question, [str(query.tolist())]).fetchall()]

    return load, reopen


def sqlite_vec(bits=False):
    """Compare with all vectors, or find candidates by bits and compare with those.

    Args:
        bits: keep the bits of each vector too, and score 8 times as many candidates with the whole vectors.
    """
    import apsw
    import sqlite_vec

    def connect(path):
        connection = apsw.Connection(str(path))
        connection.enable_load_extension(True)
        connection.load_extension(sqlite_vec.loadable_path())
        return connection

    def load(vectors, directory):
        connection = connect(directory / "vectors.db")
        columns = f"embedding FLOAT[{DIMENSION}] distance_metric=cosine" + f", bits BIT[{DIMENSION}]" * bits
        connection.execute(f"CREATE VIRTUAL TABLE vectors USING vec0(id INTEGER PRIMARY KEY, {columns})")
        values = "?1, ?2" + ", vec_quantize_binary(?2)" * bits
        array = np.load(vectors / "vectors.npy", mmap_mode="r")
        with connection:
            rows = ((id, vector.tobytes()) for id, vector in enumerate(array))
            connection.executemany(f"INSERT INTO vectors VALUES ({values})", rows)
        connection.close()

    def reopen(directory):
        connection = connect(directory / "vectors.db")
        question = f"SELECT id FROM vectors WHERE embedding MATCH ?1 AND k = {TOP_K} ORDER BY distance"
        if bits:
            question = (
                "WITH found AS (SELECT id, embedding FROM vectors WHERE bits MATCH vec_quantize_binary(?1) "
                f"AND k = {8 * TOP_K}) SELECT id FROM found ORDER BY vec_distance_cosine(embedding, ?1) LIMIT {TOP_K}"
            )
        return lambda query: [id for (id,) in connection.execute(question, [query.tobytes()])]

    return load, reopen


def faiss(candidates=TOP_K):
    """Search an IVF-PQ index, which is mapped from the disk.

    Args:
        candidates: so many vectors are scored again, with the whole vectors of the mapped .npy file.
    """
    import faiss

    def load(vectors, directory):
        array = np.load(vectors / "vectors.npy", mmap_mode="r")
        lists = int(4 * len(array) ** 0.5)
        index = faiss.index_factory(DIMENSION, f"IVF{lists},PQ48np", faiss.METRIC_INNER_PRODUCT)
        sample = np.random.default_rng(0).permutation(len(array))[:TRAINING_SAMPLE]
        index.train(array[np.sort(sample)])
        for start in range(0, len(array), BLOCK):
            index.add(array[start : start + BLOCK])
        faiss.write_index(index, str(directory / "vectors.faiss"))
        if candidates > TOP_K:
            (directory / "vectors.npy").hardlink_to(vectors / "vectors.npy")

    def reopen(directory):
        index = faiss.read_index(str(directory / "vectors.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        index.nprobe = 32
        array = np.load(directory / "vectors.npy", mmap_mode="r") if candidates > TOP_K else None

        def search(query):
            ids = index.search(query[None], candidates)[1][0]
            if array is None:
                return ids.tolist()
            ids = np.sort(ids[ids >= 0])
            return ids[np.argsort(-(array[ids] @ query), kind="stable")[:TOP_K]].tolist()

        return search

    return load, reopen


def usearch(dtype):
    """Search an HNSW graph, which is mapped from the disk."""
    embedder.UsearchIndex(DIMENSION)  # it prepares the process for the import of usearch
    from usearch.index import Index

    def load(vectors, directory):
        array = np.load(vectors / "vectors.npy", mmap_mode="r")
        index = Index(ndim=DIMENSION, metric="cos", dtype=dtype)
        for start in range(0, len(array), BLOCK):
            part = array[start : start + BLOCK]
            index.add(np.arange(start, start + len(part)), part)
        index.save(directory / "vectors.usearch")

    def reopen(directory):
        index = Index.restore(directory / "vectors.usearch", view=True)
        return lambda query: index.search(query, TOP_K).keys.tolist()

    return load, reopen


# For each store: the function that returns how to load and how to open it, and the settings of this function.
STORES = {
    "npy": (mapped_npy, {}),
    "index": (vector_index, {"precision": "float32"}),
    "index-int8": (vector_index, {"precision": "int8"}),
    "index-binary": (vector_index, {"precision": "binary"}),
    "lancedb": (lancedb, {}),
    "lancedb-ivf-pq": (lancedb, {"index": "IvfPq", "probes": 20, "refine": 10}),
    "lancedb-hnsw": (lancedb, {"index": "IvfHnswSq", "probes": 20, "refine": 2}),
    "qdrant": (qdrant, {}),
    "chroma": (chroma, {}),
    "duckdb": (duckdb, {}),
    "duckdb-vss": (duckdb, {"index": True}),
    "sqlite-vec": (sqlite_vec, {}),
    "sqlite-vec-bits": (sqlite_vec, {"bits": True}),
    "faiss": (faiss, {}),
    "faiss-rescored": (faiss, {"candidates": 10 * TOP_K}),
    "usearch-f16": (usearch, {"dtype": "f16"}),
    "usearch-i8": (usearch, {"dtype": "i8"}),
}


def main(name, task, vectors, directory, *arguments):
    make, settings = STORES[name]
    load, reopen = make(**settings)
    if task == "load":
        start, cpu = time.perf_counter(), time.process_time()
        load(Path(vectors), Path(directory))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        result = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb()}
    else:
        queries, found = arguments
        result = searched(reopen, Path(directory), np.load(queries), found)
    print(json.dumps(result), flush=True)


def blocks(vectors):
    array = np.load(vectors / "vectors.npy", mmap_mode="r")
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]


def searched(reopen, directory, queries, found_path):
    """Open the store, ask the queries, save what it finds, and return the figures."""
    start = time.perf_counter()
    search = reopen(directory)
    open_ms = 1000 * (time.perf_counter() - start)
    for query in queries[:WARM_UP_QUERIES]:
        search(query)
    found, times, first, cpu = [], [], time.perf_counter(), time.process_time()
    for query in queries:
        start = time.perf_counter()
        found.append(search(query))
        times.append(1000 * (time.perf_counter() - start))
        if len(times) >= MIN_QUERIES and time.perf_counter() - first > SEARCH_LIMIT_S:
            break
    cpu_ms = 1000 * (time.process_time() - cpu) / len(times)
    own_mb = kilobytes("/proc/self/status", "RssAnon:") / 1000
    # A store that finds too few ids gets ids that do not exist.
    np.save(found_path, np.array([[*ids, *[-1] * TOP_K][:TOP_K] for ids in found]))
    p50, p95 = np.percentile(times, [50, 95])
    return {
        "open_ms": open_ms,
        "p50_ms": p50,
        "p95_ms": p95,
        "cpu_ms": cpu_ms,
        "queries": len(times),
        "own_mb": own_mb,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
