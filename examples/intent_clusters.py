"""Cluster requests: communities with NumPy alone, k-means and agglomerative clustering with scikit-learn.

Usage: python examples/intent_clusters.py FILE [--texts N]

FILE is a TSV file with a header and the columns `label` and `text`, such as clinc150's validation set. The labels only
serve to evaluate the clusters. A V-measure of 1 means that clusters and labels are the same. The example needs
`pip install ".[cluster]"`, and the exported model in artifacts/ (`make export MODEL=all-MiniLM-L6-v2`).
"""

import argparse
from pathlib import Path

from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import v_measure_score

from embedder import Embedder, community_detection


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--texts", type=int, help="use only the first N rows")
    options = parser.parse_args()

    rows = [line.split("\t") for line in options.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")][1:]
    labels, texts = zip(*rows[: options.texts], strict=True)
    vectors = Embedder("all-MiniLM-L6-v2", dtype="auto").encode(texts, normalize_embeddings=True)
    count = len(set(labels))

    communities = community_detection(vectors, threshold=0.6, min_community_size=5)
    for community in communities[:3]:
        near = ", ".join(repr(texts[row]) for row in community[1:4])
        print(f"{len(community)} texts like {texts[community[0]]!r}: {near}")
    members = [row for community in communities for row in community]
    found = [number for number, community in enumerate(communities) for _ in community]
    score = v_measure_score([labels[row] for row in members], found)
    print(f"communities: {len(communities)}, with {len(members)} of {len(texts)} texts, V-measure {score:.3f}")

    for name, clustering in [
        ("k-means", KMeans(count, n_init=1, random_state=0)),
        ("agglomerative", AgglomerativeClustering(count)),
    ]:
        score = v_measure_score(labels, clustering.fit_predict(vectors))
        print(f"{name}: {count} clusters, with {len(texts)} texts, V-measure {score:.3f}")


if __name__ == "__main__":
    main()
