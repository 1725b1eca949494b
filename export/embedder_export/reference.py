"""What the artifact is compared with: sentence-transformers, or the graph that the checkpoint's own repository has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from embedder import Embedder, hub
from embedder.errors import ModelNotFoundError
from embedder.manifest import GRAPH_INPUTS, read_manifest, write_manifest

from embedder_export.body import TOKEN_VECTORS
from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.graphs import save_graph
from embedder_export.head import add_head
from embedder_export.write import describe_graph

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OWN_GRAPH = "onnx/model.onnx"
# By the two conventions of such graphs.
_TOKEN_OUTPUTS = (TOKEN_VECTORS, "token_embeddings")
_TOKEN_TYPES = "token_type_ids"
_EXACT = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


@dataclass(frozen=True)
class Reference:
    """Somebody else's embeddings, float32 (n, dim), of texts under a prompt."""

    name: str
    encode: Callable[[list[str], str | None], np.ndarray]


def sentence_transformers_reference(checkpoint: Checkpoint, max_seq_length: int) -> Reference | None:
    """The checkpoint in sentence-transformers, on the CPU, with texts cut at `max_seq_length`; None if not installed.

    Raises:
        CheckpointError: sentence-transformers cannot load it, or, later, fails on texts.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    name, revision = checkpoint.repository or (str(checkpoint.directory), None)
    try:
        model = SentenceTransformer(
            name,
            revision=revision,
            device="cpu",
            local_files_only=True,
            model_kwargs={"attn_implementation": "eager"},  # the checkpoint may name none that would be fetched
        )
    except Exception as error:  # it raises whatever the checkpoint led to
        raise CheckpointError(f"sentence-transformers cannot load {checkpoint.name}: {error}") from error
    # Padded on the left, its vectors depend on their batch-mates wherever positions are counted from the padding's
    # start. Padded on the right each is what it is alone.
    model.tokenizer.padding_side = "right"
    # It fails where its limit is past the table of positions.
    model.max_seq_length = min(model.max_seq_length, max_seq_length)
    return Reference(f"sentence-transformers {version('sentence-transformers')}", _encode_by(model, checkpoint))


def _encode_by(model: SentenceTransformer, checkpoint: Checkpoint) -> Callable[[list[str], str | None], np.ndarray]:
    def encode(texts: list[str], prompt: str | None) -> np.ndarray:
        try:
            return model.encode(texts, prompt=prompt, batch_size=8, show_progress_bar=False)
        except Exception as error:  # as above
            raise CheckpointError(f"sentence-transformers fails on {checkpoint.name}: {error}") from error

    return encode


def own_graph_reference(
    checkpoint: Checkpoint, artifact: Path, directory: Path, report: Callable[[str], None]
) -> Reference | None:
    """The graph of the transformer that `checkpoint` itself has, under our head.

    It becomes an artifact in a new `directory`, which is `artifact` otherwise. None if there is no such graph, or, as
    `report` is told, it is none to compare with.
    """
    path = _find_own_graph(checkpoint)
    if path is None:
        return None
    try:
        model = ir.load(path)
        add_head(model.graph, checkpoint.layers, _as_body(model.graph))
        manifest = read_manifest(artifact)
        graph = describe_graph(save_graph(model, directory), manifest.head, "own", ())
        shutil.copy(artifact / manifest.tokenizer.file.name, directory)
        write_manifest(replace(manifest, graphs=(graph,)), directory)
        theirs = Embedder(directory, provider="cpu")
    except Exception as error:  # the graph may be anything
        report(f"{OWN_GRAPH} is no reference: {error}")
        return None
    return Reference(OWN_GRAPH, lambda texts, prompt: theirs.encode(texts, prompt=prompt))


def _find_own_graph(checkpoint: Checkpoint) -> Path | None:
    if checkpoint.repository is not None:
        name, revision = checkpoint.repository
        with suppress(ModelNotFoundError):
            hub.fetch(name, [f"{OWN_GRAPH}*"], revision=revision)
    path = checkpoint.directory / OWN_GRAPH
    return path if path.is_file() else None


def _as_body(graph: ir.Graph) -> int:
    """Change `graph` to our inputs, and to its token vectors as the only output; returns their width."""
    tokens = next((value for value in graph.outputs if value.name in _TOKEN_OUTPUTS), None)
    width = None if tokens is None or tokens.shape is None else tokens.shape[-1]
    if not isinstance(width, int):
        raise ValueError(f"none of its outputs is {' or '.join(_TOKEN_OUTPUTS)}, of a known width")
    if any(value.dtype not in _EXACT for value in graph.initializers.values()):
        raise ValueError("its weights are not in float32")
    inputs = {value.name: value for value in graph.inputs}
    if not inputs.keys() - {_TOKEN_TYPES} == set(GRAPH_INPUTS):
        raise ValueError(f"it has the inputs {sorted(inputs)}")
    if types := inputs.get(_TOKEN_TYPES):
        token_ids = inputs[GRAPH_INPUTS[0]]
        zeros = ir.node("Sub", [token_ids, token_ids])
        graph.insert_before(graph[0], zeros)
        types.replace_all_uses_with(zeros.outputs[0])
        graph.inputs.remove(types)
    graph.outputs[:] = [tokens]
    return width
