"""Time several graphs, and check that they agree."""

import time
from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

import numpy as np
from embedder.artifact.manifest import GRAPH_INPUTS
from embedder.artifact.measurements import Candidate
from numpy.typing import NDArray

from embedder_export.errors import GraphError
from embedder_export.graph.run import Feed, Session

# Fewest and most rounds for each batch. After the fewest, a new round begins only within the time limit. Long calls
# need fewer rounds, because other work on the machine disturbs them less.
_MIN_ROUNDS, _MAX_ROUNDS = 2, 8
_TIME_PER_BATCH_S = 4


def reference_vectors(session: Session, batches: Sequence[Feed]) -> list[NDArray[np.float32]]:
    """Run the reference graph, and return its vectors for each batch, float32 (vectors, size).

    Raises:
        GraphError: onnxruntime cannot run the graph, or a number is not finite.
    """
    vectors: list[NDArray[Any]] = [_vectors_of(session, feed) for feed in batches]
    if not all(np.isfinite(batch).all() for batch in vectors):
        raise GraphError("it gives numbers that are not finite, although its weights are finite")
    return vectors


def check_agreement(
    session: Session, batches: Sequence[Feed], expected: Sequence[NDArray[np.float32]], tolerance: float | None
) -> None:
    """Check that a graph gives the `expected` vectors.

    Args:
        session: the graph.
        batches: the inputs.
        expected: the reference's vectors for each batch.
        tolerance: largest difference of two components, as a share of the length of the longest vector. None allows
            any difference.

    Raises:
        GraphError: onnxruntime cannot run the graph, a number is not finite, or a difference is above the tolerance.
    """
    for feed, reference in zip(batches, expected, strict=True):
        vectors = _vectors_of(session, feed)
        if not np.isfinite(vectors).all():
            raise GraphError("it gives numbers that are not finite where the fp32 graph gives finite ones")
        if tolerance is None:
            continue
        if not np.abs(vectors - reference).max() <= tolerance * np.linalg.norm(reference, axis=1).max():
            raise GraphError(f"its vectors differ by more than {tolerance:g} of their length")


def _vectors_of(session: Session, feed: Feed) -> NDArray[Any]:
    """Return the vectors of a batch, (vectors, size). If each token has a vector, those of padding are left out."""
    vectors = session.run(feed)[0]
    return vectors if vectors.ndim == 2 else vectors[feed[GRAPH_INPUTS[1]] == 1]


def time_graphs(sessions: Mapping[str, Session], batches: Sequence[Feed]) -> tuple[Candidate, ...]:
    """Time graphs in turn. If the machine becomes slower, all of them become slower.

    Args:
        sessions: the graphs by name, with one thread each.
        batches: the inputs of their calls.

    Returns:
        For each graph, the time of a call in milliseconds. It is the geometric mean over the batches.

    Example:
        >>> sessions = {"fp32": Session(Path("model.onnx"), threads=1)}  # doctest: +SKIP
        >>> time_graphs(sessions, batches)  # doctest: +SKIP
        (Candidate(name='fp32', milliseconds=12.25),)
    """
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for feed in batches:
        rounds: list[dict[str, float]] = []
        while len(rounds) < _MIN_ROUNDS or (
            len(rounds) < _MAX_ROUNDS and sum(sum(times.values()) for times in rounds) < _TIME_PER_BATCH_S
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
