"""Kill a run of `embedder.files` at any of its lines, and read the files of vectors that runs have written."""

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import embedder
from tests.tiny import WORDS

KINDS = ("out.npy", "out.jsonl", "out.parquet", "out/")
_PACKAGE = Path(embedder.__file__).parent
TRACED = (str(_PACKAGE / "files"), str(_PACKAGE / "common/files.py"))


def counting_embedder(path: Path) -> tuple[embedder.Embedder, list[Any]]:
    """Return a model, and the list of the inputs that its `iter_results` has got so far."""
    asked: list[Any] = []

    class Counting(embedder.Embedder):
        def iter_results(self, inputs: Iterable[Any], **options: Any) -> Any:
            return super().iter_results((asked.append(text) or text for text in inputs), **options)

    return Counting(path), asked


def random_texts(seed: object, count: int) -> list[str]:
    """Return texts of up to twelve words."""
    draw = random.Random(str(seed))
    return [" ".join(draw.choices(WORDS.split()[4:], k=draw.randint(0, 12))) for _ in range(count)]


def read_vectors(path: Path) -> tuple[np.ndarray, list[dict[str, Any]] | None]:
    """Return all rows of an output: the vectors, and the other fields."""
    if path.suffix == ".npy":
        return np.load(path), None
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    return np.float32([row.pop("embedding") for row in rows]), rows


def kill_after(lines: int, function: Callable[[], Any], traced: tuple[str, ...] = TRACED) -> bool:
    """Call `function` in a fork of this process, and kill the fork when it has run so many lines of `traced`.

    Return whether it was killed.
    """
    child = os.fork()
    if child == 0:
        left = lines

        def count(frame: Any, event: str, argument: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(traced):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return count

        sys.settrace(count)
        try:
            function()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def lines_of(function: Callable[[], Any], traced: tuple[str, ...] = TRACED) -> int:
    """Return how many lines of `traced` a call runs."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> Any:
        nonlocal counted
        counted += event == "line"
        return count if frame.f_code.co_filename.startswith(traced) else None

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return counted
