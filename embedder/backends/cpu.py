"""The CPU. One session runs many batches side by side, one thread each; another runs a single batch in all threads."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import GRAPH_INPUTS, UNPADDED_FROM_TOKENS
from embedder.artifact.text_memory import text_memory
from embedder.backends.backend import Backend, CheckedGraph, Device, Feeds, GraphFiles, Outputs
from embedder.backends.memory_room import PROCESS_ROOM, SMALL_BYTES
from embedder.backends.onnxruntime_package import import_onnxruntime
from embedder.backends.prepacked import find_prepacked
from embedder.backends.sessions import (
    CPU_EXECUTION_PROVIDER,
    check_outputs,
    open_session,
    run_session,
    session_options,
)
from embedder.backends.word_table import WordTable, map_word_table
from embedder.common.cores import has_fast_integers, usable_cores
from embedder.common.forks import renew_after_fork
from embedder.common.records import frozen
from embedder.errors import ArtifactError

# Measured: the activations of this many tokens fit into the caches of a core.
_TOKEN_BUDGET = 256
# A graph that only looks up vectors needs so little time for a token that the steps around a call take longer. Measured
# with vectors of 256 numbers: with more tokens, they leave the caches of a core.
_LOOKUP_TOKEN_BUDGET = 4096
# The work of a call is the bytes of the weights times the tokens. Below this, one thread is faster than all threads,
# because threads wait for one another. Measured on two cores with all-MiniLM-L6-v2: all threads are faster in int8 from
# 8 tokens on if calls follow one another, and from 20 tokens on if they are 5 ms apart, because a core has to wake up.
# This is 16 tokens. In fp32 all threads are faster from the first token on.
_MIN_SHARED_WORK = 380_000_000
# Assumed token count of the first call. Decides which session is opened at load.
_FIRST_CALL_TOKENS = 16
# onnxruntime's memory arena keeps the size of the largest call. A call of more than this many token budgets shrinks it.
_SHRINK_ARENA_FACTOR = 4
# The pages of the word table are given back when each thread has used up this many token budgets. Measured on two cores
# with all-MiniLM-L6-v2 in fp32: a bulk run needs 20 MB less, and takes the same time.
_RELEASE_PAGES_FACTOR = 4
# Measured: a text of 32,768 tokens takes up to 5 % more than texts of 4,096 tokens let expect.
_MEMORY_MARGIN = 1.1


class ThreadSlots:
    """A limit of `total` threads that compute at the same time. The caller that waits longest is served first.

    Safe to share between threads, and after a fork.

    Example:
        >>> slots = ThreadSlots(4)
        >>> slots.acquire(4)
        4
        >>> slots.release(4)
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self.renew()
        renew_after_fork(self)

    def acquire(self, wanted: int) -> int:
        """Return how many threads the caller may use: all or one. Wait while no thread is free.

        The caller gets all threads if it wants all and all are free. Otherwise it gets one. It gives them back with
        `release`.
        """
        with self._lock:
            if self._free:
                count = self._total if wanted == self._total == self._free else 1
                self._free -= count
                return count
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        try:
            turn.acquire()
        except BaseException:  # the caller was interrupted
            self._stop_waiting(turn)
            raise
        return 1

    def release(self, count: int) -> None:
        """Give back `count` threads. Waiting callers get them first."""
        with self._lock:
            while count and self._waiting:
                self._waiting.popleft().release()
                count -= 1
            self._free += count

    def renew(self) -> None:
        """Make all slots free after a fork: the threads that used them exist only in the parent."""
        self._free = self._total
        self._lock = threading.Lock()
        # One held lock for each waiting caller. Releasing the lock gives the caller a slot.
        self._waiting: deque[threading.Lock] = deque()

    def _stop_waiting(self, turn: threading.Lock) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return
        self.release(1)  # the caller has got a slot already


@frozen
class CpuDevice:
    """The cores that this process may use. `Device` describes the attributes.

    All graphs of a model share `slots`.

    Example:
        >>> CpuDevice(threads=2).token_budget
        256
    """

    threads: int
    name: str = "cpu"
    token_budget: int = _TOKEN_BUDGET
    unpadded_from_tokens: int | None = UNPADDED_FROM_TOKENS
    preparing_threads: int = 0
    preferred_dtypes: tuple[str, ...] = field(
        default_factory=lambda: ("int8", "fp32", "fp16") if has_fast_integers() else ("fp32", "int8", "fp16")
    )
    slots: ThreadSlots = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", ThreadSlots(self.threads))

    def open(self, files: GraphFiles) -> Backend:
        """Load a graph; see `Device.open`."""
        return CpuBackend(files, self._for_lookups() if files.graph.is_lookup else self)

    def _for_lookups(self) -> CpuDevice:
        """Return this device with what is best for graphs that only look up vectors. It shares the slots."""
        device = replace(self, token_budget=_LOOKUP_TOKEN_BUDGET, unpadded_from_tokens=None)
        object.__setattr__(device, "slots", self.slots)
        return device


class _CpuKind:
    name = "cpu"
    has_numbers = False
    option_names = ()

    def is_installed(self) -> bool:
        import_onnxruntime()
        return True

    def workers(self) -> tuple[str, ...]:
        import_onnxruntime()
        return (self.name,) * usable_cores()

    def start(self, threads: int | None, index: int, options: Mapping[str, str]) -> Device:
        import_onnxruntime()
        return CpuDevice(threads or usable_cores())


CPU = _CpuKind()


class CpuBackend:
    """A graph on the CPU. Safe to call from many threads, and after a fork.

    There are two sessions of onnxruntime. Each is opened when it is first needed. In one session a call uses all
    threads, which is fastest for a single batch. In the other one a call uses only the caller's thread. Many batches
    side by side are fastest there, as no thread waits for another. At most `device.threads` threads compute at a time.
    """

    def __init__(self, files: GraphFiles, device: CpuDevice) -> None:
        """Load the graph of `files`. Raises the errors of `Device.open`."""
        self.device = device
        self._files = files
        self._output_names = [output.name for output in files.graph.outputs]
        self._memory = text_memory(files.artifact.manifest, files.graph)
        self._prepacked = find_prepacked(files)
        self._loading = threading.Lock()
        self._running: list[int] = []  # the number of threads of each running call
        self._word_tables: dict[int, WordTable] = {}  # by the number of threads of a call
        self._tokens = 0  # since the pages of the word tables were given back
        self._sessions: dict[int, Any] = {}  # by the number of threads of a call
        # The session that was opened at load. It is dropped if the first call needs the other session.
        self._first: tuple[int, Any] | None = None
        if files.open_now:
            threads = self._threads_for(_FIRST_CALL_TOKENS)
            self._first = threads, self._open(threads)
        renew_after_fork(self)

    def run(self, feeds: Feeds, *, single_batch: bool = False) -> Outputs:
        """Run the graph; see `Backend.run`.

        A single batch uses all threads if it has enough work for them and no other call is running.
        """
        tokens = self._files.tokens_of(feeds)
        threads = self._threads_for(tokens) if single_batch else 1
        needed_bytes = self._needed_bytes(feeds)
        if needed_bytes >= SMALL_BYTES:
            self._session(threads)  # its weights take memory too, so they are loaded before the rest is counted
        # Before a thread is taken, so that short texts need not wait with a long one.
        with PROCESS_ROOM.reserved(needed_bytes):
            return self._run_with(threads, feeds, tokens)

    def _run_with(self, wanted_threads: int, feeds: Feeds, tokens: int) -> Outputs:
        """Run the graph when threads are free: `wanted_threads` of them or one. `tokens` is the size of the call."""
        options = _shrinking_arena() if tokens > _SHRINK_ARENA_FACTOR * self.device.token_budget else None
        threads = self.device.slots.acquire(wanted_threads)
        try:
            session = self._session(threads)
            self._running.append(threads)
            try:
                return run_session(session, feeds, self._output_names, options)
            finally:
                self._running.pop()
                self._release_pages(tokens)
        finally:
            self.device.slots.release(threads)

    def _needed_bytes(self, feeds: Feeds) -> int:
        """Return how much memory a call takes. 0 if the artifact does not say it."""
        if self._memory is None:
            return 0
        return round(_MEMORY_MARGIN * self._memory.bytes_of(*feeds[GRAPH_INPUTS[0]].shape))

    def _release_pages(self, tokens: int) -> None:
        """Count the tokens of a call. From time to time, give the pages of the word tables back."""
        self._tokens += tokens  # another thread may do the same; then the pages are given back a little later
        if self._tokens >= _RELEASE_PAGES_FACTOR * self.device.token_budget * self.device.threads:
            self._tokens = 0
            for table in list(self._word_tables.values()):
                table.release_pages()

    def _threads_for(self, tokens: int) -> int:
        if self._files.graph.is_lookup:
            return 1
        enough = tokens * self._files.graph.weights.size >= _MIN_SHARED_WORK
        return self.device.threads if enough else 1

    def _session(self, threads: int) -> Any:
        """Return the session that has `threads` threads a call. Open it if needed."""
        session = self._sessions.get(threads)
        if session is not None:
            return session
        with self._loading:
            if threads not in self._sessions:
                first, self._first = self._first, None
                if first is not None and first[0] == threads:
                    self._sessions[threads] = first[1]
                else:
                    del first  # before another one is opened, so that two are never in memory together
                    self._sessions[threads] = self._open(threads)
            return self._sessions[threads]

    def _open(self, threads: int) -> Any:
        if self._prepacked is not None:
            try:
                return self._open_graph(self._prepacked, threads, optimize=False)
            except ArtifactError:
                self._prepacked = None  # the artifact has the same weights
        return self._open_graph(self._files.checked, threads, optimize=True)

    def _open_graph(self, graph: CheckedGraph, threads: int, *, optimize: bool) -> Any:
        # The files may have been replaced since the last session was opened. One model must not run two graphs.
        return graph.open(lambda path: self._open_file(path, graph.weights.path.name, threads, optimize))

    def _open_file(self, path: Path, weights: str, threads: int, optimize: bool) -> Any:
        options = session_options(threads, optimize=optimize)
        table = map_word_table(path, path.with_name(weights))
        if table is not None:
            options.add_initializer(table.name, table.value)
            self._word_tables[threads] = table
        self._files.opening()
        session = open_session(path, CPU_EXECUTION_PROVIDER, options, weights)
        check_outputs(session, path, self._files.graph)
        return session

    def renew(self) -> None:
        """Forget sessions that would wait for ever after a fork, as their threads exist only in the parent.

        A session with one thread a call has no threads of its own, so it is kept. But if a call was running, the locks
        of the session may be locked, so it is forgotten too.
        """
        busy, self._running = bool(self._running), []
        self._loading = threading.Lock()
        first, self._first = self._first, None
        stranded = [self._sessions.pop(threads) for threads in list(self._sessions) if threads > 1 or busy]
        for session in [*stranded, *([first[1]] if first else [])]:
            # The destructor would wait for the threads too. One more reference means that it never runs.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _shrinking_arena() -> Any:
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
