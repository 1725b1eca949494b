"""Find the passages of a small collection that answer a question, even if they use other words.

Usage: python examples/semantic_search.py [QUESTION ...]

The example needs the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`). `make demo` exports the model
and runs the example. If a cross-encoder is on this machine, it sorts the passages that the search finds. This command
exports one: `make export MODEL=cross-encoder/ms-marco-MiniLM-L6-v2`.
"""

import sys
import time
from pathlib import Path

from embedder import CrossEncoder, Embedder, ModelNotFoundError

RERANKER = "cross-encoder/ms-marco-MiniLM-L6-v2"
COLLECTION = Path(__file__).with_name("collection.txt")
QUESTIONS = [
    "who invented electronic mail",
    "crying while chopping vegetables",
    "legs hurt two days after the gym",
    "upper part of my heater stays chilly",
    "will I lose money if I get promoted",
]
TOP_K = 3
CANDIDATES = 20


def main(questions: list[str]) -> None:
    start = time.perf_counter()
    model = Embedder("all-MiniLM-L6-v2")
    loaded = time.perf_counter()
    passages = COLLECTION.read_text(encoding="utf-8").splitlines()
    collection = model.encode_document(passages)
    encoded = time.perf_counter()

    scores = model.similarity(model.encode_query(questions), collection)
    nearest = (-scores).argsort(axis=1)
    searched = time.perf_counter()

    candidates = {}
    for question, row, found in zip(questions, scores, nearest, strict=True):
        candidates[question] = [passages[index] for index in found[:CANDIDATES]]
        show(question, [(row[index], passages[index]) for index in found[:TOP_K]])
    print(
        f"\nloaded {model}\n"
        f"in {1000 * (loaded - start):.0f} ms; "
        f"encoded {len(passages)} passages in {1000 * (encoded - loaded):.0f} ms; "
        f"encoded and searched {len(questions)} questions in {1000 * (searched - encoded):.1f} ms"
    )
    rerank(candidates)


def rerank(candidates: dict[str, list[str]]) -> None:
    """Sort the passages of each question by the scores of a cross-encoder, if there is one on this machine."""
    try:
        reranker = CrossEncoder(RERANKER, local_files_only=True)
    except ModelNotFoundError:
        print(f"\nA cross-encoder would sort these passages: make export MODEL={RERANKER}")
        return
    start = time.perf_counter()
    ranked = [
        reranker.rank(question, found, top_k=TOP_K, return_documents=True) for question, found in candidates.items()
    ]
    seconds = time.perf_counter() - start
    for question, hits in zip(candidates, ranked, strict=True):
        show(question, [(hit["score"], hit["text"]) for hit in hits])
    print(f"\nloaded {reranker}\nre-ranked {CANDIDATES} passages for each question in {1000 * seconds:.0f} ms")


def show(question: str, found: list[tuple[float, str]]) -> None:
    print(f"\n{question}")
    for rank, (score, passage) in enumerate(found, 1):
        print(f"  {rank}. {score:.3f}  {passage}")


if __name__ == "__main__":
    main(sys.argv[1:] or QUESTIONS)
