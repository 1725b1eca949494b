"""Make the vectors for stores.py: real texts, encoded by all-MiniLM-L6-v2 in int8.

The texts are sentences and requests of the data of EMBEDDER_TEST_DATA, and pairs of sentences that follow each other,
as overlapping chunks of long texts have them. The queries are claims and questions about the same texts.

Each number of vectors has a directory: vectors.npy, and the same as vectors.parquet with ids. exact.npy has the ids
that embedder's exact search finds for each query.
"""

import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from quality import DATA, lines
from workloads import spread

import embedder

REAL_COUNT = 100_000
QUERY_COUNT = 500
TOP_K = 10
# More vectors than texts are made of real ones: a vector is mixed with one of so many nearest ones in its block.
NEIGHBOURS = 10
BLOCK = 10_000
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9(])")


def prepare(directory, sizes, artifact):
    """Write the files that `directory` lacks: the queries, and the vectors for each of the `sizes`.

    Raises:
        SystemExit: there are no texts.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = [size for size in sizes if not (directory / str(size) / "exact.npy").exists()]
    if not missing:
        return
    if not (DATA / "retrieval/scifact").exists():
        raise SystemExit(f"there are no texts in {DATA}. EMBEDDER_TEST_DATA is the directory of the data")
    model = embedder.Embedder(artifact, dtype="int8")
    queries, real = directory / "queries.npy", directory / "real.npy"
    if not queries.exists():
        embedder.encode_to_file(query_texts(), queries, model=model, resume=True, normalize_embeddings=True)
    if not real.exists():
        embedder.encode_to_file(corpus_texts(), real, model=model, resume=True, normalize_embeddings=True)
    for size in missing:
        write_vectors(directory / str(size), enlarged(np.load(real), size), np.load(queries))


def corpus_texts(count=REAL_COUNT):
    """Return `count` different texts in random order: first all sentences, then pairs of sentences."""
    documents = [_SENTENCE_END.split(text) for text in passages()]
    sentences = dict.fromkeys(sentence for document in documents for sentence in document)
    sentences.update(dict.fromkeys(short_texts()))
    pairs = dict.fromkeys(f"{first} {second}" for document in documents for first, second in pairwise(document))
    texts = [*sentences, *spread(list(pairs), max(0, count - len(sentences)))]
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    return [texts[index] for index in order]


def passages():
    """Return the abstracts of SciFact, and the paragraphs of XQuAD in English."""
    for name in ("scifact", "xquad/en"):
        for line in lines(DATA / "retrieval" / name / "corpus.jsonl"):
            yield json.loads(line)["text"]


def short_texts():
    """Return titles, requests, and sentences of pairs in English."""
    for line in lines(DATA / "retrieval/scifact/corpus.jsonl"):
        yield json.loads(line)["title"]
    tables = [DATA / "clustering/banking77-train.tsv", DATA / "clustering/clinc150-val.tsv"]
    tables += sorted((DATA / "bitext/tatoeba").glob("*-eng.tsv"))
    for path in tables:
        yield from (line.split("\t")[-1] for line in lines(path)[1:])
    for line in lines(DATA / "sts/stsb-en-dev.tsv")[1:]:
        yield from line.split("\t")[1:3]


def query_texts():
    """Return claims of SciFact and questions of XQuAD."""
    texts = [
        json.loads(line)["text"]
        for name in ("scifact", "xquad/en")
        for line in lines(DATA / "retrieval" / name / "queries.jsonl")
    ]
    return spread(texts, QUERY_COUNT)


def enlarged(real, size):
    """Return the first `size` vectors. If there are fewer, add mixtures of real ones with their nearest ones.

    A mixture lies between two real vectors that are near to each other. Vectors at random have no neighbours, so recall
    would mean nothing.
    """
    if size <= len(real):
        return real[:size]
    random = np.random.default_rng(1)
    vectors = np.empty((size, real.shape[1]), np.float32)
    vectors[: len(real)] = real
    near = neighbours(real)
    for start in range(len(real), size, BLOCK):
        part = vectors[start : start + BLOCK]
        one = random.integers(0, len(real), len(part))
        other = near[one, random.integers(0, NEIGHBOURS, len(part))]
        share = random.uniform(0.3, 0.7, (len(part), 1)).astype(np.float32)
        part[:] = embedder.normalize_embeddings(share * real[one] + (1 - share) * real[other])
    return vectors


def neighbours(vectors):
    """Return the rows of the nearest vectors of each vector in its own block: (n, NEIGHBOURS)."""
    found = []
    for start in range(0, len(vectors), BLOCK):
        scores = vectors[start : start + BLOCK] @ vectors[start : start + BLOCK].T
        np.fill_diagonal(scores, -1)
        found.append(start + np.argpartition(-scores, NEIGHBOURS)[:, :NEIGHBOURS])
    return np.concatenate(found)


def write_vectors(directory, vectors, queries):
    """Write the vectors as .npy and Parquet, and what exact search finds for the queries."""
    directory.mkdir(exist_ok=True)
    np.save(directory / "vectors.npy", vectors)
    schema = pa.schema({"id": pa.int64(), "embedding": pa.list_(pa.float32(), vectors.shape[1])})
    with pq.ParquetWriter(directory / "vectors.parquet", schema, use_dictionary=False) as writer:
        for start in range(0, len(vectors), BLOCK):
            part = vectors[start : start + BLOCK]
            ids = np.arange(start, start + len(part))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), vectors.shape[1])
            writer.write_table(pa.table([ids, lists], schema=schema))
    hits = embedder.semantic_search(queries, vectors, top_k=TOP_K)
    np.save(directory / "exact.npy", np.array([[hit["corpus_id"] for hit in row] for row in hits]))
