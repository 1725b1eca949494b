"""Do one measurement of a cross-encoder. rerankers.py runs this file in its own process, in the program's environment.

Usage: python reranker_worker.py PROGRAM MODEL cold
       python reranker_worker.py PROGRAM MODEL predict PAIRS.json SCORES.npy WORKLOAD
       python reranker_worker.py PROGRAM MODEL rank PAIRS.json

The last line of the output is JSON:
- cold: the seconds from before the first import to the first score,
- predict: the pairs per second,
- rank: the median of the milliseconds of a query with all its passages,
- all of them: the peak resident memory of the process in MB.
"""

import json
import sys
import time
from itertools import groupby
from operator import itemgetter
from pathlib import Path

# The batch sizes of embeddings are the fastest for pairs too.
from worker import SORTED, START, UNSORTED, peak_mb, read

FIRST_PAIR = ("What is the capital of France?", "Paris is the capital and the largest city of France.")
# The passages of one query are nearly equal in length.
RANK_BATCH_SIZE = 16


def embedder(path, dtype=None):
    """Load the model. Return a function that scores pairs, and one that scores the passages of a query."""
    from embedder import CrossEncoder

    model = CrossEncoder(path, dtype=dtype) if dtype else CrossEncoder(path)
    return (
        lambda pairs, batch_size: model.predict(pairs, activation_fn="identity"),
        lambda query, passages: model.rank(query, passages),
    )


def sentence_transformers(path, backend="torch", **settings):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(path, device="cpu", backend=backend, local_files_only=True, model_kwargs=settings)
    return (
        lambda pairs, batch_size: model.predict(pairs, batch_size=batch_size),
        lambda query, passages: model.rank(query, passages, batch_size=RANK_BATCH_SIZE),
    )


def fastembed(path):
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name = "local/reranker"
    TextCrossEncoder.add_custom_model(name, sources=ModelSource(hf=name), model_file="model.onnx")
    model = TextCrossEncoder(name, specific_model_path=path, local_files_only=True)
    return (
        lambda pairs, batch_size: list(model.rerank_pairs(pairs, batch_size=batch_size)),
        lambda query, passages: list(model.rerank(query, passages, batch_size=RANK_BATCH_SIZE)),
    )


def flashrank(path):
    import numpy as np
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    name = Path(path).name
    # FlashRank loads only models of its own list. Add ours to the list.
    model_file_map[name] = "model.onnx"
    model = Ranker(model_name=name, cache_dir=Path(path).parent, log_level="ERROR")

    def rank(query, passages):
        request = RerankRequest(query, [{"id": index, "text": text} for index, text in enumerate(passages)])
        return model.rerank(request)

    def predict(pairs, batch_size):
        """Score the passages of each query in one call, as FlashRank takes them."""
        scores = []
        for query, group in groupby(pairs, itemgetter(0)):
            ranked = sorted(rank(query, [passage for _, passage in group]), key=itemgetter("id"))
            scores += [passage["score"] for passage in ranked]
        # It returns sigmoids. The other programs return what the model computes.
        values = np.array(scores, np.float64)
        return np.log(values) - np.log1p(-values)

    return predict, rank


ONNX = {"backend": "onnx", "provider": "CPUExecutionProvider"}
OPENVINO = {"backend": "openvino", "export": False}
# For each program: the function that loads its model, the settings of this function, and the batch sizes.
PROGRAMS = {
    "embedder": (embedder, {}, SORTED),
    "embedder-int8": (embedder, {"dtype": "int8"}, SORTED),
    "torch": (sentence_transformers, {}, SORTED),
    "onnx": (sentence_transformers, ONNX, SORTED),
    "onnx-qint8": (sentence_transformers, ONNX, SORTED),
    "openvino": (sentence_transformers, OPENVINO, SORTED),
    "openvino-fp32": (sentence_transformers, OPENVINO | {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}, SORTED),
    "openvino-qint8": (sentence_transformers, OPENVINO, SORTED),
    "fastembed": (fastembed, {}, UNSORTED),
    "flashrank": (flashrank, {}, SORTED),
    "flashrank-qint8": (flashrank, {}, SORTED),
}


def main(program, path, task, *arguments):
    load, settings, batch_sizes = PROGRAMS[program]
    predict, rank = load(path, **settings)
    if task == "cold":
        predict([FIRST_PAIR], 1)
        result = {"seconds": time.perf_counter() - START}
    elif task == "rank":
        result = latency(rank, read_pairs(arguments[0]))
    else:
        pairs_path, scores_path, workload = arguments
        result = throughput(predict, read_pairs(pairs_path), scores_path, batch_sizes[workload])
    print(json.dumps({"peak_mb": peak_mb()} | result), flush=True)


def read_pairs(path):
    return [tuple(pair) for pair in read(path)]


def throughput(predict, pairs, scores_path, batch_size):
    """Score all pairs, save their scores, and return the pairs per second."""
    import numpy as np

    predict(pairs[:16], batch_size)
    start = time.perf_counter()
    scores = predict(pairs, batch_size)
    seconds = time.perf_counter() - start
    peak = peak_mb()
    np.save(scores_path, np.asarray(scores, np.float64))
    return {"pairs_per_second": len(pairs) / seconds, "peak_mb": peak}


def latency(rank, pairs):
    """Rank the passages of one query after the other, and return the median of the milliseconds of a query."""
    import numpy as np

    queries = [(query, [passage for _, passage in group]) for query, group in groupby(pairs, itemgetter(0))]
    rank(queries[0][0], queries[0][1][:8])
    times = []
    for query, passages in queries:
        start = time.perf_counter()
        rank(query, passages)
        times.append(1000 * (time.perf_counter() - start))
    return {"p50_ms": float(np.median(times))}


if __name__ == "__main__":
    main(*sys.argv[1:])
