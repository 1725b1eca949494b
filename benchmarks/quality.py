"""Measure the quality of a model's vectors by two standard scores.

Usage: .venv/lean/bin/python benchmarks/quality.py [MODEL [DTYPE]]

The scores are STS Benchmark dev (Spearman x 100) and SciFact (nDCG@10 x 100, over all claims with judgements).
EMBEDDER_TEST_DATA is the directory of the data. SciFact takes some minutes.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from embedder import Embedder

DATA = Path(os.environ.get("EMBEDDER_TEST_DATA", Path(__file__).parents[2] / "shared/data"))


def main(name, dtype=None):
    model = Embedder(name, dtype=dtype)
    print(f"{model}")
    print(f"STS Benchmark dev, Spearman x 100:  {sts(model):.2f}", flush=True)
    print(f"SciFact, nDCG@10 x 100:            {scifact(model):.2f}")


def sts(model):
    """Return the Spearman correlation of the model's cosines with the gold scores, x 100."""
    rows = [line.split("\t") for line in lines(DATA / "sts/stsb-en-dev.tsv")][1:]
    scores, first, second = zip(*rows, strict=True)
    a, b = (model.encode(texts, normalize_embeddings=True) for texts in (first, second))
    return 100 * spearman((a * b).sum(axis=1), np.array(scores, float))


def scifact(model):
    """Return the nDCG@10 of the model's ranking of the abstracts, x 100."""
    directory = DATA / "retrieval/scifact"
    corpus = [json.loads(line) for line in lines(directory / "corpus.jsonl")]
    queries = {query["_id"]: query["text"] for query in map(json.loads, lines(directory / "queries.jsonl"))}
    relevant = {}
    for line in lines(directory / "qrels.tsv")[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            relevant.setdefault(query, {})[document] = int(score)
    texts = [f"{document['title']} {document['text']}".strip() for document in corpus]
    vectors = model.encode_document(texts, show_progress_bar=sys.stderr.isatty())
    scores = model.similarity(model.encode_query([queries[query] for query in relevant]), vectors)
    gains = []
    for query, row in zip(relevant, scores, strict=True):
        found = [relevant[query].get(corpus[index]["_id"], 0) for index in np.argsort(-row, kind="stable")[:10]]
        gains.append(dcg(found) / dcg(sorted(relevant[query].values(), reverse=True)[:10]))
    return 100 * np.mean(gains)


def dcg(gains):
    """Return the discounted cumulative gain. Source: Järvelin and Kekäläinen (2002)."""
    return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def spearman(a, b):
    return np.corrcoef(ranks(a), ranks(b))[0, 1]


def ranks(values):
    """Return the rank of each value. Equal values get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def lines(path):
    # splitlines would also split at line breaks inside texts.
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["all-MiniLM-L6-v2"])
