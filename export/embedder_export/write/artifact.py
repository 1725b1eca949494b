"""Write the artifact's files, and describe them in its manifest."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.int8_products import with_graphs, with_int8_products
from embedder.artifact.manifest import (
    GRAPH_INPUTS,
    IMAGE_INPUTS,
    LOOKUP,
    MULTI_VECTOR,
    POOLING_MASK,
    SPARSE,
    TOKEN_TYPE_IDS,
    File,
    Graph,
    Head,
    Manifest,
    Output,
    Source,
    StaticQueries,
    TokenizerSettings,
)
from embedder.artifact.match_logits import MatchLogits, with_match_logits
from embedder.artifact.padded_tokens import with_padded_tokens
from embedder.artifact.positions import NO_LIMIT, positions, with_positions
from embedder.artifact.upgrades import FORMAT_VERSION
from embedder.backends.sessions import runtime_version
from embedder.common.digests import sha256_of

from embedder_export import __version__
from embedder_export.body.contract import NATIVE
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.layers import describe, describe_layers
from embedder_export.checkpoint.sparse_layers import SpladePooling
from embedder_export.dtype.fp32 import ChosenGraph
from embedder_export.graph.files import weights_of
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.tokenizer.limits import ModelLimits

# The inputs of a graph, in the manifest's order.
_INPUTS = (*GRAPH_INPUTS, TOKEN_TYPE_IDS, POOLING_MASK, *IMAGE_INPUTS)
# The file of the static weights of queries.
_QUERY_WEIGHTS = "queries.weights"
_RUNTIME = "onnxruntime"
_TOOLS = ("onnx", "onnx_ir", _RUNTIME, "tokenizers", "safetensors")
_TRACING_TOOLS = ("optimum-onnx", "transformers", "torch")


@dataclass(frozen=True)
class FinishedGraph:
    """A graph for the artifact.

    Attributes:
        modality: the modality of its inputs.
        dtype: its dtype.
        inputs: the names of its inputs, in any order.
        outputs: its outputs.
        chosen: its file.
    """

    modality: str
    dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    chosen: ChosenGraph


@dataclass(frozen=True)
class Parts:
    """The parts of an artifact.

    Attributes:
        checkpoint: the exported checkpoint.
        tokenizer: the converted tokenizer.
        images: how images are prepared. None if the model takes no images.
        graphs: the graphs of all modalities and dtypes.
        limits: the limits of the transformer for texts.
        match_logits: makes a probability of the cosine of an image and a text. None if the model does not.
    """

    checkpoint: Checkpoint
    tokenizer: ConvertedTokenizer
    images: ImageSettings | None
    graphs: tuple[FinishedGraph, ...]
    limits: ModelLimits
    match_logits: MatchLogits | None = None


def write_files(directory: Path, parts: Parts) -> Manifest:
    """Move the graphs and their weights to `directory`, and write the tokenizer there.

    Returns:
        The manifest without parity and quality. The manifest itself is not written.

    Example:
        >>> write_files(stage, Parts(checkpoint, tokenizer, None, graphs, limits)).dimension  # doctest: +SKIP
        384
    """
    checkpoint = parts.checkpoint
    tools = _TOOLS if parts.graphs[0].chosen.form in (NATIVE, LOOKUP) else (*_TOOLS, *_TRACING_TOOLS)
    revision = None if checkpoint.repository is None else checkpoint.repository[1]
    products = {graph.chosen.path.name: graph.chosen.products for graph in parts.graphs}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task=checkpoint.task,
        source=Source(checkpoint.name, revision, checkpoint.weights_sha256),
        similarity_fn_name=checkpoint.similarity,
        tokenizer=_write_tokenizer(directory, parts.tokenizer),
        images=parts.images,
        image_model=checkpoint.image_model,
        head=_describe_head(checkpoint),
        scores=checkpoint.scores,
        multi_vector=parts.tokenizer.multi_vector,
        prompts=checkpoint.prompts,
        default_prompt_name=checkpoint.default_prompt_name,
        graphs=tuple(_move_graph(directory, graph) for graph in parts.graphs),
        parity=None,
        queries=_write_queries(directory, parts),
        max_active_dims=checkpoint.max_active_dims,
        tools={"embedder-export": __version__} | {name: _version_of(name) for name in tools},
    )
    manifest = with_int8_products(manifest, {name: found for name, found in products.items() if found is not None})
    if parts.match_logits is not None:
        manifest = with_match_logits(manifest, parts.match_logits)
    manifest = _with_positions(manifest, parts)
    # The positions of such a graph end where its padding does.
    return with_padded_tokens(manifest, positions(manifest)) if checkpoint.family.pads_texts else manifest


def _describe_head(checkpoint: Checkpoint) -> Head | None:
    if checkpoint.task == MULTI_VECTOR:  # nothing is pooled
        return Head((), include_prompt=True, layers=describe_layers(checkpoint.layers))
    is_splade = any(isinstance(layer, SpladePooling) for layer in checkpoint.layers)
    pools = is_splade or (checkpoint.task != SPARSE and (checkpoint.layers or checkpoint.family.own_pooling))
    return describe(checkpoint.layers, checkpoint.family.own_pooling) if pools else None


def _version_of(tool: str) -> str:
    # Several distributions have the module onnxruntime. On a machine with a GPU it is onnxruntime-gpu.
    return runtime_version() if tool == _RUNTIME else version(tool)


def _with_positions(manifest: Manifest, parts: Parts) -> Manifest:
    """Return `manifest` with the number of tokens that the graph of texts can read, if it is known."""
    count = parts.limits.usable_positions or parts.limits.max_position_embeddings
    # The families here either say it or have no limit.
    if count is None and parts.graphs[0].chosen.form in (NATIVE, LOOKUP):
        count = NO_LIMIT
    return manifest if count is None else with_positions(manifest, count)


def _write_tokenizer(directory: Path, tokenizer: ConvertedTokenizer) -> TokenizerSettings:
    path = directory / "tokenizer.json"
    path.write_text(tokenizer.json, encoding="utf-8")
    return TokenizerSettings(describe_file(path), tokenizer.max_seq_length, tokenizer.pad_id, tokenizer.special_ids)


def _write_queries(directory: Path, parts: Parts) -> StaticQueries | None:
    """Write the static weights of queries, if the model has them."""
    queries, limit = parts.checkpoint.queries, parts.tokenizer.max_query_tokens
    if queries is None or limit is None:
        return None
    path = directory / _QUERY_WEIGHTS
    path.write_bytes(queries.weights.astype("<f4").tobytes())
    return StaticQueries(describe_file(path), limit)


def _move_graph(directory: Path, graph: FinishedGraph) -> Graph:
    shutil.move(weights_of(graph.chosen.path), directory)
    path = Path(shutil.move(graph.chosen.path, directory))
    return Graph(
        modality=graph.modality,
        dtype=graph.dtype,
        file=describe_file(path),
        weights=describe_file(weights_of(path)),
        inputs=tuple(name for name in _INPUTS if name in graph.inputs),
        outputs=graph.outputs,
        form=graph.chosen.form,
        candidates=graph.chosen.candidates,
        quality=None,
        score_quality=None,
    )


def keep_graphs(directory: Path, manifest: Manifest, kept: Collection[Graph]) -> Manifest:
    """Remove all graphs except `kept` from `directory`, and return the manifest without them."""
    for graph in manifest.graphs:
        if graph not in kept:
            for file in (graph.file, graph.weights):
                (directory / file.name).unlink()
    return with_graphs(manifest, kept)


def describe_file(path: Path) -> File:
    """Return the entry of a file in the manifest.

    Example:
        >>> describe_file(Path("artifacts/small/model.onnx")).name  # doctest: +SKIP
        'model.onnx'
    """
    return File(path.name, path.stat().st_size, sha256_of(path))
