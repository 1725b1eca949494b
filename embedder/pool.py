"""`EncoderPool`: encode in many processes, on a machine with several GPUs or very many cores.

One `Embedder` uses one GPU, or all cores, so on an ordinary machine a pool is not faster. Each worker process loads the
model, and receives one chunk of inputs at a time over its own pipe. If a worker dies, the other workers do not wait for
it, and the error says which inputs it had.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Unpack

import numpy as np

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import IMAGE
from embedder.backends import worker_providers
from embedder.common.checks import check_count, shown
from embedder.common.cores import usable_cores
from embedder.common.keywords import refuse_keywords
from embedder.common.progress import Bar, progress_bar
from embedder.common.read_only import ReadOnly
from embedder.common.records import frozen
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.errors import ArtifactError, DeviceMemoryError, EmbedderError, InputError, WorkerError
from embedder.hints import POOL_HINTS
from embedder.inputs import ImageItem, InputKinds, Inputs, check_list, is_single
from embedder.options import OPTIONS_OF_ENCODE, EncodeOptions, EncodeSettings, LoadSettings
from embedder.results import CutTexts, Embeddings, EncodeResult, check_ranges, quantize, raise_unreadable

# A call has this many chunks for each worker, so that a slower worker can take fewer of them.
_CHUNKS_PER_WORKER = 10
_MAX_CHUNK_INPUTS = 5000
# After the pipe of a worker has ended, wait this long for its process to end.
_WORKER_EXIT_TIMEOUT_S = 5


@frozen
class _Chunk:
    """Consecutive inputs of a call. `start` is the index of the first one."""

    start: int
    items: list[Any]

    @property
    def description(self) -> str:
        return f"encoding the {self.label}"

    @property
    def label(self) -> str:
        return f"{len(self.items)} inputs from inputs[{self.start}] on"


class EncoderPool(ReadOnly):
    """Worker processes that have a model loaded. A `with` statement stops them at its end.

    Safe to share between threads: a second caller waits until the first one has its vectors.

    Example:
        >>> with EncoderPool("all-MiniLM-L6-v2", workers=2) as pool:  # doctest: +SKIP
        ...     vectors = pool.encode(texts)
    """

    _instead: ClassVar[Mapping[str, str]] = {"processes": "make another EncoderPool with workers="}

    @refuse_keywords("EncoderPool", POOL_HINTS | OPTIONS_OF_ENCODE)
    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        workers: int | None = None,
        *,
        providers: str | Sequence[str | None] | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        max_seq_length: int | None = None,
        provider_options: Mapping[str, str | int] | None = None,
        revision: str | None = None,
        token: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        """Start the worker processes. Each loads `model`.

        The processes are spawned: each imports the main script again. So a script needs `if __name__ == "__main__":`
        before the line that starts a pool.

        Args:
            model: as in `Embedder`.
            workers: number of processes. None takes one for each provider, or one for each usable core.
            providers: the provider of each worker, as in `Embedder`. "cuda" takes all GPUs, one for each worker. None
                takes all GPUs if there are any, otherwise the CPU.
            dtype: as in `Embedder`.
            threads: threads of each worker. None divides the cores among the workers.
            max_seq_length: as in `Embedder`.
            provider_options: as in `Embedder`, for all workers.
            revision: as in `Embedder`.
            token: as in `Embedder`.
            local_files_only: as in `Embedder`.

        Raises:
            InputError: a number is out of range, or the numbers of providers and workers differ.
            ArtifactError: the model was replaced between the loads of two workers.
            WorkerError: the processes cannot be started here, or one died while it loaded the model.
            EmbedderError: a worker cannot load the model. The error is the one that `Embedder` raises.
        """
        check_count("workers", workers)
        check_count("threads", threads)
        if not isinstance(model, str | os.PathLike):
            raise InputError(f"model should be the name or the path of an exported model, not {shown(model)}")
        _check_can_start_processes()
        chosen = _providers(workers, providers)
        count = len(chosen)
        threads = threads or max(1, usable_cores() // count)
        settings = LoadSettings(None, dtype, threads, max_seq_length=max_seq_length, provider_options=provider_options)
        hub_options = HubAccess(revision, token, local_files_only).options()
        self._owner = os.getpid()
        # A call that fails stops the pool while it holds the lock, so the lock must be reentrant.
        self._lock = threading.RLock()
        self._stopped = False
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        try:
            for provider in chosen:
                options = replace(settings, provider=provider).options() | hub_options
                self._start_worker(os.fspath(model), options)
            loaded = [self._receive(worker, "loading the model") for worker in range(count)]
            if any(other != loaded[0] for other in loaded):
                raise ArtifactError(f"{os.fspath(model)} was replaced while the workers loaded it. Start another pool")
            self._takes_images = IMAGE in loaded[0].modalities
            self._max_seq_length = max_seq_length or loaded[0].tokenizer.max_seq_length
        except BaseException:
            self.stop()
            raise

    def _start_worker(self, model: str, options: dict[str, Any]) -> None:
        import multiprocessing  # here, as it takes milliseconds of the start of every process

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, model, options), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends when the worker ends
        self._processes.append(process)
        self._pipes.append(ours)

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __reduce__(self) -> tuple[Any, ...]:
        raise WorkerError("a pool cannot be pickled or copied, as its processes belong to this one. Make another")

    @property
    def processes(self) -> tuple[Any, ...]:
        """The worker processes."""
        return tuple(self._processes)

    def encode(
        self,
        inputs: Inputs,
        *,
        chunk_size: int | None = None,
        settings: EncodeSettings | None = None,
        **options: Unpack[EncodeOptions],
    ) -> Embeddings:
        """Return the vectors of `inputs`, as `Embedder.encode` does, in the same order.

        Args:
            inputs: as in `Embedder.encode`. Images must be picklable; an open file is not.
            chunk_size: inputs that a worker receives at a time. None takes a tenth of its share, at most 5,000.
            settings: all options as one object, instead of `options`.
            **options: the options of `Embedder.encode`.

        Returns:
            float32 (dimension,) for one input, (n, dimension) for n inputs; see `Embedder.encode`.

        Raises:
            InputError, ImageError: as in `Embedder.encode`. The pool can be used again.
            DeviceMemoryError: as in `Embedder.encode`. The message names the chunk, and the input within it.
            WorkerError: a worker died. The message says how, and which inputs it had. The pool is stopped then. Or the
                pool was stopped before the call, or by another thread.

        Example:
            >>> pool.encode(["a text", "another"], batch_size=8).shape  # doctest: +SKIP
            (2, 384)
        """
        check_count("chunk_size", chunk_size)
        request = EncodeSettings.of(options, settings).refuse_skip()
        kinds = InputKinds(self._takes_images, request.read_paths)
        items = [item.source if isinstance(item, ImageItem) else item for item in check_list(inputs, kinds)]
        check_ranges(len(items), request)
        with self._lock:
            self._check_usable()
            result = self._encode_in_chunks(self._cut(items, chunk_size), request)
        embeddings = quantize(raise_unreadable(result, request).embeddings, request)
        CutTexts().add(result.cut, len(items)).warn(self._max_seq_length, kinds.name)
        vectors: Embeddings = embeddings[0] if is_single(inputs, kinds) else embeddings
        return vectors

    def stop(self) -> None:
        """Stop the workers. Stopping twice does nothing. A running call of another thread raises WorkerError.

        Example:
            >>> pool.stop()  # doctest: +SKIP
        """
        if self._owner != os.getpid():  # this is a copy of the pool in a forked process
            return
        self._stopped = True
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        with self._lock:  # a running call sees that the pipes have ended, and then releases the lock
            for pipe in self._pipes:
                pipe.close()

    def _check_usable(self) -> None:
        if self._owner != os.getpid():
            raise WorkerError("the pool belongs to the process that started it. Start another in this process")
        if self._stopped:
            raise WorkerError("the pool has been stopped. Start another")

    def _cut(self, items: list[Any], chunk_size: int | None) -> list[_Chunk]:
        share = -(-len(items) // (len(self._pipes) * _CHUNKS_PER_WORKER))
        size = chunk_size or max(1, min(share, _MAX_CHUNK_INPUTS))
        starts = range(0, max(1, len(items)), size)  # without inputs, one empty chunk gives the shape of the result
        return [_Chunk(start, items[start : start + size]) for start in starts]

    def _encode_in_chunks(self, chunks: list[_Chunk], request: EncodeSettings) -> EncodeResult:
        # The caller quantises the vectors, as the ranges are those of all chunks together.
        quiet = replace(request, show_progress_bar=False, precision="float32", errors="skip")
        total = sum(len(chunk.items) for chunk in chunks)
        try:
            with progress_bar(total, "input", "Encoding", shown=request.show_progress_bar) as bar:
                results = self._hand_out(chunks, quiet, bar)
        except BaseException as error:
            # A worker may still send an answer. The next call would take it for its own, so stop the pool.
            if isinstance(error, WorkerError) or not isinstance(error, EmbedderError):
                self.stop()
            raise
        embeddings = np.concatenate([result.embeddings for result in results])
        pairs = list(zip(chunks, results, strict=True))
        indices = np.concatenate([result.indices + chunk.start for chunk, result in pairs])
        reasons = {chunk.start + row: why for chunk, result in pairs for row, why in result.reasons.items()}
        cut = np.concatenate([result.cut + chunk.start for chunk, result in pairs])
        return EncodeResult(embeddings, indices, reasons, cut)

    def _hand_out(self, chunks: list[_Chunk], request: EncodeSettings, bar: Bar) -> list[EncodeResult]:
        """Return the result of each chunk. A worker gets its next chunk as soon as it has answered.

        Args:
            chunks: the inputs.
            request: the options of each worker.
            bar: counts the finished inputs.
        """
        from multiprocessing.connection import wait

        results: list[Any] = [None] * len(chunks)
        waiting = list(range(len(chunks)))[::-1]
        busy: dict[int, int] = {}  # the number of the chunk of each busy worker
        failure: EmbedderError | None = None
        while busy or (waiting and failure is None):
            try:
                for worker in range(len(self._pipes)):
                    if worker not in busy and waiting and failure is None:
                        number = waiting.pop()
                        self._send(worker, chunks[number], request)
                        busy[worker] = number
                ready = wait([self._pipes[worker] for worker in busy])
                for worker in [worker for worker in busy if self._pipes[worker] in ready]:
                    number = busy.pop(worker)
                    results[number] = self._result_of(worker, chunks[number])
                    bar.update(len(chunks[number].items))
            except WorkerError:
                raise
            except EmbedderError as error:  # the other workers finish their chunks, so that no pipe stays full
                failure = failure or error
        if failure is not None:
            raise failure
        return results

    def _result_of(self, worker: int, chunk: _Chunk) -> Any:
        try:
            return self._receive(worker, chunk.description)
        except DeviceMemoryError as error:  # it counts the inputs of the chunk
            raise DeviceMemoryError(f"of {chunk.label}: {error}") from error

    def _send(self, worker: int, chunk: _Chunk, request: EncodeSettings) -> None:
        from multiprocessing.reduction import ForkingPickler

        try:
            message = ForkingPickler.dumps((chunk.items, request))
        except Exception as error:  # pickle raises whatever an object's own methods raise
            raise InputError(
                f"one of the {chunk.label} cannot be sent to a worker process: {error}. Give the path or the bytes of "
                "an image instead of an open file"
            ) from error
        try:
            self._pipes[worker].send_bytes(message)
        except OSError:
            raise self._died(worker, chunk.description) from None

    def _receive(self, worker: int, doing: str) -> Any:
        try:
            answer = self._pipes[worker].recv()
        except (EOFError, OSError):
            raise self._died(worker, doing) from None
        if isinstance(answer, BaseException):
            if isinstance(answer, EmbedderError):
                raise answer
            raise WorkerError(f"worker {worker} failed while {doing}: {answer!r}") from answer
        return answer

    def _died(self, worker: int, doing: str) -> WorkerError:
        if self._stopped:
            return WorkerError(f"the pool was stopped by another thread while {doing}; no vectors are returned")
        process = self._processes[worker]
        process.join(_WORKER_EXIT_TIMEOUT_S)
        how, advice = _cause_of_death(process.exitcode, loading=doing == "loading the model")
        return WorkerError(
            f"worker {worker} (process {process.pid}) died {how} while {doing}; no vectors are returned. {advice}"
        )


def _providers(workers: int | None, providers: str | Sequence[str | None] | None) -> list[str | None]:
    """Return the provider of each worker."""
    if providers is None or isinstance(providers, str):
        names = worker_providers(providers)
        return [names[worker % len(names)] for worker in range(workers or len(names))]
    if not providers:
        raise InputError(f"providers should name the provider of each worker, not {shown(providers)}")
    if len(providers) != (workers or len(providers)):
        raise InputError(f"there are {len(providers)} providers for {workers} workers")
    return list(providers)


def _cause_of_death(code: int | None, *, loading: bool) -> tuple[str, str]:
    """Return how a worker died, and what to do about it."""
    if code is not None and code < 0:
        if -code == getattr(signal, "SIGKILL", None):
            return f"by signal {-code}", "It may have run out of memory: start another pool, with fewer workers"
        return f"by signal {-code}", "Start another pool"
    if loading:
        return f"with exit status {code}", (
            "Its own output, above, says why. If the script starts the pool at its top level, put that under "
            'if __name__ == "__main__":, as each worker imports the script again'
        )
    return f"with exit status {code}", "Its own output, above, may say why. Start another pool"


def _check_can_start_processes() -> None:
    """Raise WorkerError if Python cannot start processes here.

    It cannot in a daemonic process, and it cannot while a worker process imports the main script.
    """
    import multiprocessing.process

    current = multiprocessing.process.current_process()
    if getattr(current, "_inheriting", False):
        raise WorkerError(
            "a pool was started while a worker imports the main script. Put the line that starts the pool under "
            'if __name__ == "__main__":'
        )
    if current.daemon:
        raise WorkerError(
            "a pool cannot be started in a daemonic process, as Python allows it no children. Make the process with "
            "daemon=False, or use Embedder in it"
        )


def _work(pipe: Any, model: str, options: dict[str, Any]) -> None:
    """Answer requests until the pool stops or the parent process ends."""
    try:
        encoder = Embedder(model, **options)
        pipe.send(replace(encoder.manifest, extra={}))  # `embedder prepack` may write into `extra` meanwhile
        while True:
            message = pipe.recv_bytes()
            try:
                items, request = pickle.loads(message)
                pipe.send(encoder.encode_readable(items, settings=request))
            except Exception as error:
                pipe.send(_portable(error))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass
    except Exception as error:
        pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled: the error itself if it is one of embedder, otherwise a WorkerError."""
    return error if isinstance(error, EmbedderError) else WorkerError(f"{type(error).__name__}: {error}")
