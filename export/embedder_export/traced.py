"""The other converter: the transformer traced by optimum, for what no native builder knows. It needs torch."""

import gc
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import torch
from embedder.manifest import GRAPH_INPUTS
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from embedder_export.body import TOKEN_VECTORS, Body
from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.fuse import fused_forms
from embedder_export.graphs import save_graph

_TASK = "feature-extraction"
_AXES = {0: "batch_size", 1: "sequence_length"}


def trace_body(checkpoint: Checkpoint, directory: Path) -> Body:
    """Trace the transformer of `checkpoint` in float32 to its token vectors, by way of files in a new `directory`.

    Of an encoder and decoder it takes the encoder, as sentence-transformers does. Eager attention, because that is the
    form whose pattern onnxruntime's fusions know.
    """
    model = _load(checkpoint)
    config = model.config
    with TemporaryDirectory(dir=directory.parent) as scratch:
        traced = Path(scratch) / "model.onnx"
        try:
            _trace(model, traced)
            hidden_size = config.hidden_size
        except Exception as error:  # from several libraries
            raise CheckpointError(f"optimum cannot convert {checkpoint.name}: {error}") from error
        usable_positions = _usable_positions(model)
        del model
        gc.collect()
        graph = ir.load(traced)
        inputs = {value.name for value in graph.graph.inputs}
        if inputs != set(GRAPH_INPUTS):
            raise CheckpointError(f"{checkpoint.name} needs the inputs {sorted(inputs)}, which are not supported")
        # Past 2 GB large constants of nodes lie in files too, where only initializers are looked for later.
        LiftConstantsToInitializersPass(lift_all_constants=True)(graph)
        path = save_graph(graph, directory)
    positions = getattr(config, "max_position_embeddings", None)
    if positions == -1:  # XLNet's way to say that there is no such number
        positions = None
    forms = fused_forms(path, hidden_size, getattr(config, "num_attention_heads", 0))
    return Body(forms, hidden_size, positions, usable_positions)


def _load(checkpoint: Checkpoint) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(checkpoint.transformer, trust_remote_code=False)
        kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
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


def _trace(model: PreTrainedModel, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of much that may go wrong; `verify` sees whether it did
        export(model, _onnx_config(model), path)


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
