"""fp32: choose the form of the graph that is fastest on this machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from embedder.artifact.int8_products import Int8Products
from embedder.artifact.measurements import Candidate

from embedder_export.dtype.timing import check_agreement, reference_vectors, time_graphs
from embedder_export.errors import CheckpointError, GraphError
from embedder_export.graph.run import Feed, Session

# Largest difference from the reference form, as a share of a vector's length.
_TOLERANCE = 1e-4
# Times within this factor of the fastest count as equal. Of these graphs the one with the fewest nodes is chosen: it is
# the smallest and loads fastest.
_TIE_FACTOR = 1.05


@dataclass(frozen=True)
class ChosenGraph:
    """A finished graph.

    Attributes:
        path: its file. The weights lie beside it.
        form: the name of its form.
        candidates: all graphs that were timed, with this one. It is empty if nothing was timed.
        products: which products of an int8 graph are computed in fp32. None for other dtypes.
    """

    path: Path
    form: str
    candidates: tuple[Candidate, ...]
    products: Int8Products | None = None


def choose_form(forms: Mapping[str, Path], batches: Sequence[Feed], report: Callable[[str], None]) -> ChosenGraph:
    """Time the forms of a graph, and return the fastest.

    Args:
        forms: graphs that compute the same, by name. The first is the reference.
        batches: inputs to time them on.
        report: called with a line for the timing, and for each form that is left out.

    Raises:
        CheckpointError: onnxruntime fails on the reference, or its vectors are not finite.

    Example:
        >>> choose_form({"traced": Path("model.onnx")}, [], print).form
        'traced'
    """
    first = next(iter(forms))
    if len(forms) == 1:
        return ChosenGraph(forms[first], first, ())
    report("timing the forms of the graph")
    candidates = time_graphs(_usable_forms(forms, batches, report), batches)
    limit = _TIE_FACTOR * min(candidate.milliseconds for candidate in candidates)
    fast = [candidate.name for candidate in candidates if candidate.milliseconds <= limit]
    form = min(fast, key=lambda name: _count_nodes(forms[name]))
    return ChosenGraph(forms[form], form, candidates)


def _usable_forms(
    forms: Mapping[str, Path], batches: Sequence[Feed], report: Callable[[str], None]
) -> dict[str, Session]:
    """Return sessions of the forms that run and agree with the first form."""
    (first, path), *others = forms.items()
    try:
        sessions = {first: Session(path, threads=1)}
        expected = reference_vectors(sessions[first], batches)
    except GraphError as error:
        raise CheckpointError(f"the checkpoint's converted graph is not usable: {error}") from error
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
