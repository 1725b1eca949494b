"""Retrieve, then re-rank: a search finds 50 abstracts of SciFact for each claim, and a cross-encoder sorts them.

Usage: python examples/retrieve_rerank.py DIRECTORY [--reranker MODEL] [--index FILE] [--claims N] [--candidates N]

DIRECTORY has corpus.jsonl, queries.jsonl and qrels.tsv in the format of BEIR. The example needs two exported models:
all-MiniLM-L6-v2, and a cross-encoder. It prints nDCG@10 and the time of both stages.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from scifact_search import index_of, ndcg, read

from embedder import CrossEncoder, Embedder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--reranker", default="cross-encoder/ms-marco-MiniLM-L6-v2", help="name or path of a model")
    parser.add_argument("--index", type=Path, help="the index file; it is written if it does not exist")
    parser.add_argument("--claims", type=int, default=100, help="use the first N claims")
    parser.add_argument("--candidates", type=int, default=50, help="re-rank N abstracts for each claim")
    parser.add_argument("--documents", type=int, help="use N documents, those with judgements first")
    options = parser.parse_args()

    model = Embedder("all-MiniLM-L6-v2", dtype="auto")
    reranker = CrossEncoder(options.reranker, dtype="auto")
    corpus, claims, relevant = read(options.directory, options.documents)
    claims = dict(list(claims.items())[: options.claims])
    index = index_of(corpus, model, options.index)

    start = time.perf_counter()
    found = index.search(list(claims.values()), top_k=options.candidates)
    searched = time.perf_counter()
    ranked = [rerank(reranker, claim, hits) for claim, hits in zip(claims.values(), found, strict=True)]
    reranked = time.perf_counter()

    print(next(iter(claims.values())))
    for rank, hit in enumerate(ranked[0][:3], 1):
        print(f"  {rank}. (was {found[0].index(hit) + 1}.) {corpus[hit['corpus_id']]['title']}")
    print(f"{len(claims)} claims, {len(index)} abstracts, {options.candidates} candidates for each claim")
    for stage, rows, seconds in (("search", found, searched - start), ("re-rank", ranked, reranked - searched)):
        score = np.mean(
            [
                ndcg([corpus[hit["corpus_id"]]["_id"] in relevant[claim] for hit in hits[:10]], len(relevant[claim]))
                for claim, hits in zip(claims, rows, strict=True)
            ]
        )
        print(f"{stage:7}  nDCG@10 {score:.4f}  {1000 * seconds / len(claims):.1f} ms for each claim")


def rerank(reranker, query, hits):
    """Return the hits of a search, sorted by the scores of the cross-encoder."""
    return [hits[best["corpus_id"]] for best in reranker.rank(query, [hit["text"] for hit in hits])]


if __name__ == "__main__":
    main()
