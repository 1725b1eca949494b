"""Time graphs beside each other, and check that they agree."""

import time
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import numpy as np
from embedder.artifact.manifest import Candidate
from numpy.typing import NDArray

from embedder_export.errors import GraphError
from embedder_export.graph.run import Feed, Session

# Rounds for each shape: as many as fit into the time. A model with long calls is disturbed less by other work.
_ROUNDS = range(2, 8)
_SECONDS_PER_SHAPE = 4


def reference_vectors(session: Session, batches: Sequence[Feed]) -> list[NDArray[np.float32]]:
    """Return what the reference graph gives for each batch.

    Raises:
        GraphError: onnxruntime cannot run it, or a number is not finite.
    """
    vectors: list[NDArray[Any]] = [session.run(feed)[0] for feed in batches]
    if not all(np.isfinite(batch).all() for batch in vectors):
        raise GraphError("it gives numbers that are not finite, although its weights are finite")
    return vectors


def check_agreement(
    session: Session, batches: Sequence[Feed], expected: Sequence[NDArray[np.float32]], tolerance: float
) -> None:
    """Check that a graph gives the `expected` vectors for the batches.

    Args:
        session: the graph.
        batches: its inputs.
        expected: of the reference.
        tolerance: largest difference of two numbers, as a share of the length of the longest vector.

    Raises:
        GraphError: onnxruntime cannot run it, a number is not finite, or a difference is larger.
    """
    for feed, wanted in zip(batches, expected, strict=True):
        found = session.run(feed)[0]
        if not np.isfinite(found).all():
            raise GraphError("it gives numbers that are not finite where the fp32 graph gives finite ones")
        if not np.abs(found - wanted).max() <= tolerance * np.linalg.norm(wanted, axis=1).max():
            raise GraphError(f"its vectors differ by more than {tolerance:g} of their length")


def time_graphs(sessions: Mapping[str, Session], batches: Sequence[Feed]) -> tuple[Candidate, ...]:
    """Time graphs in turn, so that a machine that slows down slows them all.

    Args:
        sessions: the graphs by name, with one thread each.
        batches: the inputs of their calls.

    Returns:
        For each graph the milliseconds of a call, as the geometric mean over the batches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for feed in batches:
        rounds: list[dict[str, float]] = []
        while len(rounds) < _ROUNDS.start or (
            len(rounds) < _ROUNDS.stop and sum(sum(times.values()) for times in rounds) < _SECONDS_PER_SHAPE
        ):
            rounds.append({name: _seconds(session, feed) for name, session in sessions.items()})
        for name, times in seconds.items():
            # The minimum, because other work on the machine only adds time.
            times.append(min(measured[name] for measured in rounds))
    return tuple(Candidate(name, round(1000 * geometric_mean(times), 3)) for name, times in seconds.items())


def _seconds(session: Session, feed: Feed) -> float:
    start = time.perf_counter()
    session.run(feed)
    return time.perf_counter() - start
