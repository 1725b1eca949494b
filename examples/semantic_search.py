"""Find the passages of a small collection that answer a question, even if they use other words.

Usage: python examples/semantic_search.py [QUESTION ...]

The example needs the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`). `make demo` exports the model
and runs the example.
"""

import sys
import time
from pathlib import Path

from embedder import Embedder

COLLECTION = Path(__file__).with_name("collection.txt")
QUESTIONS = [
    "who invented electronic mail",
    "crying while chopping vegetables",
    "legs hurt two days after the gym",
    "upper part of my heater stays chilly",
    "will I lose money if I get promoted",
]
TOP_K = 3


def main(questions: list[str]) -> None:
    start = time.perf_counter()
    model = Embedder("all-MiniLM-L6-v2")
    loaded = time.perf_counter()
    passages = COLLECTION.read_text(encoding="utf-8").splitlines()
    collection = model.encode_document(passages)
    encoded = time.perf_counter()

    scores = model.similarity(model.encode_query(questions), collection)
    best = (-scores).argsort(axis=1)[:, :TOP_K]
    searched = time.perf_counter()

    for question, row, found in zip(questions, scores, best, strict=True):
        print(f"\n{question}")
        for rank, index in enumerate(found, 1):
            print(f"  {rank}. {row[index]:.3f}  {passages[index]}")
    print(
        f"\nloaded {model}\n"
        f"in {1000 * (loaded - start):.0f} ms; "
        f"encoded {len(passages)} passages in {1000 * (encoded - loaded):.0f} ms; "
        f"encoded and searched {len(questions)} questions in {1000 * (searched - encoded):.1f} ms"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or QUESTIONS)
