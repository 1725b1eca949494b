"""Quantised search: measure the size of the vectors, and how many of the nearest vectors search still finds.

Usage: python examples/quantised_search.py FILE [--texts N]

FILE is a TSV file with a header, and `text` is the last column, as in banking77's training set. Every tenth text is a
query, and the others are the corpus. The example needs the exported model in artifacts/ (`make export
MODEL=all-MiniLM-L6-v2`).
"""

import argparse
from pathlib import Path

import numpy as np

from embedder import Embedder, VectorIndex, quantize_embeddings, semantic_search, semantic_search_quantized

TOP_K = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, help="use N texts, evenly spread over the file")
    options = parser.parse_args()

    rows = options.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]
    texts = [row.split("\t")[-1] for row in rows][:: max(1, len(rows) // (options.texts or len(rows)))]
    vectors = Embedder("all-MiniLM-L6-v2", dtype="auto").encode(texts, normalize_embeddings=True)
    is_query = np.arange(len(vectors)) % 10 == 0
    queries, corpus = vectors[is_query], vectors[~is_query]
    exact = semantic_search(queries, corpus, top_k=TOP_K)
    print(f"{len(queries)} queries, {len(corpus)} vectors of {corpus.shape[1]} numbers, {corpus.nbytes / 1e6:.1f} MB")

    # The ranges come from the corpus. The unquantised query scores the candidates again. sentence-transformers does the
    # same.
    for precision in ("int8", "ubinary"):
        codes = quantize_embeddings(corpus, precision, calibration_embeddings=corpus)
        for multiplier in (1, 4, 16):
            found = semantic_search_quantized(
                queries, codes, precision, TOP_K, calibration_embeddings=corpus, rescore_multiplier=multiplier
            )
            print(
                f"{precision:8} {codes.nbytes / 1e6:5.1f} MB, {multiplier:2} x scored again: {recall(found, exact):.3f}"
            )

    # An int8 index keeps int8 codes and a scale for each vector. A binary index also keeps bits to find candidates.
    for precision in ("int8", "binary"):
        index = VectorIndex(corpus.shape[1], precision=precision)
        index.add(corpus)
        print(f"VectorIndex, {precision:6}: {recall(index.search(queries, TOP_K), exact):.3f}")


def recall(found, exact):
    """Return the share of the nearest vectors, by exact search, that were found."""
    ids = [[{hit["corpus_id"] for hit in row} for row in hits] for hits in (found, exact)]
    return np.mean([len(one & other) / TOP_K for one, other in zip(*ids, strict=True)])


if __name__ == "__main__":
    main()
