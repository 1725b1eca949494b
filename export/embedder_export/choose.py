"""Fifth stage: the finished forms of the graph side by side on this machine; the fastest is kept."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import numpy as np
import onnx
import onnxruntime
from embedder.manifest import Candidate

from embedder_export.graphs import save_graph

# (texts, tokens): one short query, and batches of about the size that the runtime makes.
_SHAPES = ((1, 16), (16, 32), (2, 256))
_ROUNDS = 7
_TOLERANCE = 1e-4
# Timings nearer than this are a draw; then the graph with fewest nodes is kept, as it loads soonest and smallest.
_DRAW = 1.05


@dataclass(frozen=True)
class Choice:
    """The form that was kept, where its files lie, and what every form took."""

    graph: Path
    form: str
    candidates: tuple[Candidate, ...]


def choose_form(forms: dict[str, onnx.ModelProto], max_length: int, scratch: Path) -> Choice:
    """Write `forms`, of which "traced" is the reference, under `scratch`, and choose the fastest."""
    nodes = {form: len(graph.graph.node) for form, graph in forms.items()}
    paths = {form: save_graph(graph, scratch / form) for form, graph in forms.items()}
    timed = _time(paths, [(texts, min(tokens, max_length)) for texts, tokens in _SHAPES])
    limit = _DRAW * min(candidate.milliseconds for candidate in timed)
    form = min((candidate.name for candidate in timed if candidate.milliseconds <= limit), key=nodes.__getitem__)
    return Choice(paths[form], form, tuple(timed))


def _time(paths: dict[str, Path], shapes: list[tuple[int, int]]) -> list[Candidate]:
    """Time the graphs in turn, so that a machine that slows down slows them all; drop those that differ from traced."""
    generator = np.random.default_rng(0)
    sessions = {form: _session(path) for form, path in paths.items()}
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    for texts, tokens in shapes:
        feed = _random_feed(generator, texts, tokens)
        expected = sessions["traced"].run(None, feed)[0]
        for form in list(seconds):
            # Written so that NaN fails too.
            if not np.abs(sessions[form].run(None, feed)[0] - expected).max() <= _TOLERANCE:
                del seconds[form]
        rounds = [{form: _seconds(sessions[form], feed) for form in seconds} for _ in range(_ROUNDS)]
        for form in seconds:
            # The least, because other work on the machine only ever adds.
            seconds[form].append(min(times[form] for times in rounds))
    return [Candidate(form, round(1000 * geometric_mean(values), 3)) for form, values in seconds.items()]


def _seconds(session: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the threads of several sessions would disturb each other's timing
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _random_feed(generator: np.random.Generator, texts: int, tokens: int) -> dict[str, np.ndarray]:
    # Any ids do for timing; small ones exist in every vocabulary. Some rows are padded, as real batches are.
    input_ids = generator.integers(5, 30, (texts, tokens))
    lengths = generator.integers(tokens // 2, tokens, (texts, 1), endpoint=True)
    return {"input_ids": input_ids, "attention_mask": (np.arange(tokens) < lengths).astype(np.int64)}
