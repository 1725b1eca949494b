"""Quantised search: measure how much smaller vectors can be, and how many of the nearest are still found.

Usage: python examples/quantised_search.py FILE [--texts N]

FILE is a TSV file with a header, and `text` is the last column, as in banking77's training set. Every tenth text is a
query, and the others are the corpus. Needs the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`).
"""

import argparse
from pathlib import Path

import numpy as np

from embedder import Embedder, VectorIndex, quantize_embeddings, semantic_search, semantic_search_quantized

TOP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, help="use N texts, evenly spread over the file")
    options = parser.parse_args()

    rows = options.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]
    texts = [row.split("\t")[-1] for row in rows][:: max(1, len(rows) // (options.texts or len(rows)))]
    vectors = Embedder("all-MiniLM-L6-v2", dtype="auto").encode(texts, normalize_embeddings=True)
    asked = np.arange(len(vectors)) % 10 == 0
    queries, corpus = vectors[asked], vectors[~asked]
    exact = semantic_search(queries, corpus, top_k=TOP)
    print(f"{len(queries)} queries, {len(corpus)} vectors of {corpus.shape[1]} numbers, {corpus.nbytes / 1e6:.1f} MB")

    # As in sentence-transformers: the ranges come from the corpus, and the unquantised query scores candidates again.
    for precision in ("int8", "ubinary"):
        codes = quantize_embeddings(corpus, precision, calibration_embeddings=corpus)
        for multiplier in (1, 4, 16):
            found = semantic_search_quantized(
                queries, codes, precision, TOP, calibration_embeddings=corpus, rescore_multiplier=multiplier
            )
            print(
                f"{precision:8} {codes.nbytes / 1e6:5.1f} MB, {multiplier:2} x scored again: {recall(found, exact):.3f}"
            )

    # An index keeps int8 codes with a scale for each vector. A binary index finds candidates by bits first.
    for precision in ("int8", "binary"):
        index = VectorIndex(corpus.shape[1], precision=precision)
        index.add(corpus)
        print(f"VectorIndex, {precision:6}: {recall(index.search(queries, TOP), exact):.3f}")


def recall(found, exact):
    """Return the share of the exact nearest that were found."""
    ids = [[{hit["corpus_id"] for hit in row} for row in hits] for hits in (found, exact)]
    return np.mean([len(one & other) / TOP for one, other in zip(*ids, strict=True)])


if __name__ == "__main__":
    main()
