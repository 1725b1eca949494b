"""What the artifact is compared with: sentence-transformers, or the graph that the checkpoint's own repository has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from embedder import Embedder
from embedder.artifact import hub
from embedder.artifact.manifest import GRAPH_INPUTS
from embedder.backends.session import PROVIDERS, Session
from embedder.errors import ModelNotFoundError
from PIL import Image

from embedder_export.body.body import TOKEN_VECTORS
from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.modules import Layer
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NoReferenceError
from embedder_export.graph.operators import new_graph
from embedder_export.head.head import add_head
from embedder_export.tokenizer.transformers5 import needs_version_5

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OWN_GRAPH = "onnx/model.onnx"
# By the two conventions of such graphs.
_TOKEN_OUTPUTS = (TOKEN_VECTORS, "token_embeddings")
_TOKEN_TYPES = "token_type_ids"
_EXACT = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


@dataclass(frozen=True)
class Reference:
    """Somebody else's embeddings, float32 (n, dim), of inputs under a prompt; NoReferenceError if it fails on them."""

    name: str
    encode: Callable[[list[Any], str | None], np.ndarray]


def sentence_transformers_reference(checkpoint: Checkpoint, max_seq_length: int) -> Reference | None:
    """The checkpoint in sentence-transformers, on the CPU, with texts cut at `max_seq_length`; None if not installed.

    Of a CLIP it takes images, too, as uint8 (height, width, 3).

    Raises:
        NoReferenceError: it cannot load the checkpoint, which newer libraries saved than are installed.
        CheckpointError: sentence-transformers cannot load it for another reason, or, later, fails on texts or images.
    """
    if find_spec("sentence_transformers") is None:
        return None
    name, revision = checkpoint.repository or (str(checkpoint.directory), None)
    try:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            name,
            revision=revision,
            device="cpu",
            local_files_only=True,
            model_kwargs={"attn_implementation": "eager"},  # the checkpoint may name none that would be fetched
        )
    except Exception as error:  # it raises whatever the checkpoint led to
        newer = _newer_library(checkpoint)
        if newer is not None:
            message = f"sentence-transformers cannot load {checkpoint.name}, which {newer}"
            raise NoReferenceError(message) from error
        raise CheckpointError(f"sentence-transformers cannot load {checkpoint.name}: {error}") from error
    # Padded on the left, its vectors depend on their batch-mates wherever positions are counted from the padding's
    # start. Padded on the right each is what it is alone.
    model.tokenizer.padding_side = "right"
    # It fails where its limit is past the table of positions.
    model.max_seq_length = min(model.max_seq_length, max_seq_length)
    return Reference(f"sentence-transformers {version('sentence-transformers')}", _encode_by(model, checkpoint))


def _newer_library(checkpoint: Checkpoint) -> str | None:
    """Say which library saved the checkpoint in a newer version than the installed one; None if none did."""
    saved = read_json(checkpoint.directory / "config_sentence_transformers.json", dict, default={}).get("__version__")
    versions = {"sentence-transformers": saved.get("sentence_transformers") if isinstance(saved, dict) else None}
    config = read_json(checkpoint.transformer / "config.json", dict, default={})
    versions["transformers"] = "5" if needs_version_5(checkpoint.transformer) else config.get("transformers_version")
    for library, text in versions.items():
        installed = version(library)
        if _release(text) > _release(installed):
            return f"{library} {text} saved, and {library} {installed} is installed"
    return None


def _release(text: object) -> tuple[int, ...]:
    """The major and minor number of a version, as far as it has them."""
    found = re.match(r"(\d+)(?:\.(\d+))?", text) if isinstance(text, str) else None
    return tuple(int(number) for number in found.groups(default="0")) if found else ()


def _encode_by(model: SentenceTransformer, checkpoint: Checkpoint) -> Callable[[list[Any], str | None], np.ndarray]:
    def encode(inputs: list[Any], prompt: str | None) -> np.ndarray:
        given = [Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in inputs]
        try:
            return model.encode(given, prompt=prompt, batch_size=8, show_progress_bar=False)
        except Exception as error:  # as above
            raise CheckpointError(f"sentence-transformers fails on {checkpoint.name}: {error}") from error

    return encode


def own_graph_reference(checkpoint: Checkpoint, artifact: Path, report: Callable[[str], None]) -> Reference | None:
    """The graph of the transformer that `checkpoint` itself has: `artifact` with that in the place of ours.

    The tokenizer and the head are those of `artifact`, so it is the transformer alone that is compared. None if there
    is no such graph, or, as `report` is told, it is none to compare with.
    """
    path = _find_own_graph(checkpoint, report)
    if path is None:
        return None
    try:
        theirs = Embedder(artifact, provider="cpu", dtype="fp32")
        theirs._model.text().session = _OwnSession(
            path, checkpoint.layers
        )  # all else is the runtime's: tokens, batches, masks
    except Exception as error:  # the graph may be anything
        report(f"{OWN_GRAPH} is no reference: {error}")
        return None

    def encode(texts: list[str], prompt: str | None) -> np.ndarray:
        try:
            return theirs.encode(texts, prompt=prompt)
        except Exception as error:  # as above
            raise NoReferenceError(f"{OWN_GRAPH} is no reference: {error}") from error

    return Reference(OWN_GRAPH, encode)


def _find_own_graph(checkpoint: Checkpoint, report: Callable[[str], None]) -> Path | None:
    if checkpoint.repository is not None:
        name, revision = checkpoint.repository
        report(f"fetching {OWN_GRAPH}, if there is one, to compare with")
        with suppress(ModelNotFoundError):
            hub.fetch(name, [f"{OWN_GRAPH}*"], revision=revision)
    path = checkpoint.directory / OWN_GRAPH
    return path if path.is_file() else None


class _OwnSession(Session):
    """Runs a graph of any version of ONNX, from token ids to token vectors, and then our head on these."""

    def __init__(self, path: Path, layers: tuple[Layer, ...]) -> None:
        self._tokens, width = _token_output(ir.load(path).graph)
        graph = new_graph()
        graph.inputs.append(ir.val(self._tokens, ir.DataType.FLOAT, [None, None, width]))
        graph.outputs.append(graph.inputs[-1])
        add_head(graph, layers, width)
        head = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        options = {"providers": ["CPUExecutionProvider"]}
        self._body = onnxruntime.InferenceSession(str(path), **options)
        self._head = onnxruntime.InferenceSession(head, **options)
        self.provider, self.token_budget, self.threads = "cpu", PROVIDERS["cpu"].token_budget, 1

    def run(self, inputs: Mapping[str, np.ndarray], tokens: int, *, alone: bool = True) -> np.ndarray:
        given = {_TOKEN_TYPES: np.zeros_like(inputs[GRAPH_INPUTS[0]]), **inputs}
        feed = {value.name: given[value.name] for value in self._body.get_inputs()}
        given[self._tokens] = self._body.run([self._tokens], feed)[0]
        (embeddings,) = self._head.run(None, {value.name: given[value.name] for value in self._head.get_inputs()})
        return embeddings


def _token_output(graph: ir.Graph) -> tuple[str, int]:
    """The name of the output of `graph` that has the token vectors, and their width; ValueError if it is unusable."""
    tokens = next((value for value in graph.outputs if value.name in _TOKEN_OUTPUTS), None)
    width = None if tokens is None or tokens.shape is None else tokens.shape[-1]
    if not isinstance(width, int):
        raise ValueError(f"none of its outputs is {' or '.join(_TOKEN_OUTPUTS)}, of a known width")
    if any(value.dtype not in _EXACT for value in graph.initializers.values()):
        raise ValueError("its weights are not in float32")
    inputs = {value.name for value in graph.inputs}
    if inputs - {_TOKEN_TYPES} != set(GRAPH_INPUTS):
        raise ValueError(f"it has the inputs {sorted(inputs)}")
    return str(tokens.name), width
