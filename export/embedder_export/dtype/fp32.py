"""fp32: the fastest of several forms of the graph on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from embedder.artifact.manifest import Candidate

from embedder_export.dtype.timing import check_agreement, reference_vectors, time_graphs
from embedder_export.errors import CheckpointError, GraphError
from embedder_export.graph.run import Feed, Session

# Largest difference from the reference form, as a share of a vector's length.
_TOLERANCE = 1e-4
# Times that differ by less than this factor count as equal. Then the graph with the fewest nodes is kept: it loads
# soonest and is smallest.
_EQUAL_TIMES = 1.05


@dataclass(frozen=True)
class ChosenGraph:
    """A finished graph.

    Attributes:
        path: of its file. Its weights lie beside it.
        form: its name among the forms of the graph.
        candidates: the graphs that were timed beside it, with itself.
    """

    path: Path
    form: str
    candidates: tuple[Candidate, ...]


def choose_form(forms: Mapping[str, Path], batches: Sequence[Feed], report: Callable[[str], None]) -> ChosenGraph:
    """Return the fastest of `forms` on `batches`.

    Args:
        forms: graphs that compute the same, by name. The first is the reference.
        batches: inputs to time them on.
        report: called with a line for the timing, and for each form that is left out.

    Raises:
        CheckpointError: onnxruntime fails on the reference.
    """
    first = next(iter(forms))
    if len(forms) == 1:
        return ChosenGraph(forms[first], first, ())
    report("timing the forms of the graph")
    candidates = time_graphs(_usable(forms, batches, report), batches)
    limit = _EQUAL_TIMES * min(candidate.milliseconds for candidate in candidates)
    fast = [candidate.name for candidate in candidates if candidate.milliseconds <= limit]
    form = min(fast, key=lambda name: _count_nodes(forms[name]))
    return ChosenGraph(forms[form], form, candidates)


def _usable(forms: Mapping[str, Path], batches: Sequence[Feed], report: Callable[[str], None]) -> dict[str, Session]:
    """Return the forms that run and agree with the first."""
    (first, path), *others = forms.items()
    try:
        sessions = {first: Session(path, threads=1)}
        expected = reference_vectors(sessions[first], batches)
    except GraphError as error:
        raise CheckpointError(f"the graph that was made of the checkpoint is not usable: {error}") from error
    for form, path in others:
        try:
            session = Session(path, threads=1)
            check_agreement(session, batches, expected, _TOLERANCE)
        except GraphError as error:
            report(f"the form {form} is left out: {error}")
        else:
            sessions[form] = session
    return sessions


def _count_nodes(path: Path) -> int:
    return len(onnx.load(path, load_external_data=False).graph.node)
