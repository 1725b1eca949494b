"""The other converter: a transformer traced by optimum, for what no native builder knows. It needs torch."""

import gc
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE, IMAGE_INPUTS, TEXT
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import OnnxConfig, TextEncoderOnnxConfig
from optimum.exporters.onnx.model_configs import CLIPTextWithProjectionOnnxConfig, CLIPVisionModelOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from embedder_export.body.body import POOLED, TOKEN_VECTORS, Body
from embedder_export.body.fuse import fused_forms
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.graph.files import save_graph

_TASK = "feature-extraction"
_BATCH = {0: "batch_size"}
_AXES = _BATCH | {1: "sequence_length"}
_SIDES = {TEXT: (CLIPTextModelWithProjection, GRAPH_INPUTS), IMAGE: (CLIPVisionModelWithProjection, IMAGE_INPUTS)}


def trace_body(checkpoint: Checkpoint, directory: Path) -> Body:
    """Trace the transformer of `checkpoint` in float32 to its token vectors, by way of files in a new `directory`.

    Of an encoder and decoder it takes the encoder, as sentence-transformers does. Eager attention, because that is the
    form whose pattern onnxruntime's fusions know.
    """
    config, usable_positions, path = _traced(checkpoint, directory, GRAPH_INPUTS, _onnx_config)
    positions = getattr(config, "max_position_embeddings", None)
    if positions == -1:  # XLNet's way to say that there is no such number
        positions = None
    forms = fused_forms(path, config.hidden_size, getattr(config, "num_attention_heads", 0))
    rows = getattr(config, "vocab_size", None)
    return Body(forms, config.hidden_size, positions, usable_positions, vocabulary_size=rows)


def trace_clip(checkpoint: Checkpoint, directory: Path) -> dict[str, Body]:
    """The same of CLIP's two transformers, each to its projection."""
    directory.mkdir()
    return {modality: _trace_side(checkpoint, directory / modality, modality) for modality in (TEXT, IMAGE)}


def _trace_side(checkpoint: Checkpoint, directory: Path, modality: str) -> Body:
    kind, inputs = _SIDES[modality]
    config, _, path = _traced(checkpoint, directory, inputs, partial(_side_config, modality=modality), kind)
    graph = ir.load(path)
    (output,) = (value for value in graph.graph.outputs if value.name == f"{modality}_embeds")
    output.name = POOLED
    graph.graph.outputs[:] = [output]
    RemoveUnusedNodesPass()(graph)
    if modality == TEXT:
        positions = config.max_position_embeddings
        rows = config.vocab_size
        return Body([("traced", graph)], config.projection_dim, positions, positions, vocabulary_size=rows)
    positions = (config.image_size // config.patch_size) ** 2 + 1
    return Body([("traced", graph)], config.projection_dim, None, positions, config.image_size)


def _side_config(model: PreTrainedModel, modality: str) -> OnnxConfig:
    """Optimum's description of one of the two, of the contract's inputs to what the projection gives."""
    known = CLIPTextWithProjectionOnnxConfig if modality == TEXT else CLIPVisionModelOnnxConfig
    axes = dict.fromkeys(GRAPH_INPUTS, _AXES) if modality == TEXT else dict.fromkeys(IMAGE_INPUTS, _BATCH)

    class Features(known):  # type: ignore[misc, valid-type]
        inputs = axes
        outputs = {f"{modality}_embeds": _BATCH}  # noqa: RUF012

    return Features(model.config, task=_TASK)


def _traced(
    checkpoint: Checkpoint,
    directory: Path,
    inputs: tuple[str, ...],
    describe: Callable[[PreTrainedModel], OnnxConfig],
    kind: type[PreTrainedModel] | None = None,
) -> tuple[PretrainedConfig, int | None, Path]:
    """The configuration of the model, its usable positions, and its graph of `inputs` in a new `directory`."""
    model = _load(checkpoint, kind)
    config, usable_positions = model.config, _usable_positions(model)
    with TemporaryDirectory(dir=directory.parent) as scratch:
        traced = Path(scratch) / "model.onnx"
        try:
            _trace(model, describe(model), traced)
            _ = config.hidden_size  # that of every text model is needed
        except Exception as error:  # from several libraries
            raise CheckpointError(f"optimum cannot convert {checkpoint.name}: {error}") from error
        del model
        gc.collect()
        return config, usable_positions, _save(traced, directory, checkpoint, inputs)


def _trace(model: PreTrainedModel, onnx_config: OnnxConfig, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of much that may go wrong; `verify` sees whether it did
        export(model, onnx_config, path)


def _save(traced: Path, directory: Path, checkpoint: Checkpoint, expected: tuple[str, ...]) -> Path:
    """The graph at `traced` in a new `directory`, if it takes what is `expected`."""
    graph = ir.load(traced)
    inputs = {value.name for value in graph.graph.inputs}
    if inputs != set(expected):
        raise CheckpointError(f"{checkpoint.name} needs the inputs {sorted(inputs)}, which are not supported")
    # Past 2 GB large constants of nodes lie in files too, where only initializers are looked for later.
    LiftConstantsToInitializersPass(lift_all_constants=True)(graph)
    return save_graph(graph, directory)


def _load(checkpoint: Checkpoint, kind: type[PreTrainedModel] | None = None) -> PreTrainedModel:
    """The transformer as the class `kind`, or as the one that its configuration says."""
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint.transformer, trust_remote_code=False)
        if kind is None:
            kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
        else:
            config = _side_of(config, kind)
        model, loading = kind.from_pretrained(
            checkpoint.transformer,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # it raises whatever the damaged file led to
        raise CheckpointError(f"transformers cannot load {checkpoint.name}: {error}") from error
    # What is missing transformers makes up at random. Token vectors have no use for a pooler.
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise CheckpointError(f"the weights of {checkpoint.name} lack {', '.join(missing[:3])} ({len(missing)} in all)")
    return model.eval()


def _side_of(config: PretrainedConfig, kind: type[PreTrainedModel]) -> PretrainedConfig:
    """The configuration of one side; each has a projection_dim of its own, and that of the whole counts."""
    side = config.text_config if kind is CLIPTextModelWithProjection else config.vision_config
    side.projection_dim = config.projection_dim
    return side


def _onnx_config(model: PreTrainedModel) -> TextEncoderOnnxConfig:
    """Optimum's description of the model, but of token ids and a mask to token vectors, whatever else it can do.

    Without token_type_ids: of a single text they are all zero, which is the default.
    """
    try:
        known = TasksManager.get_exporter_config_constructor(
            "onnx", model=model, task=_TASK, library_name="transformers"
        ).func
    except (KeyError, ValueError):  # optimum does not know the architecture; tracing may do all the same
        known = TextEncoderOnnxConfig
    base = known if issubclass(known, TextEncoderOnnxConfig) else TextEncoderOnnxConfig

    class TokenVectors(base):  # type: ignore[misc, valid-type]
        NORMALIZED_CONFIG_CLASS = getattr(base, "NORMALIZED_CONFIG_CLASS", None) or NormalizedTextConfig
        inputs = dict.fromkeys(GRAPH_INPUTS, _AXES)
        outputs = {TOKEN_VECTORS: _AXES}  # noqa: RUF012

    return TokenVectors(model.config, task=_TASK)


def _usable_positions(model: PreTrainedModel) -> int | None:
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            # RoBERTa and its kin number the positions from the padding's id on.
            padding = getattr(module, "padding_idx", None)
            return table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0)
    return None
