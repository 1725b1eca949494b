"""Fourth stage: the finished forms of the graph side by side on this machine; the fastest is kept."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import onnx
import onnxruntime
from embedder.artifact.manifest import Candidate

from embedder_export.dtype.samples import Feed
from embedder_export.errors import CheckpointError

# As many rounds as the time allows, in seconds for each shape: a model that takes long a call is disturbed by less.
_ROUNDS = range(2, 8)
_SECONDS = 4
_FATAL_ONLY = 4
# Of a vector's length.
_TOLERANCE = 1e-4
# Timings nearer than this are a draw; then the graph with fewest nodes is kept, as it loads soonest and smallest.
_DRAW = 1.05


@dataclass(frozen=True)
class Choice:
    """The form of a graph that was kept, where its files lie, and what it took beside others."""

    graph: Path
    form: str
    candidates: tuple[Candidate, ...]


def choose_form(forms: dict[str, Path], batches: Sequence[Feed], report: Callable[[str], None]) -> Choice:
    """The fastest of `forms` on `batches`; of one, that. The first is the reference.

    Raises:
        CheckpointError: onnxruntime fails on the first form. Another that fails is left out.
    """
    first = next(iter(forms))
    if len(forms) == 1:
        return Choice(forms[first], first, ())
    report("timing the forms of the graph")
    nodes = {form: len(onnx.load(path, load_external_data=False).graph.node) for form, path in forms.items()}
    candidates = timed(forms, batches, _TOLERANCE)
    limit = _DRAW * min(candidate.milliseconds for candidate in candidates)
    form = min((candidate.name for candidate in candidates if candidate.milliseconds <= limit), key=nodes.__getitem__)
    return Choice(forms[form], form, candidates)


def timed(paths: dict[str, Path], batches: Sequence[Feed], tolerance: float) -> tuple[Candidate, ...]:
    """The graphs at `paths` in turn on `batches`, so that a machine that slows down slows them all.

    But the first, those that differ by more than `tolerance`, as a share of a vector's length, are left out.

    Raises:
        CheckpointError: as `choose_form`.
    """
    sessions = {form: session for form, path in paths.items() if (session := _session(path)) is not None}
    reference = next(iter(paths))
    if reference not in sessions:
        raise CheckpointError("onnxruntime cannot load the graph that was made of the checkpoint")
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    for feed in batches:
        feed = {value.name: feed[value.name] for value in sessions[reference].get_inputs()}
        try:
            expected = sessions[reference].run(None, feed)[0]
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise CheckpointError(f"onnxruntime cannot run the graph that was made: {error}") from error
        seconds = {form: times for form, times in seconds.items() if _agrees(sessions[form], feed, expected, tolerance)}
        rounds: list[dict[str, float]] = []
        while len(rounds) < _ROUNDS.start or (
            len(rounds) < _ROUNDS.stop and sum(sum(times.values()) for times in rounds) < _SECONDS
        ):
            rounds.append({form: _seconds(sessions[form], feed) for form in seconds})
        for form in seconds:
            # The least, because other work on the machine only ever adds.
            seconds[form].append(min(times[form] for times in rounds))
    return tuple(Candidate(form, round(1000 * geometric_mean(values), 3)) for form, values in seconds.items())


def _agrees(
    session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray], expected: np.ndarray, tolerance: float
) -> bool:
    try:
        found = session.run(None, feed)[0]
    except Exception:  # as above: a fusion that onnxruntime has no kernel for
        return False
    # Written so that NaN is no agreement.
    return bool(np.abs(found - expected).max() <= tolerance * np.linalg.norm(expected, axis=1).max())


def _seconds(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def _session(path: Path) -> onnxruntime.InferenceSession | None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the threads of several sessions would disturb each other's timing
    options.log_severity_level = _FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # as above
        return None
