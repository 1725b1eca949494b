"""Second stage: the transformer as an ONNX graph, by optimum; and its tokenizer, as sentence-transformers uses it."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from embedder.manifest import GRAPH_INPUTS
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager
from transformers import AutoModel, AutoTokenizer

from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError

_TASK = "feature-extraction"
_MOST_TOKENS = 1_000_000


@dataclass(frozen=True)
class BodyShape:
    """What the later stages must know of the transformer."""

    hidden_size: int
    attention_heads: int


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer.json without limit or padding of its own, and the settings that the manifest carries."""

    json: str
    max_seq_length: int
    pad_id: int
    padding_side: str


def convert_body(checkpoint: Checkpoint) -> tuple[onnx.ModelProto, BodyShape]:
    """Trace the transformer of `checkpoint` in float32, with batch and sequence axes dynamic, to its token vectors.

    Eager attention, because that is the form whose pattern onnxruntime's fusions know.
    """
    try:
        model = AutoModel.from_pretrained(
            checkpoint.transformer, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:  # it raises whatever the damaged file led to
        raise CheckpointError(f"transformers cannot load {checkpoint.name}: {error}") from error
    try:
        graph = _traced(model.eval())
    except Exception as error:  # as above, from several libraries
        raise CheckpointError(f"optimum cannot convert {checkpoint.name}: {error}") from error
    inputs = {value.name for value in graph.graph.input}
    if inputs != set(GRAPH_INPUTS):
        raise CheckpointError(f"{checkpoint.name} needs the inputs {sorted(inputs)}, which are not supported")
    return graph, BodyShape(model.config.hidden_size, model.config.num_attention_heads)


def convert_tokenizer(checkpoint: Checkpoint) -> ConvertedTokenizer:
    """The tokenizer as sentence-transformers sets it up: with tokenizer_config.json and `do_lower_case` applied."""
    from tokenizers.normalizers import Lowercase, Sequence

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.transformer, trust_remote_code=False)
    except Exception as error:  # as above
        raise CheckpointError(f"transformers cannot load the tokenizer of {checkpoint.name}: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{checkpoint.name} has no fast tokenizer")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if checkpoint.lowercase:
        backend.normalizer = Sequence([Lowercase(), *filter(None, [backend.normalizer])])
    return ConvertedTokenizer(
        json=backend.to_str(),
        max_seq_length=checkpoint.max_seq_length or _tokenizer_limit(checkpoint, tokenizer),
        pad_id=tokenizer.pad_token_id or 0,
        padding_side=tokenizer.padding_side,
    )


def _traced(model: Any) -> onnx.ModelProto:
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of much that may go wrong; `verify` sees whether it did
        onnx_export_from_model(
            model,
            Path(scratch),
            task=_TASK,
            do_validation=False,
            custom_onnx_configs={"model": _config_without_token_types(model)},
            library_name="transformers",
        )
        return onnx.load(Path(scratch) / "model.onnx")


def _config_without_token_types(model: Any) -> Any:
    """Optimum's description of the inputs, less token_type_ids: for a single text all zero, which is the default."""
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task=_TASK, library_name="transformers"
    )
    config_class = constructor.func

    class WithoutTokenTypes(config_class):  # type: ignore[misc, valid-type]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: axes for name, axes in super().inputs.items() if name != "token_type_ids"}

    return WithoutTokenTypes(model.config, *constructor.args, **constructor.keywords)


def _tokenizer_limit(checkpoint: Checkpoint, tokenizer: Any) -> int:
    limit = min(tokenizer.model_max_length, checkpoint.positions or tokenizer.model_max_length)
    if limit > _MOST_TOKENS:  # transformers' stand-in for "none given"
        raise CheckpointError(f"{checkpoint.name} says nowhere how long a text may be")
    return int(limit)
