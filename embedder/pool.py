"""Encoding in many processes, for those who need them: a machine with several GPUs, or with very many cores.

One `Embedder` uses all cores already, so on an ordinary machine a pool gains nothing. Each worker loads the model once
and is given a chunk of texts at a time over a pipe of its own: if it dies, no other waits for it, and the call says so.
"""

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from embedder.common.cores import usable_cores
from embedder.encoder import DEFAULT_MODEL, Embedder, EncodeOptions
from embedder.errors import EmbedderError, InputError, WorkerError
from embedder.inputs import check_count, checked_list

# Of a call's texts for each worker, so that one that is slower is given fewer; and the most texts in one chunk.
_CHUNKS_EACH = 10
_LARGEST_CHUNK = 5000
# How long to wait for the end of a worker whose pipe has ended, in seconds.
_PATIENCE = 5


class EncoderPool:
    """Processes that have a model loaded; a context manager that stops them. For one caller at a time.

    Attributes:
        processes: the workers.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        workers: int | None = None,
        *,
        providers: list[str | None] | None = None,
        threads: int | None = None,
        dtype: str | None = None,
    ) -> None:
        """Start `workers` processes, each with `model` loaded.

        They are spawned, so a script that starts them at its top level needs `if __name__ == "__main__":` before that.

        Args:
            model: as `Embedder` has it.
            workers: how many; None is one for each provider given, or each core.
            providers: where each worker runs, as `Embedder` has it; None is the default for all.
            threads: of each worker; None shares the cores among them.
            dtype: as `Embedder` has it.

        Raises:
            InputError: a number is out of range, or there are not as many providers as workers.
            EmbedderError: a worker cannot load the model; as `Embedder` would raise it.
        """
        check_count("workers", workers)
        count = workers or (len(providers) if providers else usable_cores())
        if providers is not None and len(providers) != count:
            raise InputError(f"there are {len(providers)} providers for {count} workers")
        threads = threads or max(1, usable_cores() // count)
        import multiprocessing  # here, as it takes milliseconds of the start of every process

        context = multiprocessing.get_context("spawn")
        self.processes: list[Any] = []
        self._pipes: list[Any] = []
        try:
            for provider in providers or [None] * count:
                ours, theirs = context.Pipe()
                options = {"provider": provider, "threads": threads, "dtype": dtype}
                process = context.Process(target=_work, args=(theirs, os.fspath(model), options), daemon=True)
                process.start()
                theirs.close()  # so that the pipe ends where the worker does
                self.processes.append(process)
                self._pipes.append(ours)
            for worker in range(count):
                self._receive(worker, "loading the model")
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> "EncoderPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def encode(
        self, texts: str | Iterable[str], *, chunk_size: int | None = None, **options: Unpack[EncodeOptions]
    ) -> NDArray[np.float32]:
        """The embeddings of `texts`, as `Embedder.encode` gives them, and in the same order.

        Args:
            texts: one string, or any number of them.
            chunk_size: texts that a worker is given at a time; None is a tenth of its share, and at most 5,000.
            options: those of `Embedder.encode`, but for the progress bar.

        Raises:
            InputError: as `Embedder.encode`. The pool can be used again.
            WorkerError: a worker died, of which the message says how, and with which texts; nothing is returned, and
                the pool has been stopped. Or it had been stopped before.
        """
        check_count("chunk_size", chunk_size)
        if not self._pipes:
            raise WorkerError("the pool has been stopped: start another")
        checked = [text for text in checked_list(texts, images=False) if isinstance(text, str)]
        size = chunk_size or max(1, min(-(-len(checked) // (len(self._pipes) * _CHUNKS_EACH)), _LARGEST_CHUNK))
        starts = range(0, max(1, len(checked)), size)  # of no texts there is a chunk of none, for its shape
        try:
            chunks = self._encode_chunks(checked, starts, size, {**options, "show_progress_bar": False})
        except BaseException as error:
            # Where a worker is left that has not answered, what it answers later would be taken for another call's.
            if isinstance(error, WorkerError) or not isinstance(error, EmbedderError):
                self.stop()
            raise
        embeddings = np.concatenate(chunks)
        return embeddings[0] if isinstance(texts, str) else embeddings

    def stop(self) -> None:
        """Stop the workers; nothing happens where they have been stopped."""
        for pipe in self._pipes:
            pipe.close()
        self._pipes = []
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()

    def _encode_chunks(
        self, texts: list[str], starts: range, size: int, options: dict[str, Any]
    ) -> list[NDArray[np.float32]]:
        from multiprocessing.connection import wait

        chunks: list[Any] = [None] * len(starts)
        waiting = list(range(len(starts)))[::-1]
        busy: dict[int, int] = {}  # worker: its chunk
        failure: EmbedderError | None = None
        while busy or (waiting and failure is None):
            for worker in range(len(self._pipes)):
                if worker not in busy and waiting and failure is None:
                    busy[worker] = chunk = waiting.pop()
                    message = texts[starts[chunk] : starts[chunk] + size], options
                    self._send(worker, message, _where(starts[chunk], size))
            ready = wait([self._pipes[worker] for worker in busy])
            for worker in [worker for worker in busy if self._pipes[worker] in ready]:
                chunk = busy.pop(worker)
                try:
                    chunks[chunk] = self._receive(worker, _where(starts[chunk], size))
                except WorkerError:
                    raise
                except EmbedderError as error:  # the others finish what they have begun, so that no pipe is left full
                    failure = failure or error
        if failure is not None:
            raise failure
        return chunks

    def _send(self, worker: int, message: object, doing: str) -> None:
        try:
            self._pipes[worker].send(message)
        except OSError:
            raise self._died(worker, doing) from None

    def _receive(self, worker: int, doing: str) -> Any:
        try:
            answer = self._pipes[worker].recv()
        except (EOFError, OSError):
            raise self._died(worker, doing) from None
        if isinstance(answer, BaseException):
            if isinstance(answer, EmbedderError):
                raise answer
            raise WorkerError(f"worker {worker} failed {doing}: {answer!r}") from answer
        return answer

    def _died(self, worker: int, doing: str) -> WorkerError:
        process = self.processes[worker]
        process.join(_PATIENCE)
        code = process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
        return WorkerError(
            f"worker {worker} (process {process.pid}) died {how} while {doing}; no embeddings are returned. "
            "It may have run out of memory: start another pool, with fewer workers"
        )


def _where(start: int, size: int) -> str:
    return f"encoding the {size} texts from texts[{start}] on"


def _work(pipe: Any, model: str, options: dict[str, Any]) -> None:
    """What a worker does until it is stopped, or its parent is gone."""
    try:
        encoder = Embedder(model, **options)
        pipe.send(None)
        while True:
            texts, encode_options = pipe.recv()
            try:
                pipe.send(encoder.encode(texts, **encode_options))
            except Exception as error:
                pipe.send(_portable(error))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass
    except Exception as error:
        pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """As it is where it is one of ours; others may not survive a pipe."""
    return error if isinstance(error, EmbedderError) else WorkerError(f"{type(error).__name__}: {error}")


def start_multi_process_pool(
    model: str | os.PathLike[str] = DEFAULT_MODEL, workers: int | None = None, **options: Any
) -> EncoderPool:
    """An `EncoderPool`; its options are that class's."""
    return EncoderPool(model, workers, **options)


def encode_multi_process(
    texts: str | Iterable[str], pool: EncoderPool, *, chunk_size: int | None = None, **options: Unpack[EncodeOptions]
) -> NDArray[np.float32]:
    """As `EncoderPool.encode`, under the name that sentence-transformers has had for it."""
    return pool.encode(texts, chunk_size=chunk_size, **options)


def stop_multi_process_pool(pool: EncoderPool) -> None:
    """As `EncoderPool.stop`."""
    pool.stop()
