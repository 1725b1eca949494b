"""Second stage: the transformer as an ONNX graph, by optimum; and its tokenizer, as sentence-transformers uses it."""

import gc
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from embedder.manifest import GRAPH_INPUTS
from optimum.exporters.onnx import export
from optimum.exporters.onnx.config import TextEncoderOnnxConfig
from optimum.exporters.tasks import TasksManager
from optimum.utils import NormalizedTextConfig
from tokenizers.normalizers import Lowercase, Normalizer, Sequence
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.graphs import save_graph

_TASK = "feature-extraction"
_TOKEN_VECTORS = "last_hidden_state"
_AXES = {0: "batch_size", 1: "sequence_length"}
# A checkpoint need not say how long a text may be; transformers then has an enormous number. Where not even positions
# are counted, texts are cut here, for attention takes memory by the square of their length.
_MOST_TOKENS = 1_000_000
_UNLIMITED = 8192


@dataclass(frozen=True)
class Body:
    """The transformer as a graph, and what the later stages must know of it.

    positions: what its configuration has as max_position_embeddings, if anything.
    places: rows of its table of positions that a text can use, if it has one.
    """

    graph: Path
    hidden_size: int
    attention_heads: int
    positions: int | None
    places: int | None


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer.json without limit or padding of its own, and the settings that the manifest carries."""

    json: str
    max_seq_length: int
    pad_id: int
    special_ids: tuple[int, ...]


def convert_body(checkpoint: Checkpoint, directory: Path) -> Body:
    """Trace the transformer of `checkpoint` in float32 to its token vectors, and write the graph to a new `directory`.

    Batch and sequence axes are dynamic. Of an encoder and decoder it takes the encoder, as sentence-transformers does.
    Eager attention, because that is the form whose pattern onnxruntime's fusions know.
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
        places = _places(model)
        del model
        gc.collect()
        graph = onnx.load(traced, load_external_data=False)
        inputs = {value.name for value in graph.graph.input}
        if inputs != set(GRAPH_INPUTS):
            raise CheckpointError(f"{checkpoint.name} needs the inputs {sorted(inputs)}, which are not supported")
        path = save_graph(graph, directory, source=traced.parent)
    positions = getattr(config, "max_position_embeddings", None)
    if positions == -1:  # XLNet's way to say that there is no such number
        positions = None
    return Body(path, hidden_size, getattr(config, "num_attention_heads", 0), positions, places)


def convert_tokenizer(checkpoint: Checkpoint, body: Body) -> ConvertedTokenizer:
    """The tokenizer as sentence-transformers sets it up: with tokenizer_config.json and `do_lower_case` applied."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.transformer, trust_remote_code=False)
        _check_tokenizer(tokenizer)
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        if checkpoint.lowercase:
            backend.normalizer = _with_lowercase(backend.normalizer)
        limit = _limit(checkpoint, body, tokenizer)
        special = backend.num_special_tokens_to_add(is_pair=False)
        if limit <= special:
            raise CheckpointError(f"at most {limit} tokens leave no place for a text beside {special} special tokens")
        special_ids = tuple(sorted(tokenizer.all_special_ids))
        return ConvertedTokenizer(backend.to_str(), limit, tokenizer.pad_token_id or 0, special_ids)
    except Exception as error:  # the libraries raise whatever the damaged file led to
        raise CheckpointError(f"the tokenizer of {checkpoint.name} cannot be used: {error}") from error


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise CheckpointError("it is not a fast one, and transformers cannot make one of it")
    if tokenizer.truncation_side != "right":
        raise CheckpointError("it cuts long texts at their start, which is not supported")
    if tokenizer.split_special_tokens:
        raise CheckpointError("it splits special tokens (split_special_tokens), which is not supported")
    if "token_type_ids" in tokenizer.model_input_names and any(tokenizer("two words")["token_type_ids"]):
        raise CheckpointError("it gives other token types than 0, which is not supported")


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
        outputs = {_TOKEN_VECTORS: _AXES}  # noqa: RUF012

    return TokenVectors(model.config, task=_TASK)


def _places(model: PreTrainedModel) -> int | None:
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            # RoBERTa and its kin number the positions from the padding's id on.
            padding = getattr(module, "padding_idx", None)
            return table.num_embeddings - (padding + 1 if isinstance(padding, int) else 0)
    return None


def _with_lowercase(normalizer: Normalizer | None) -> Normalizer:
    """`normalizer` after lower-casing, unless it does that itself."""
    steps = list(normalizer) if isinstance(normalizer, Sequence) else [] if normalizer is None else [normalizer]
    if any(isinstance(step, Lowercase) for step in steps):
        return normalizer
    return Sequence([Lowercase(), *steps])


def _limit(checkpoint: Checkpoint, body: Body, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens of a text: the checkpoint's own, else the tokenizer's; never more than there are places for."""
    limit = checkpoint.max_seq_length
    if limit is None:
        limit = min(tokenizer.model_max_length, body.positions or tokenizer.model_max_length)
    limit = int(limit) if limit <= _MOST_TOKENS else _UNLIMITED
    if limit < 1:
        raise CheckpointError(f"a text can have no more than {limit} tokens")
    return limit if body.places is None else min(limit, body.places)
