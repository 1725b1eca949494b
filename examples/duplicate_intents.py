"""Paraphrase mining: find requests of a bank's customers that ask for the same thing in other words.

Usage: python examples/duplicate_intents.py FILE [--texts N]

FILE is a TSV file with a header and the columns `label` and `text`, such as banking77's training set. The labels only
serve to evaluate the result. The example needs the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`).
"""

import argparse
from pathlib import Path

from embedder import Embedder, paraphrase_mining


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, help="use N texts, evenly spread over the file")
    options = parser.parse_args()

    rows = [line.split("\t") for line in options.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")][1:]
    rows = rows[:: max(1, len(rows) // (options.texts or len(rows)))]
    labels, texts = zip(*rows, strict=True)
    pairs = paraphrase_mining(Embedder("all-MiniLM-L6-v2", dtype="auto"), texts, top_k=10)

    for score, one, other in pairs[:: max(1, len(pairs) // 8)][:4]:
        print(f"{score:.3f}  {texts[one]}\n       {texts[other]}")
    print(f"{len(pairs)} pairs among {len(texts)} requests")
    for threshold in (0.95, 0.9, 0.8, 0.7):
        same = [labels[one] == labels[other] for score, one, other in pairs if score >= threshold]
        share = sum(same) / max(1, len(same))
        print(f"{len(same)} with a score of at least {threshold}: {share:.1%} have the same intent")


if __name__ == "__main__":
    main()
