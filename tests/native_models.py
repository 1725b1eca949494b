"""Small random models of each native family, and the comparison of a graph with a model of transformers."""

import numpy as np
import onnxruntime
import torch
from embedder_export.body.contract import Body
from embedder_export.body.native import build_bodies
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.graph.files import save_graph
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.checkpoints import SMALL, write_checkpoint

# Rows of the word embeddings, and most tokens of a text.
ROWS, LENGTH = 90, 40
SIZES = {"vocab_size": ROWS, "max_position_embeddings": LENGTH + 4, **SMALL}
DISTILBERT = {"vocab_size": ROWS, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}
T5 = {"vocab_size": ROWS, "d_model": 32, "d_ff": 48, "d_kv": 12, "num_layers": 2, "num_heads": 3}
QWEN3 = SIZES | {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
FAMILIES = {
    "bert": (BertModel, BertConfig, SIZES),
    "distilbert": (DistilBertModel, DistilBertConfig, DISTILBERT),
    "roberta": (RobertaModel, RobertaConfig, SIZES),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig, SIZES),
    "camembert": (CamembertModel, CamembertConfig, SIZES),
    "mpnet": (MPNetModel, MPNetConfig, SIZES),
    "albert": (AlbertModel, AlbertConfig, SIZES | {"embedding_size": 16}),
    "electra": (ElectraModel, ElectraConfig, SIZES | {"embedding_size": 16}),
    "qwen3": (Qwen3Model, Qwen3Config, QWEN3),
    "t5": (T5EncoderModel, T5Config, T5),
}


def write_model(family: str, directory, **changes) -> PreTrainedModel:
    """Write a checkpoint with a random model of `family`, and return the model. The tokenizer has no role here."""
    model_class, config_class, sizes = FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(attn_implementation="eager", **(sizes | changes)))
    with torch.no_grad():
        for parameter in model.parameters():  # training leaves biases and scales that are not 0 and 1
            parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    write_checkpoint(directory)
    model.save_pretrained(directory)
    return model.eval()


def session_of(body: Body, directory):
    """Save the first form of `body` to a new `directory`, and return onnxruntime's session of it."""
    _, model = next(iter(body.forms))
    return onnxruntime.InferenceSession(save_graph(model, directory))


def native_session(checkpoint, directory):
    """Build the graph natively, save it to a new `directory`, and return onnxruntime's session of it."""
    return session_of(build_bodies(read_checkpoint(str(checkpoint)))["text"], directory)


def batches(pad: int):
    """Yield token ids and masks of a batch with several lengths, and of single texts."""
    generator = np.random.default_rng(0)
    for rows, length in ((4, 20), (1, 1), (1, LENGTH)):
        ids = generator.integers(0, ROWS, (rows, length))
        mask = (np.arange(length) < np.linspace(length, 1, rows).astype(int)[:, None]).astype(np.int64)
        yield np.where(mask, ids, pad), mask


def assert_same(session, expected, pad: int):
    """Compare with `expected`, another session or a model of transformers."""
    for ids, mask in batches(pad):
        feed = {"input_ids": ids, "attention_mask": mask}
        (ours,) = session.run(None, feed)
        if isinstance(expected, PreTrainedModel):
            with torch.no_grad():
                tokens = expected(**{name: torch.from_numpy(value) for name, value in feed.items()})
            theirs = tokens.last_hidden_state.numpy()
        else:
            (theirs,) = expected.run(None, feed)
        difference = np.abs(ours - theirs)[mask.astype(bool)].max() / np.abs(theirs).max()
        assert difference < 3e-6


def pad_id(model) -> int:
    """Return the padding's id by which the model computes positions."""
    return 1 if model.config.model_type == "mpnet" else model.config.pad_token_id


def change_weights(checkpoint, change):
    """Replace the checkpoint's weights by the result of `change`, a function from weights to weights."""
    path = checkpoint / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
