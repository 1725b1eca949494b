"""Write small random checkpoints in the layouts of sentence-transformers' repositories."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.vocabularies import wordpiece

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VOCABULARY_SIZE = wordpiece().get_vocab_size()
OLD_TYPES = "sentence_transformers.models."
NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}
OLD_POOLING = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
NEW_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
NEW_POOLING = {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}


def write_checkpoint(
    directory: Path,
    *,
    modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    types: dict[str, str] | None = None,
    pooling: dict[str, object] = OLD_POOLING,
    transformer: dict[str, object] | None = None,
    config: dict[str, object] | None = None,
    lowercase: bool = True,
    folder: str = "",
    limits_name: str = "sentence_bert_config.json",
    positions: int = 64,
    seed: int = 0,
) -> Path:
    """Write the checkpoint of a BERT with two layers, width 32 and a vocabulary of letters.

    Args:
        directory: the new directory.
        modules: the module classes of modules.json.
        types: the full type of a module class, if it is not the old one.
        pooling: the content of the pooling's config.json.
        transformer: the content of sentence-transformers' settings file of the transformer.
        config: the content of config_sentence_transformers.json. None leaves the file out.
        lowercase: whether the tokenizer lower-cases.
        folder: the transformer's folder in the checkpoint.
        limits_name: the name of sentence-transformers' settings file of the transformer.
        positions: most tokens of a text.
        seed: the seed of the weights.
    """
    torch.manual_seed(seed)
    shape = BertConfig(vocab_size=VOCABULARY_SIZE, max_position_embeddings=positions, **SMALL)
    directory.mkdir(parents=True)
    body = directory / folder
    BertModel(shape).save_pretrained(body)
    _tokenizer(lowercase).save_pretrained(body)
    write_modules(directory, modules, types=types, folder=folder)
    write_json(directory / "1_Pooling/config.json", pooling)
    write_json(body / limits_name, transformer or {"max_seq_length": 32, "do_lower_case": False})
    if config is not None:
        write_json(directory / "config_sentence_transformers.json", config)
    return directory


def write_modules(
    directory: Path, kinds: Sequence[str], *, types: dict[str, str] | None = None, folder: str = ""
) -> None:
    """Write modules.json. A module's folder is named after its number and kind; the transformer's is `folder`."""
    types = types or {}
    entries = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else folder,
            "type": types.get(kind, OLD_TYPES + kind),
        }
        for index, kind in enumerate(kinds)
    ]
    write_json(directory / "modules.json", entries)


def write_own_graph(
    directory: Path,
    output: str = "last_hidden_state",
    dtype: torch.dtype = torch.float32,
    opset: int = 14,
    **weights: torch.Tensor,
) -> None:
    """Write onnx/model.onnx, as repositories have it. The graph takes token types.

    Args:
        directory: the checkpoint's directory.
        output: the name of the graph's output.
        dtype: the number format of the graph.
        opset: the version of ONNX.
        **weights: weights that replace the model's.
    """
    model = BertModel.from_pretrained(directory, attn_implementation="eager").eval()
    model.load_state_dict(weights, strict=False)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    model.pooler = None
    path = directory / "onnx/model.onnx"
    path.parent.mkdir(exist_ok=True)
    ids = torch.ones((2, 3), dtype=torch.int64)
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            model.to(dtype),
            (ids, ids, 0 * ids),
            str(path),
            input_names=names,
            output_names=[output],
            dynamic_axes={name: {0: "batch_size", 1: "sequence_length"} for name in (*names, output)},
            opset_version=opset,
            dynamo=False,
        )


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path`. A missing parent directory is made."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, **changes: object) -> None:
    """Replace values of the JSON object in `path`."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def _tokenizer(lowercase: bool) -> BertTokenizerFast:
    tokenizer = wordpiece(lowercase=lowercase)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return BertTokenizerFast(
        tokenizer_object=tokenizer, do_lower_case=lowercase, strip_accents=False, model_max_length=48
    )
