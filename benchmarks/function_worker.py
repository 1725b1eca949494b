"""Measure one start of a function. functions.py passes this text to Python, in the directory of the function.

Usage: python -c TEXT handler|stages|imports

- handler: import the handler, and call it once. Writes when the vector was there.
- stages: the same, and when each stage began and ended. This takes a millisecond more.
- imports: import NumPy, onnxruntime and tokenizers, and open a session of the prepacked graph. embedder is not used.

The result goes to result.json in /tmp: when each stage began and ended, in seconds since the process started.
"""

import os
import sys
import time

PYTHON_RUNS = time.monotonic()
STARTED = float(os.environ["STARTED"])
EVENT = {"inputs": ["What is the capital of France?"]}
# The methods that are timed: module, class, method, and the name of the stage.
FUNCTIONS = (
    ("embedder.backends.cpu", "CpuBackend", "__init__", "session"),
    ("embedder.engine.tokenizer", "TextTokenizer", "__init__", "tokenizer"),
)
IMPORTS = {"numpy": "NumPy", "onnxruntime": "onnxruntime", "tokenizers": "tokenizers"}

spans = {"interpreter": [0.0, PYTHON_RUNS - STARTED]}


def now():
    return time.monotonic() - STARTED


def timed(stage, function):
    def call(*arguments, **options):
        begun = now()
        try:
            return function(*arguments, **options)
        finally:
            spans[stage] = [begun, now()]

    return call


class Watch:
    """Finds modules as Python does, and times the first import of some."""

    def find_spec(self, name, path=None, target=None):
        timed_here = [row for row in FUNCTIONS if row[0] == name]
        if name not in IMPORTS and not timed_here:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        if name in IMPORTS:
            spec.loader.exec_module = timed(IMPORTS[name], execute)
        else:
            spec.loader.exec_module = lambda module: (execute(module), self.wrap(module, timed_here))
        return spec

    def wrap(self, module, rows):
        for _, holder, name, stage in rows:
            owner = getattr(module, holder)
            setattr(owner, name, timed(stage, getattr(owner, name)))


def run_handler():
    import lambda_function

    spans["import of the handler"] = [PYTHON_RUNS - STARTED, now()]
    begun = now()
    answer = lambda_function.handler(EVENT, None)
    assert answer["dimension"] == 384, answer
    spans["first vector"] = [begun, now()]


def run_imports():
    import numpy  # noqa: F401
    import onnxruntime
    import tokenizers  # noqa: F401

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (graph,) = (name for name in os.listdir("model") if name.endswith(".prepacked.onnx"))
    onnxruntime.InferenceSession(f"model/{graph}", options, providers=["CPUExecutionProvider"])
    spans["session"] = [0.0, now()]


def main():
    if sys.argv[1] == "stages":
        sys.meta_path.insert(0, Watch())
    run_imports() if sys.argv[1] == "imports" else run_handler()
    import json

    with open("/tmp/result.json", "w") as file:
        json.dump(spans, file)


main()
