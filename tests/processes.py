"""Run code in another process: a new Python, or a fork of this one."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a new Python with these arguments. It imports the packages of this checkout."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def call_in_fork(function: Callable[[], Any]) -> Any:
    """Call `function` in a fork of this process, and return its result."""
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(function()))
    child.start()
    sender.close()  # so that a child that dies ends the pipe
    assert results.poll(60)
    result = results.recv()
    child.join(60)
    assert child.exitcode == 0
    return result
