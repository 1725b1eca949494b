"""One measurement in a process of its own, run by compare.py in the environment of the program that is measured.

Usage: python worker.py embedder|sentence-transformers MODEL cold
       python worker.py embedder|sentence-transformers MODEL encode TEXTS.json VECTORS.npy

Prints JSON: `cold` the seconds from before the first import to the first vector; `encode` texts per second. Both the
process' peak resident memory in MB.
"""

import json
import sys
import time

START = time.perf_counter()


def load(program, path):
    if program == "embedder":
        from embedder import Embedder

        return Embedder(path).encode
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(path, device="cpu", local_files_only=True).encode


def main(program, path, task, *files):
    encode = load(program, path)
    if task == "cold":
        encode("What is the capital of France?")
        result = {"seconds": time.perf_counter() - START}
    else:
        result = {"texts_per_second": measure(encode, *files)}
    print(json.dumps(result | {"peak_mb": peak_mb()}))


def measure(encode, texts_path, vectors_path):
    import numpy as np

    with open(texts_path, encoding="utf-8") as stream:
        texts = json.load(stream)
    encode(texts[:32])
    start = time.perf_counter()
    vectors = encode(texts)
    seconds = time.perf_counter() - start
    np.save(vectors_path, vectors)
    return len(texts) / seconds


def peak_mb():
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
