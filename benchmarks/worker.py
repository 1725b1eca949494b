"""Do one measurement of a program. compare.py runs this file in its own process, in the program's environment.

Usage: python worker.py PROGRAM MODEL cold
       python worker.py PROGRAM MODEL encode TEXTS.json VECTORS.npy WORKLOAD
       python worker.py PROGRAM MODEL queries TEXTS.json
       python worker.py PROGRAM MODEL hold|second

The last line of the output is JSON:
- cold: the seconds from before the first import to the first vector,
- encode: the texts per second,
- queries: the milliseconds of one text at a time,
- second: the private memory of the process in MB, after its first vector,
- all of them: the peak resident memory of the process in MB.

`hold` keeps the model in memory until its stdin is closed. `second` runs meanwhile.
"""

import json
import sys
import time

START = time.perf_counter()

MAX_TOKENS = 256
FIRST_TEXT = "What is the capital of France?"

# The fastest batch sizes of each workload, for programs that sort texts by length.
SORTED = {"short": 32, "long": 8, "mixed": 16}
# The same for fastembed. It does not sort, so it pads each text to the longest text of the batch.
UNSORTED = {"short": 16, "long": 4, "mixed": 1}


def embedder(path, dtype=None):
    from embedder import Embedder

    model = Embedder(path, dtype=dtype) if dtype else Embedder(path)
    return lambda texts, batch_size: model.encode(texts)


def onnxruntime_loop(path):
    """Load the model for a short hand-written loop around onnxruntime."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{path}/tokenizer.json")
    # The file cuts and pads every text to 128 tokens.
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    session = onnxruntime.InferenceSession(f"{path}/model.onnx", providers=["CPUExecutionProvider"])

    def encode(texts, batch_size):
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.encode_batch([texts[row] for row in rows])
            ids, mask = (np.array([getattr(text, name) for text in batch]) for name in ("ids", "attention_mask"))
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (tokens,) = session.run(None, inputs)
            means = (tokens * mask[..., None].astype(np.float32)).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            vectors[rows] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return vectors

    return encode


def sentence_transformers(path, backend="torch", **settings):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu", backend=backend, local_files_only=True, model_kwargs=settings)
    return lambda texts, batch_size: model.encode(texts, batch_size=batch_size)


def fastembed(path):
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding(name, specific_model_path=path, local_files_only=True)
    return lambda texts, batch_size: np.array(list(model.embed(texts, batch_size=batch_size)))


# For each program: the function that loads its model, the settings of this function, and the batch sizes.
PROGRAMS = {
    "embedder": (embedder, {}, SORTED),
    "embedder-int8": (embedder, {"dtype": "int8"}, SORTED),
    "onnxruntime": (onnxruntime_loop, {}, SORTED),
    "torch": (sentence_transformers, {}, SORTED),
    "onnx": (sentence_transformers, {"backend": "onnx", "provider": "CPUExecutionProvider"}, SORTED),
    "onnx-qint8": (sentence_transformers, {"backend": "onnx", "provider": "CPUExecutionProvider"}, SORTED),
    "openvino": (sentence_transformers, {"backend": "openvino", "export": False}, SORTED),
    "openvino-fp32": (
        sentence_transformers,
        {"backend": "openvino", "export": False, "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}},
        SORTED,
    ),
    "openvino-qint8": (sentence_transformers, {"backend": "openvino", "export": False}, SORTED),
    "fastembed": (fastembed, {}, UNSORTED),
}


def main(program, path, task, *arguments):
    load, settings, batch_sizes = PROGRAMS[program]
    encode = load(path, **settings)
    if task in ("cold", "hold", "second"):
        encode([FIRST_TEXT], 1)
        result = {"seconds": time.perf_counter() - START}
        if task == "second":
            result["private_mb"] = private_mb()
    elif task == "queries":
        result = latencies(encode, read(arguments[0]))
    else:
        texts_path, vectors_path, workload = arguments
        result = throughput(encode, read(texts_path), vectors_path, batch_sizes[workload])
    print(json.dumps({"peak_mb": peak_mb()} | result), flush=True)
    if task == "hold":
        sys.stdin.read()


def read(path):
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def throughput(encode, texts, vectors_path, batch_size):
    """Encode all texts, save their vectors, and return the texts per second."""
    import numpy as np

    encode(texts[:32], batch_size)
    start = time.perf_counter()
    vectors = encode(texts, batch_size)
    seconds = time.perf_counter() - start
    peak = peak_mb()
    np.save(vectors_path, vectors)
    return {"texts_per_second": len(texts) / seconds, "peak_mb": peak}


def latencies(encode, texts):
    """Encode one text at a time, and return percentiles of the time of a text in milliseconds."""
    import numpy as np

    for text in texts[:10]:
        encode([text], 1)
    times = []
    for text in texts:
        start = time.perf_counter()
        encode([text], 1)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": p50, "p95_ms": p95}


def peak_mb():
    """Return the peak resident memory of this process in MB."""
    if sys.platform == "linux":
        # getrusage would count the memory that the parent had when it forked.
        return kilobytes("/proc/self/status", "VmHWM:") / 1000
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def private_mb():
    """Return the memory in MB that no other process shares. None if the system does not say."""
    return kilobytes("/proc/self/smaps_rollup", "Private_") / 1000 if sys.platform == "linux" else None


def kilobytes(path, prefix):
    """Add up the lines `NAME: n kB` of a file with names that start with `prefix`. Return units of 1,000 bytes."""
    with open(path) as stream:
        return sum(int(line.split()[1]) for line in stream if line.startswith(prefix)) * 1.024


if __name__ == "__main__":
    main(*sys.argv[1:])
