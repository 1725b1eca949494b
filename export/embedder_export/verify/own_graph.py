"""Use the ONNX graph in the checkpoint's own repository as a reference."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from embedder import Embedder
from embedder.artifact import hub
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.manifest import GRAPH_INPUTS, TOKEN_TYPE_IDS
from embedder.backends import select_device
from embedder.common.files import lfs_pointer_problem
from embedder.errors import EmbedderError
from numpy.typing import NDArray

from embedder_export.body.contract import TOKEN_VECTORS
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.layers import Layer
from embedder_export.errors import NoReferenceError
from embedder_export.graph.operators import IR_VERSION, new_graph
from embedder_export.graph.run import Session
from embedder_export.head.heads import add_head
from embedder_export.verify.compare import Vectors
from embedder_export.verify.reference import Reference

OWN_GRAPH = "onnx/model.onnx"
# The possible names of such a graph's token vectors.
_TOKEN_OUTPUTS = (TOKEN_VECTORS, "token_embeddings")
# A graph is a reference only if all its constants have one of these formats. They are at least as exact as float32.
_EXACT_DTYPES = (
    ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL,
)  # fmt: skip


def own_graph_reference(
    checkpoint: Checkpoint, artifact: Path, report: Callable[[str], None], *, fetch: bool = False
) -> Reference | None:
    """Return a reference that runs the artifact with the checkpoint's own graph in the place of the exported graph.

    It uses the artifact's tokenizer and head, so only the transformers are compared.

    Args:
        checkpoint: the exported checkpoint.
        artifact: the artifact's directory.
        report: called with a line if the graph is not usable, and before a fetch from the Hub.
        fetch: fetch the graph of a Hub repository. It is as large as the weights.

    Returns:
        The reference. None if there is no such graph, or it is not usable.

    Example:
        >>> own_graph_reference(checkpoint, Path("artifacts/small"), print).name  # doctest: +SKIP
        'onnx/model.onnx'
    """
    if fetch and checkpoint.repository is not None:
        _fetch_own_graph(checkpoint.repository, report)
    path = checkpoint.directory / OWN_GRAPH
    if not path.is_file():
        return None
    try:
        _check_own_graph(path, checkpoint)
        backend = OwnGraphBackend(path, checkpoint.layers)
    except EmbedderError as error:
        report(f"{OWN_GRAPH} is no reference: {error}")
        return None

    def encode(texts: Sequence[Any], prompt: str | None) -> Vectors:
        try:
            # The runtime makes tokens, batches and masks.
            with Embedder(artifact, dtype="fp32", backend=backend) as theirs:
                return theirs.encode(list(texts), prompt=prompt)
        except EmbedderError as error:
            raise NoReferenceError(f"{OWN_GRAPH} is no reference: {error}") from error

    return Reference(OWN_GRAPH, encode)


def _fetch_own_graph(repository: tuple[str, str], report: Callable[[str], None]) -> None:
    name, revision = repository
    report(f"fetching {OWN_GRAPH}, if there is one, to compare with")
    hub.fetch(name, [f"{OWN_GRAPH}*"], HubAccess(revision))


def _check_own_graph(path: Path, checkpoint: Checkpoint) -> None:
    """Check the graph and the files of its weights.

    Raises:
        NoReferenceError: one is a git-lfs pointer.
        ArtifactError: one was damaged during the download.
    """
    files = sorted(path.parent.glob(f"{path.name}*"))
    for file in files:
        problem = lfs_pointer_problem(file)
        if problem is not None:
            raise NoReferenceError(problem)
    if checkpoint.repository is not None:
        hub.check_fetched(checkpoint.directory, [file.relative_to(checkpoint.directory).as_posix() for file in files])


class OwnGraphBackend:
    """A backend that runs a checkpoint's own graph up to the token vectors, and the artifact's head after it.

    The protocol is `embedder.backends.Backend`. The graph may have any version of ONNX.
    """

    def __init__(self, path: Path, layers: tuple[Layer, ...]) -> None:
        """Load the graph, and write a head for it.

        Args:
            path: the graph's file.
            layers: the layers of the head.

        Raises:
            NoReferenceError: the graph has other inputs or outputs, or its weights are not in float32.
            GraphError: onnxruntime cannot load the graph.
            CheckpointError: a layer is made for vectors of another length.
        """
        self._body = Session(path)  # this comes first, because it fails if the file is no graph
        self._tokens, width = _token_output(ir.load(path).graph)
        graph = new_graph()
        graph.inputs.append(ir.val(self._tokens, ir.DataType.FLOAT, [None, None, width]))
        graph.outputs.append(graph.inputs[-1])
        add_head(graph, layers, width)
        self.device = select_device("cpu", threads=1)
        self._head = Session(ir.to_proto(ir.Model(graph, ir_version=IR_VERSION)).SerializeToString())

    def run(self, feeds: Mapping[str, NDArray[Any]], *, single_batch: bool = False) -> dict[str, NDArray[Any]]:
        """Run the graph and the head, and return the head's outputs by name.

        Args:
            feeds: the artifact's inputs by name.
            single_batch: not used here.

        Raises:
            GraphError: onnxruntime fails.
        """
        given = {TOKEN_TYPE_IDS: np.zeros_like(feeds[GRAPH_INPUTS[0]]), **feeds}
        (given[self._tokens],) = self._body.run(given, [self._tokens])
        return dict(zip(self._head.outputs, self._head.run(given), strict=True))


def _token_output(graph: ir.Graph) -> tuple[str, int]:
    """Return the name of the output with the token vectors, and the length of these vectors."""
    tokens = next((value for value in graph.outputs if value.name in _TOKEN_OUTPUTS), None)
    width = None if tokens is None or tokens.shape is None else tokens.shape[-1]
    if tokens is None or not isinstance(width, int):
        raise NoReferenceError(f"none of its outputs is {' or '.join(_TOKEN_OUTPUTS)}, of a known width")
    if any(value.dtype not in _EXACT_DTYPES for value in graph.initializers.values()):
        raise NoReferenceError("its weights are not in float32")
    inputs = {str(value.name) for value in graph.inputs}
    if inputs - {TOKEN_TYPE_IDS} != set(GRAPH_INPUTS):
        raise NoReferenceError(f"it has the inputs {sorted(inputs)}")
    return str(tokens.name), width
