"""Run cases in child processes. A child that dies or hangs is replaced, and its case runs again in its own child."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import onnxruntime  # noqa: F401  before the forks, so that no case needs to import it

from benchmarks.faults import judge
from benchmarks.faults.cases import FILE_NAMES, Case, base_files, case_of
from benchmarks.faults.judge import Outcome

TIME_LIMIT_S = 30
_CASES_PER_CHILD = 100

_fork = multiprocessing.get_context("fork")


class Campaign:
    """Runs cases.

    Example:
        >>> for case, outcome in Campaign(tmp_path).run(range(100)):
        ...     print(case, outcome)
    """

    def __init__(self, directory: Path, *, verbose: bool = False) -> None:
        """Work in `directory`, which is empty. With `verbose`, what libraries say on standard error is shown."""
        self._directory = directory
        self._verbose = verbose
        self._bases = directory / "bases"
        self._bases.mkdir()
        self._expected: dict[str, np.ndarray] = {}

    def run(self, numbers: Iterable[int]) -> Iterator[tuple[Case, Outcome]]:
        """Yield how each case ended, in order."""
        left = [case_of(number) for number in numbers]
        self._prepare(left)
        while left:
            group = left[:_CASES_PER_CHILD]
            ended = 0
            for outcome in self._run_child(group):
                yield group[ended], outcome
                ended += 1
            left = left[ended:]
            if ended < len(group):
                case = left.pop(0)
                (outcome,) = self._run_child([case], alone=True)
                if outcome.result in judge.ALLOWED:
                    outcome = Outcome(outcome.kind, "death or hang after other cases", outcome.result)
                yield case, outcome

    def _prepare(self, cases: list[Case]) -> None:
        """Compute what the undamaged files give. A child does it, because a session does not survive a fork."""
        for base, case in {case.base: case for case in cases if case.base not in self._expected}.items():
            if case.target not in FILE_NAMES:
                base_files(base, self._bases)
            with _Child(judge.expected_of, case, self._directory / f"undamaged {base}", self._bases) as child:
                self._expected[base] = child.receive()

    def _run_child(self, cases: list[Case], *, alone: bool = False) -> Iterator[Outcome]:
        """Yield outcomes until the child dies or hangs. A case that is `alone` then yields that as its outcome."""
        with _Child(self._run_cases, cases) as child:
            for _ in cases:
                try:
                    yield child.receive()
                except TimeoutError:
                    if alone:
                        yield Outcome("?", f"hang of more than {TIME_LIMIT_S} s")
                    return
                except EOFError:
                    if alone:
                        yield Outcome("?", f"death by {child.end()}")
                    return

    def _run_cases(self, cases: list[Case]) -> Iterator[Outcome]:
        judge.limit_memory()
        root = self._directory / f"child {os.getpid()}"
        watch = judge.Watch(root)
        if not self._verbose:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for case in cases:
            yield judge.run(case, root, self._bases, self._expected[case.base], watch)
        shutil.rmtree(root)


class _Child:
    """A fork of this process that sends what an iterator yields, or what a function returns."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._results, sender = _fork.Pipe(duplex=False)
        self._process = _fork.Process(target=_send, args=(sender, function, arguments), daemon=True)
        self._process.start()
        sender.close()  # so that a child that dies ends the pipe

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *unused: object) -> None:
        self._process.kill()
        self._process.join()

    def receive(self) -> object:
        """Return the next value. Raises TimeoutError if there is none in time, and EOFError if the child has died."""
        if not self._results.poll(TIME_LIMIT_S):
            raise TimeoutError
        return self._results.recv()

    def end(self) -> str:
        """Return how the child died: the name of the signal, or the exit status."""
        self._process.join()
        code = self._process.exitcode
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _send(results: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    values = function(*arguments)
    for value in values if isinstance(values, Iterator) else [values]:
        results.send(value)
