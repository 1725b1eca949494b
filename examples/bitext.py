"""Bitext mining: find the sentences of two languages that are translations of each other.

Usage: python examples/bitext.py FILE [--model MODEL] [--texts N]

FILE is a TSV file with a header. Each row has a sentence and its translation, as in Tatoeba's test sets. The example
shuffles the translations, and finds the pairs again. MODEL should know both languages, such as LaBSE (`make export
MODEL=LaBSE`). all-MiniLM-L6-v2 knows only English, so it only finds sentences with similar words.
"""

import argparse
from pathlib import Path

import numpy as np

from embedder import Embedder, bitext_mining


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, help="use only the first N rows")
    options = parser.parse_args()

    rows = [line.split("\t") for line in options.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")][1:]
    sources, targets = zip(*rows[: options.texts], strict=True)
    order = np.random.default_rng(0).permutation(len(targets))
    targets = [targets[row] for row in order]
    model = Embedder(options.model, dtype="auto")
    vectors = model.encode(sources), model.encode(targets)

    for score, source, target in bitext_mining(*vectors)[:3]:
        print(f"{score:.3f}  {sources[source]}\n       {targets[target]}")
    for margin in ("absolute", "distance", "ratio"):
        for retrieval in ("forward", "backward", "intersection", "max"):
            pairs = bitext_mining(*vectors, margin=margin, retrieval=retrieval)
            correct = sum(order[target] == source for _, source, target in pairs)
            precision, recall = correct / max(1, len(pairs)), correct / len(sources)
            print(f"{margin:9} {retrieval:13} {len(pairs):5} pairs, precision {precision:.3f}, recall {recall:.3f}")


if __name__ == "__main__":
    main()
