"""Measure the matrix products of the machine, and print them with the names of its parts.

Usage: python -m benchmarks.gpu.machine cuda|cpu
"""

import json
import platform
import sys
import time
from importlib.metadata import distributions
from importlib.util import find_spec
from statistics import median

import onnxruntime
import torch

PACKAGES = ("onnxruntime", "sentence-transformers", "tokenizers", "torch", "transformers")
# The edge of the matrices, the products in a run, and the runs.
EDGE, SMALL_EDGE = 8192, 256
PRODUCTS, RUNS = 10, 7


def main(provider):
    is_gpu = provider == "cuda"
    print(
        json.dumps(
            {
                "kind": "machine",
                "card": torch.cuda.get_device_name() if is_gpu else f"{platform.machine()} CPU",
                "cuda": torch.version.cuda,
                "dtype": "fp16" if is_gpu else "fp32",
                "flash": find_spec("flash_attn") is not None,
                "operations_per_second": operations_per_second(provider),
                "versions": versions(),
            }
        ),
        flush=True,
    )


def operations_per_second(provider):
    """Return the speed of products of large matrices: in fp16 on a GPU, in fp32 on a CPU."""
    is_gpu = provider == "cuda"
    edge, dtype = (EDGE, torch.float16) if is_gpu else (SMALL_EDGE, torch.float32)
    wait = torch.cuda.synchronize if is_gpu else lambda: None
    # With random numbers, the card has to lower its clock. With zeros it would look faster.
    a, b = (torch.randn(edge, edge, device=provider, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(PRODUCTS):
            a @ b
        wait()
        times.append(time.perf_counter() - start)
    return PRODUCTS * 2 * edge**3 / median(times)


def versions():
    """Return the versions of the packages that matter, as text."""
    found = {package.metadata["Name"].lower().replace("_", "-"): package.version for package in distributions()}
    # onnxruntime and onnxruntime-gpu install the same module. This is the version of the installed one.
    found["onnxruntime"] = onnxruntime.__version__
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)


if __name__ == "__main__":
    main(sys.argv[1])
