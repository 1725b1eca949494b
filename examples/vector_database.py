"""Keep the small collection in a vector database: LanceDB stores vectors and texts in a local directory.

Usage: python examples/vector_database.py DIRECTORY [QUESTION ...]

The example needs `pip install lancedb`, and the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`).
The first run creates the database in DIRECTORY.
"""

import sys
from pathlib import Path

import lancedb

from embedder import Embedder

COLLECTION = Path(__file__).with_name("collection.txt")
QUESTIONS = ["who invented electronic mail", "crying while chopping vegetables"]


def main(directory: str, *questions: str) -> None:
    model = Embedder("all-MiniLM-L6-v2")
    database = lancedb.connect(directory)
    if "passages" in database.list_tables().tables:
        table = database.open_table("passages")
    else:
        passages = COLLECTION.read_text(encoding="utf-8").splitlines()
        vectors = model.encode_document(passages)
        table = database.create_table(
            "passages", [{"text": text, "vector": vector} for text, vector in zip(passages, vectors, strict=True)]
        )
    print(f"{table.count_rows()} passages in {directory}")
    for question in questions or QUESTIONS:
        print(f"\n{question}")
        nearest = table.search(model.encode_query(question)).distance_type("cosine").limit(3)
        for found in nearest.to_list():
            print(f"  {1 - found['_distance']:.3f}  {found['text']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
