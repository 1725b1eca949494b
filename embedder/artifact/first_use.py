"""Export a checkpoint of the Hub at the first use of its model, if the exporter is installed.

The exporter is found by its entry point. It writes into the model directory. A lock makes sure that only one
process at a time exports a model. The operating system releases the lock of a process that dies.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedder.artifact.hub_access import HubAccess
from embedder.artifact.store import (
    CHOSEN_TASKS,
    LOCKS,
    find,
    model_directory,
    name_for_task,
    remove_leftovers,
    target_directory,
)
from embedder.common.progress import is_watched
from embedder.errors import DependencyError, EmbedderError, ModelNotFoundError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# The exporter registers a function here: (model, output, *, access, report, task=None) -> None.
_ENTRY_POINTS = "embedder.exporter"
_LOG = logging.getLogger("embedder")
_POLL_INTERVAL_S = 0.1


def find_exporter() -> EntryPoint | None:
    """Return the entry point of the installed exporter, or None. Nothing of the exporter is imported.

    Example:
        >>> find_exporter().name  # doctest: +SKIP
        'embedder-export'
    """
    from importlib.metadata import entry_points  # here, as it takes milliseconds of the start of every process

    return next(iter(entry_points(group=_ENTRY_POINTS)), None)


def how_to_install_exporter() -> str:
    """Return the command that installs the exporter beside the onnxruntime that is there.

    Example:
        >>> how_to_install_exporter()  # doctest: +SKIP
        'pip install "embedder-onnx[cpu,export]"'
    """
    from importlib.metadata import distributions

    names = {str(found.name) for found in distributions()}
    if "onnxruntime-gpu" in names:
        return 'pip install "embedder-onnx[gpu,export]"'
    if "onnxruntime" not in names and any(name.startswith("onnxruntime-") for name in names):
        return "pip install embedder-export"  # an extra would install another onnxruntime beside the one that is there
    return 'pip install "embedder-onnx[cpu,export]"'


def export_once(model: str, exporter: EntryPoint, access: HubAccess, task: str | None = None) -> Path:
    """Export the checkpoint `model` of the Hub into the model directory, unless another process has just done so.

    Args:
        model: the id of a Hub repository.
        exporter: the entry point that `find_exporter` returned.
        access: how the Hub is asked.
        task: the chosen task; None if the checkpoint decides.

    Returns:
        The directory of the artifact.

    Raises:
        ModelNotFoundError: the model directory cannot be written, or the repository cannot be fetched.
        DependencyError: the exporter cannot be imported.
        EmbedderError: the exporter fails for another reason.

    Example:
        >>> export_once("BAAI/bge-small-en-v1.5", find_exporter(), HubAccess()).name  # doctest: +SKIP
        'bge-small-en-v1.5'
    """
    report = _reporter()
    task = task if task in CHOSEN_TASKS else None
    target = target_directory(model, access.revision, task)
    with _locked(target, report):
        found = find(model_directory(), name_for_task(model, task), access.revision)
        if found is not None:
            return found
        if os.path.lexists(target):
            raise ModelNotFoundError(f"{target} is in the way of the export of {model!r}: remove it, or move it away")
        export = _load(exporter)
        report(f"{model} is exported into {target}. This happens once")
        with _named_errors():
            remove_leftovers(model_directory())
            target.parent.mkdir(parents=True, exist_ok=True)
            options = {} if task is None else {"task": task}
            export(model, target, access=access, report=report, **options)
    return target


def _load(exporter: EntryPoint) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = exporter.load()
    except EmbedderError:  # onnxruntime is missing; the message has the command
        raise
    except Exception as error:  # a package that the exporter imports may raise any error
        raise DependencyError(
            f"the exporter {exporter.value!r} cannot be imported ({type(error).__name__}: {error}). "
            f"Run: {how_to_install_exporter()}"
        ) from error
    return function


@contextmanager
def _locked(target: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of `target`. Wait for another process that holds it."""
    from filelock import FileLock, Timeout

    home = model_directory()
    name = hashlib.sha256(os.fsencode(target.relative_to(home))).hexdigest()
    with _named_errors():
        (home / LOCKS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / LOCKS / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"another process exports {target.name}: waiting for it")
            lock.acquire(poll_interval=_POLL_INTERVAL_S)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raise errors of the file system as errors that name the model directory."""
    try:
        yield
    except EmbedderError:
        raise
    except (OSError, NotImplementedError) as error:  # filelock raises NotImplementedError where locks are unknown
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelNotFoundError(
            f"the model directory {model_directory()} cannot be written ({reason}). "
            "Set EMBEDDER_HOME to a directory of yours"
        ) from error


def _reporter() -> Callable[[str], None]:
    """Return a function that says what the export does: on standard error if it is a terminal, otherwise to logging."""
    start = time.monotonic()

    def report(line: str) -> None:
        text = f"{time.monotonic() - start:6.1f} s  {line}"
        if is_watched():
            print(text, file=sys.stderr, flush=True)
        else:
            _LOG.info("%s", text)

    return report
