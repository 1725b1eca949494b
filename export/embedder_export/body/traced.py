"""Convert by tracing: optimum traces the model in torch. This serves models without a native builder."""

import gc
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import onnx_ir as ir
import torch
import transformers
from embedder.artifact.manifest import GRAPH_INPUTS, IMAGE, IMAGE_INPUTS, RANK, TEXT, TOKEN_TYPE_IDS
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from optimum.exporters.onnx import export, model_configs
from optimum.exporters.onnx.config import OnnxConfig, TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from embedder_export.body.contract import ALL_TOKENS, POOLED, TOKEN_VECTORS, Body, BodyRequest, BodySizes
from embedder_export.body.fuse import AttentionSizes, fused_forms
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError, library_failure
from embedder_export.families.family import TracedTower
from embedder_export.graph.files import save_graph

_OPTIMUM_TASK, _CLASSIFICATION = "feature-extraction", "text-classification"
# The output's name of a sequence classifier.
_LOGITS = "logits"
_BATCH_AXIS = {0: "batch_size"}
_TOKEN_AXES = _BATCH_AXIS | {1: "sequence_length"}
# For each modality, the inputs of its graph and their axes of variable size.
_INPUTS = {TEXT: (GRAPH_INPUTS, _TOKEN_AXES), IMAGE: (IMAGE_INPUTS, _BATCH_AXIS)}


@dataclass(frozen=True)
class _Tracing:
    """The settings to trace a transformer.

    Attributes:
        inputs: the inputs that its graph must have.
        choose_class: returns its class in transformers and its configuration, from the checkpoint's configuration.
        describe: returns optimum's description of its inputs and outputs.
        needs_pooler: whether its result depends on a pooler. Token vectors do not.
    """

    inputs: tuple[str, ...]
    choose_class: Callable[[PretrainedConfig], tuple[Any, PretrainedConfig]]
    describe: Callable[[PreTrainedModel], OnnxConfig]
    needs_pooler: bool = False


def trace_bodies(checkpoint: Checkpoint, directory: Path, request: BodyRequest = ALL_TOKENS) -> dict[str, Body]:
    """Trace each transformer of `checkpoint` in float32. The files go to a new `directory`.

    Args:
        checkpoint: what to trace.
        directory: a new directory for the files.
        request: what the later stages need. The graph of a text transformer gives all token vectors all the same.

    Raises:
        CheckpointError: transformers cannot load it, optimum cannot convert it, or weights are missing or not finite.

    Example:
        >>> checkpoint = read_checkpoint("checkpoints/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> trace_bodies(checkpoint, Path("bodies"))["text"].sizes.width  # doctest: +SKIP
        384
    """
    if not checkpoint.family.towers:
        if checkpoint.task == RANK and not checkpoint.layers:
            return {TEXT: _trace_classifier(checkpoint, directory, request)}
        return {TEXT: trace_text_encoder(checkpoint, directory, request)}
    directory.mkdir()
    return {
        modality: _trace_tower(checkpoint, directory / modality, modality) for modality in checkpoint.family.modalities
    }


def trace_text_encoder(checkpoint: Checkpoint, directory: Path, request: BodyRequest = ALL_TOKENS) -> Body:
    """Trace a text transformer up to its token vectors.

    Of a model with an encoder and a decoder, the encoder is traced, as sentence-transformers uses it. The
    implementation of attention is "eager", because onnxruntime's fusions know its pattern.

    Raises:
        CheckpointError: as `trace_bodies`.
    """
    inputs = _text_inputs(checkpoint, request)
    describe = partial(_describe_text_model, inputs=inputs, task=_OPTIMUM_TASK, outputs={TOKEN_VECTORS: _TOKEN_AXES})
    return _trace_text_model(checkpoint, directory, _Tracing(inputs, _text_class, describe))


def _trace_classifier(checkpoint: Checkpoint, directory: Path, request: BodyRequest) -> Body:
    """Trace a sequence classifier up to its logits."""
    inputs = _text_inputs(checkpoint, request)
    describe = partial(_describe_text_model, inputs=inputs, task=_CLASSIFICATION, outputs={_LOGITS: _BATCH_AXIS})
    classify = partial(_classifier_class, label_count=checkpoint.label_count)
    tracing = _Tracing(inputs, classify, describe, needs_pooler=True)
    body = _trace_text_model(checkpoint, directory, tracing)
    return Body(_as_pooled(body.forms), replace(body.sizes, width=checkpoint.label_count))


def _text_inputs(checkpoint: Checkpoint, request: BodyRequest) -> tuple[str, ...]:
    """Return the inputs of a graph of texts. A model without a table of token types ignores token type ids."""
    has_types = (getattr(_read_config(checkpoint), "type_vocab_size", None) or 0) > 0
    return (*GRAPH_INPUTS, TOKEN_TYPE_IDS) if request.token_types and has_types else GRAPH_INPUTS


def _classifier_class(config: PretrainedConfig, label_count: int) -> tuple[Any, PretrainedConfig]:
    if config.num_labels != label_count:
        config.num_labels = label_count
    return AutoModelForSequenceClassification, config


def _as_pooled(forms: Iterable[tuple[str, ir.Model]]) -> Iterator[tuple[str, ir.Model]]:
    """Yield `forms` with the name of vectors that need no pooling for their output."""
    for form, model in forms:
        (output,) = model.graph.outputs
        output.name = POOLED
        yield form, model


def _trace_text_model(checkpoint: Checkpoint, directory: Path, tracing: _Tracing) -> Body:
    model = _load(checkpoint, tracing)
    config, usable_positions = model.config, _usable_positions(model)
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise CheckpointError(f"optimum cannot convert {checkpoint.name}: its configuration has no hidden_size")
    vocabulary_size = _vocabulary_size(model)
    path = _trace(model, tracing, checkpoint, directory)
    del model
    gc.collect()
    positions = getattr(config, "max_position_embeddings", None)
    if positions == -1:  # XLNet has no limit, and states it as -1
        positions = None
    forms = fused_forms(path, AttentionSizes(width, getattr(config, "num_attention_heads", 0)))
    return Body(forms, BodySizes(width, positions, usable_positions, vocabulary_size))


def _trace_tower(checkpoint: Checkpoint, directory: Path, modality: str) -> Body:
    """Trace one of the model's towers up to its projection."""
    tower, (inputs, _) = checkpoint.family.towers[modality], _INPUTS[modality]
    tracing = _Tracing(
        inputs,
        lambda config: (getattr(transformers, tower.model_class), _tower_config(config, tower)),
        lambda model: _describe_tower(model, tower, modality),
    )
    model = _load(checkpoint, tracing)
    sizes = tower.sizes(model.config)
    graph = ir.load(_trace(model, tracing, checkpoint, directory))
    del model
    gc.collect()
    (output,) = (value for value in graph.graph.outputs if value.name == tower.output)
    output.name = POOLED
    graph.graph.outputs[:] = [output]
    RemoveUnusedNodesPass()(graph)
    return Body([("traced", graph)], sizes)


def _tower_config(config: PretrainedConfig, tower: TracedTower) -> PretrainedConfig:
    """Return a tower's own configuration, with the projection_dim of the whole model."""
    own: PretrainedConfig = getattr(config, tower.config_name)
    own.projection_dim = config.projection_dim
    return own


def _text_class(config: PretrainedConfig) -> tuple[Any, PretrainedConfig]:
    return AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel, config


def _read_config(checkpoint: Checkpoint) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(checkpoint.transformer, trust_remote_code=False)
    except Exception as error:  # the libraries raise any class; this block holds only their call
        raise library_failure(f"transformers cannot load {checkpoint.name}", error) from error


def _load(checkpoint: Checkpoint, tracing: _Tracing) -> PreTrainedModel:
    """Load the model in float32, and check that its weights are complete and finite."""
    transformers_logging.disable_progress_bar()
    model_class, config = tracing.choose_class(_read_config(checkpoint))
    try:
        model, loading = model_class.from_pretrained(
            checkpoint.transformer,
            config=config,
            attn_implementation="eager",
            dtype=torch.float32,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # the libraries raise any class; this block holds only their call
        raise library_failure(f"transformers cannot load {checkpoint.name}", error) from error
    _check_weights(checkpoint, model, loading["missing_keys"], () if tracing.needs_pooler else ("pooler.",))
    return cast(PreTrainedModel, model.eval())


def _check_weights(
    checkpoint: Checkpoint, model: PreTrainedModel, missing_names: Collection[str], unused: tuple[str, ...]
) -> None:
    """Check that the weights are complete and finite, except those whose names begin with one of `unused`."""
    # transformers fills missing weights with random numbers.
    missing = sorted(name for name in missing_names if not name.startswith(unused))
    if missing:
        raise CheckpointError(f"the weights of {checkpoint.name} lack {', '.join(missing[:3])} ({len(missing)} in all)")
    for name, parameter in model.named_parameters():
        if not name.startswith(unused) and not torch.isfinite(parameter).all():
            raise CheckpointError(f"the weights of {checkpoint.name} are not finite: {name} has NaN or infinity in it")


def _trace(model: PreTrainedModel, tracing: _Tracing, checkpoint: Checkpoint, directory: Path) -> Path:
    """Trace `model` to a graph in a new `directory`, and check that it takes the inputs of `tracing`."""
    with TemporaryDirectory(dir=directory.parent) as scratch:
        traced = Path(scratch) / "model.onnx"
        try:
            _export(model, tracing.describe(model), traced)
        except Exception as error:  # the libraries raise any class; this block holds only their call
            raise library_failure(f"optimum cannot convert {checkpoint.name}", error) from error
        graph = ir.load(traced)
        inputs = {str(value.name) for value in graph.graph.inputs}
        if inputs != set(tracing.inputs):
            raise CheckpointError(f"{checkpoint.name} needs the inputs {sorted(inputs)}, which are not supported")
        # In graphs over 2 GB, large constants of nodes lie in files too. Later stages expect only initializers there.
        LiftConstantsToInitializersPass(lift_all_constants=True)(graph)
        return save_graph(graph, directory)


def _export(model: PreTrainedModel, onnx_config: OnnxConfig, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of possible faults; `verify` finds the real ones
        export(model, onnx_config, path)


def _describe_text_model(
    model: PreTrainedModel, *, inputs: Sequence[str], task: str, outputs: Mapping[str, Mapping[int, str]]
) -> OnnxConfig:
    """Describe the graph for optimum.

    Args:
        model: the model to trace.
        inputs: the names of its inputs. Without token_type_ids all types are zero, as in a single text.
        task: optimum's name of what it gives.
        outputs: the names of its outputs, each with its axes of variable size.
    """
    try:
        known = TasksManager.get_exporter_config_constructor(
            "onnx", model=model, task=task, library_name="transformers"
        ).func
    except (KeyError, ValueError):  # optimum does not know the architecture, but may be able to trace it
        known = TextEncoderOnnxConfig
    base: Any = known if issubclass(known, TextEncoderOnnxConfig) else TextEncoderOnnxConfig

    given, wanted = dict.fromkeys(inputs, _TOKEN_AXES), dict(outputs)

    class TextModel(base):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS = getattr(base, "NORMALIZED_CONFIG_CLASS", None) or NormalizedTextConfig
        inputs = given
        outputs = wanted

    return cast(OnnxConfig, TextModel(model.config, task=task))


def _describe_tower(model: PreTrainedModel, tower: TracedTower, modality: str) -> OnnxConfig:
    """Describe the graph of a tower for optimum: the manifest's inputs go in, the projection comes out."""
    base: Any = getattr(model_configs, tower.onnx_config)
    names, axes = _INPUTS[modality]

    class Features(base):  # type: ignore[misc]
        inputs = dict.fromkeys(names, axes)
        outputs = {tower.output: _BATCH_AXIS}  # noqa: RUF012

    return cast(OnnxConfig, Features(model.config, task=_OPTIMUM_TASK))


def _usable_positions(model: PreTrainedModel) -> int | None:
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            # RoBERTa and its relatives reserve the positions up to the padding's id.
            padding = getattr(module, "padding_idx", None)
            usable: int = table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0)
            return usable
    return None


def _vocabulary_size(model: PreTrainedModel) -> int | None:
    table = model.get_input_embeddings()
    rows: int | None = table.num_embeddings if isinstance(table, torch.nn.Embedding) else None
    return rows
