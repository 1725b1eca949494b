"""An AWS Lambda function that turns texts into vectors. Its handler is `lambda_function.handler`."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[Any, Any], Any]

# Lambda gives one vCPU for this much memory, and the same share of one for less or more.
_MEGABYTES_PER_VCPU = 1769
_MODEL = Path(__file__).with_name("model")


def thread_count(memory_megabytes: str) -> int:
    """Return how many threads should compute, at least 1.

    Args:
        memory_megabytes: the memory of the function, as Lambda's variable AWS_LAMBDA_FUNCTION_MEMORY_SIZE has it.

    Example:
        >>> thread_count("512"), thread_count("3538")
        (1, 2)
    """
    return max(1, round(int(memory_megabytes) / _MEGABYTES_PER_VCPU))


def make_handler(model: Path) -> Handler:
    """Load the artifact in the directory `model`. Return the handler of its events.

    Lambda calls this once, in the phase `init`. A broken model fails here, not in a call.
    """
    threads = thread_count(os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0"))
    if threads == 1:
        # tokenizers reads it. By default it starts a thread for each core of the machine, and each reserves memory.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # NumPy reads it once. Its threads would be idle: a function multiplies no matrices with NumPy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from embedder.functions import Function
    from embedder.functions.aws_lambda import lambda_handler

    function = Function(
        model,
        dtype="auto",
        threads=threads,
        verify=False,  # Lambda checks the digest of the zip or of the image
    )
    function.load()
    return lambda_handler(function)


# What is loaded stays until the end. To look for garbage in it takes time, in this phase and in each call.
gc.disable()
handler = make_handler(_MODEL)
gc.freeze()
gc.enable()
