"""Semantic search in SciFact with a saved index: find the abstracts that support or refute a scientific claim.

Usage: python examples/scifact_search.py DIRECTORY [--index FILE] [--documents N]

DIRECTORY has corpus.jsonl, queries.jsonl and qrels.tsv in the format of BEIR. The example needs the exported model in
artifacts/ (`make export MODEL=all-MiniLM-L6-v2`). The first run encodes 5,183 abstracts, which takes a minute or two.
With --index, later runs load the vectors in milliseconds.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from embedder import Embedder, VectorIndex


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--index", type=Path, help="the index file; it is written if it does not exist")
    parser.add_argument("--documents", type=int, help="use N documents, those with judgements first")
    options = parser.parse_args()

    model = Embedder("all-MiniLM-L6-v2", dtype="auto")
    corpus, claims, relevant = read(options.directory, options.documents)
    index = index_of(corpus, model, options.index)

    start = time.perf_counter()
    hits = index.search(list(claims.values()), top_k=10)
    seconds = time.perf_counter() - start
    gains = [
        ndcg([corpus[hit["corpus_id"]]["_id"] in relevant[claim] for hit in row], len(relevant[claim]))
        for claim, row in zip(claims, hits, strict=True)
    ]
    print(next(iter(claims.values())))
    for hit in hits[0][:3]:
        print(f"  {hit['score']:.3f}  {corpus[hit['corpus_id']]['title']}")
    print(f"{len(claims)} claims in {len(index)} abstracts in {seconds:.2f} s; nDCG@10 {np.mean(gains):.4f}")


def index_of(corpus, model, path):
    """Return the index of the abstracts. It is read from the file `path`, or written there, unless that is None."""
    if path and path.exists():
        return VectorIndex.load(path, model=model)
    index = VectorIndex(model=model)
    index.add([f"{document['title']} {document['text']}" for document in corpus])
    if path:
        index.save(path)
    return index


def read(directory, limit):
    """Return the abstracts, the text of each claim, and the ids of the relevant abstracts of each claim.

    At most `limit` abstracts are returned. Abstracts with judgements come first.
    """
    corpus = [json.loads(line) for line in lines(directory / "corpus.jsonl")]
    texts = {query["_id"]: query["text"] for query in map(json.loads, lines(directory / "queries.jsonl"))}
    relevant = {}
    for line in lines(directory / "qrels.tsv")[1:]:
        claim, document, score = line.split("\t")
        if int(score) > 0:
            relevant.setdefault(claim, set()).add(document)
    judged = set().union(*relevant.values())
    corpus.sort(key=lambda document: document["_id"] not in judged)
    return corpus[:limit], {claim: texts[claim] for claim in relevant}, relevant


def ndcg(found, count):
    """Return the nDCG@10 of a ranking.

    `found` is true for the ranks with a relevant document. `count` is the number of all relevant documents.
    Source: Järvelin and Kekäläinen, Cumulated Gain-Based Evaluation of IR Techniques (2002).
    """
    discounts = 1 / np.log2(np.arange(2, 12))
    return (discounts[: len(found)] * found).sum() / discounts[:count].sum()


def lines(path):
    return (
        path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    )  # splitlines would also split at line breaks inside texts


if __name__ == "__main__":
    main()
