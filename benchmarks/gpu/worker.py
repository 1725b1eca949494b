"""Measure one program with one model. run.py starts this file in a new process.

Usage: python -m benchmarks.gpu.worker SPECIFICATION.json

Each line of the output that begins with "{" is a result. The specification has:

- program: one of `PROGRAMS`, model: the directory of its model, provider: "cuda" or "cpu",
- inputs: a JSON file with the inputs of each workload, images as paths,
- batch_sizes: {workload: batch sizes to try, in order}; None stands for the program's own choice,
- vectors: a file for the vectors of the workload "agreement", as .npz,
- alone: how many of these inputs to encode one by one.
"""

import json
import sys
import time
from statistics import median

START = time.perf_counter()
FIRST_TEXT = "What is the capital of France?"
# Part of the inputs that is encoded before the clock starts, so that memory is taken and kernels are chosen.
WARM_UP = 6
# A measurement has so many calls, or fewer if they take this many seconds together.
MAX_CALLS, ENOUGH_S = 3, 1.0
WARM_UP_QUERIES = 20


def embedder(path, provider):
    from embedder import Embedder

    return Embedder(path, provider=provider, dtype="fp16" if provider == "cuda" else "fp32")


def sentence_transformers(path, provider, **settings):
    """Load the model with SDPA, which transformers chooses where a model has it."""
    import torch
    from sentence_transformers import SentenceTransformer

    settings["dtype"] = torch.float16 if provider == "cuda" else torch.float32
    return SentenceTransformer(path, device=provider, local_files_only=True, model_kwargs=settings)


def flash(path, provider):
    """Load sentence-transformers with flash attention. It then encodes texts without padding."""
    return sentence_transformers(path, provider, attn_implementation="flash_attention_2")


PROGRAMS = {"embedder": embedder, "sdpa": sentence_transformers, "flash": flash}


def main(path):
    with open(path, encoding="utf-8") as stream:
        specification = json.load(stream)
    with open(specification["inputs"], encoding="utf-8") as stream:
        inputs = json.load(stream)
    program = specification["program"]
    model = PROGRAMS[program](specification["model"], specification["provider"])
    encode = encoder(program, model)
    encode([FIRST_TEXT], None)
    report("start", seconds=time.perf_counter() - START, attention=attention_of(program, model))
    report("query", **latencies(model, inputs["queries"]))
    for workload, batch_sizes in specification["batch_sizes"].items():
        measure(program, encode, workload, prepared(program, workload, inputs[workload]), batch_sizes)
    save_vectors(program, encode, inputs, specification)


def encoder(program, model):
    """Return a function that encodes a list of inputs with a batch size."""
    if program == "embedder":
        return lambda inputs, batch_size: model.encode(inputs)
    return lambda inputs, batch_size: model.encode(
        inputs, batch_size=batch_size or 32, show_progress_bar=False, convert_to_numpy=True
    )


def attention_of(program, model):
    """Return the name of the attention that transformers has chosen."""
    return None if program == "embedder" else model[0].auto_model.config._attn_implementation


def prepared(program, workload, inputs):
    """Return the inputs as the program takes them. Images are paths, or decoded in the workload "arrays"."""
    if workload not in ("images", "arrays"):
        return inputs
    if workload == "images" and program == "embedder":
        from pathlib import Path

        return [Path(path) for path in inputs]
    if workload == "images":
        return inputs
    import numpy as np
    from PIL import Image

    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in inputs]
    return arrays if program == "embedder" else [Image.fromarray(array) for array in arrays]


def measure(program, encode, workload, inputs, batch_sizes):
    """Print the speed for each batch size. The first one is left out if the second one is not the fastest."""
    start = min(1, len(batch_sizes) - 1)
    speeds = [speed(program, encode, workload, inputs, batch_size) for batch_size in batch_sizes[start:]]
    if start and speeds[0] == max(speeds):
        speed(program, encode, workload, inputs, batch_sizes[0])


def speed(program, encode, workload, inputs, batch_size):
    """Print the inputs per second, and return them. 0 if they do not fit into the memory.

    A slow program encodes fewer of the inputs, evenly spread, so that a measurement takes a second or two.
    """
    try:
        warm = inputs[::WARM_UP]
        count = max(1, int(len(warm) / seconds_of(encode, warm, batch_size) * ENOUGH_S))
        measured = inputs[:: max(1, len(inputs) // count)]
        seconds = median(repeated(encode, measured, batch_size))
    except Exception as error:
        # Some versions of torch have no class for this error. Any other error is a fault of the benchmark.
        if "out of memory" not in str(error):
            raise
        report("memory", workload=workload, batch_size=batch_size, text=str(error)[:200])
        return 0.0
    finally:
        release_memory(program)
    found = {"inputs": len(measured), "seconds": seconds, "per_second": len(measured) / seconds}
    report("speed", workload=workload, batch_size=batch_size, **found)
    return found["per_second"]


def repeated(encode, inputs, batch_size):
    """Yield the seconds of a few calls, or of one if it is long."""
    spent = 0.0
    for _ in range(MAX_CALLS):
        seconds = seconds_of(encode, inputs, batch_size)
        yield seconds
        spent += seconds
        if spent > ENOUGH_S:
            return


def seconds_of(encode, inputs, batch_size):
    start = time.perf_counter()
    encode(inputs, batch_size)
    return time.perf_counter() - start


def release_memory(program):
    """Give back what torch keeps, so that the peak of the next batch size is its own."""
    if program != "embedder":
        import torch

        torch.cuda.empty_cache()


def latencies(model, texts):
    """Encode one text at a time. Return percentiles of the time of a text in milliseconds."""
    import numpy as np

    options = {"show_progress_bar": False}
    for text in texts[:WARM_UP_QUERIES]:
        model.encode(text, **options)
    times = []
    for text in texts:
        start = time.perf_counter()
        model.encode(text, **options)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.percentile(times, [50, 95])
    return {"p50_ms": p50, "p95_ms": p95}


def save_vectors(program, encode, inputs, specification):
    """Write the vectors of the inputs for the comparison, encoded together and, some of them, one by one."""
    import numpy as np

    arrays = {}
    for workload in ("agreement", "arrays"):
        if workload in inputs:
            chosen = prepared(program, workload, inputs[workload][: specification["compared"]])
            rows = np.arange(0, len(chosen), len(chosen) // specification["alone"] or 1)
            alone = np.array([encode([chosen[row]], None)[0] for row in rows])
            arrays |= {workload: encode(chosen, None), f"{workload}-alone": alone, f"{workload}-rows": rows}
    np.savez(specification["vectors"], **arrays)


def report(kind, **figures):
    print(json.dumps({"kind": kind, **figures}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
