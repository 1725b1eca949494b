"""Write small random late-interaction checkpoints in the layouts of sentence-transformers, PyLate, ColBERT and bge-m3.

They need transformers 5. The settings are those of published models, except for the sizes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import save_file
from tokenizers import AddedToken

from tests import vocabularies
from tests.checkpoints import write_json

LIMIT, DIMENSION = 48, 16
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
DENSE = "sentence_transformers.base.modules.dense.Dense"
NORMALIZE = "sentence_transformers.sentence_transformer.modules.normalize.Normalize"
MASK = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
PYLATE_DENSE = "pylate.models.Dense.Dense"
OLD = "sentence_transformers.models."
IDENTITY = "torch.nn.modules.linear.Identity"
OUTPUT = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
FIXED = {"strategy": "fixed", "attend": False, "token": None, "length": 24}

METADATA = {
    "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_maxlen": 20, "doc_maxlen": 36,
    "mask_punctuation": True, "attend_to_mask_tokens": False,
}  # fmt: skip


def bert(directory: Path, architecture: str | None = None) -> t.PreTrainedTokenizerBase:
    """Write a BERT without a tokenizer, and return its tokenizer. [unused0] and [unused1] are in its vocabulary."""
    words = vocabularies.wordpiece([*vocabularies.BERT_SPECIAL, "[unused0]", "[unused1]"]).get_vocab()
    tokenizer = t.BertTokenizer(vocab=words, model_max_length=LIMIT)
    config = t.BertConfig(vocab_size=len(words), max_position_embeddings=64, **SIZES)
    _save(t.BertModel(config), directory, architecture)
    return tokenizer


def modernbert(directory: Path) -> t.PreTrainedTokenizerBase:
    """Write a ModernBERT without a tokenizer, and return its tokenizer, which has "[Q] " and "[D] " as tokens."""
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=vocabularies.wordpiece(), model_max_length=LIMIT, mask_token="[MASK]", **special
    )
    tokenizer.add_tokens([AddedToken("[Q] "), AddedToken("[D] ")])
    config = t.ModernBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, local_attention=64, pad_token_id=0, **SIZES
    )
    _save(t.ModernBertModel(config), directory)
    return tokenizer


def xlm_roberta(directory: Path) -> t.PreTrainedTokenizerBase:
    """Write an XLM-RoBERTa without a tokenizer, and return its tokenizer."""
    model = json.loads(vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A").to_str())["model"]
    pieces = [tuple(piece) for piece in model["vocab"]]
    tokenizer = t.XLMRobertaTokenizer(vocab=pieces, model_max_length=LIMIT)
    config = t.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=80, type_vocab_size=1, **SIZES)
    _save(t.XLMRobertaModel(config), directory)
    return tokenizer


Body = Callable[[Path], t.PreTrainedTokenizerBase]


def write_own(
    directory: Path,
    body: Body = bert,
    *,
    mask: dict[str, Any] | None = None,
    prompts: dict[str, str] | None = None,
    similarity: str = "maxsim",
    residual: bool = False,
    **settings: object,
) -> Path:
    """Write a checkpoint as sentence-transformers 6.2 saves it. `settings` are those of its Transformer."""
    body(directory).save_pretrained(directory)
    kinds = [TRANSFORMER, DENSE, *([DENSE] if residual else []), MASK, NORMALIZE]
    _write_modules(directory, kinds)
    write_json(directory / "sentence_bert_config.json", OUTPUT | settings)
    if residual:
        _write_dense(directory / "1_Dense", 32, 64, residual=True, module_input_name="token_embeddings")
        _write_dense(directory / "2_Dense", 64, DIMENSION, bias=True, module_input_name="token_embeddings")
    else:
        _write_dense(directory / "1_Dense", 32, DIMENSION, module_input_name="token_embeddings")
    count = len(kinds)
    write_json(directory / f"{count - 2}_MultiVectorMask/config.json", mask or {"skiplist_words": PUNCTUATION})
    write_json(directory / f"{count - 1}_Normalize/config.json", {"module_input_name": "token_embeddings"})
    declared = {"model_type": "MultiVectorEncoder", "prompts": prompts or {}, "similarity_fn_name": similarity}
    write_json(directory / "config_sentence_transformers.json", declared)
    return directory


def write_pylate(directory: Path, body: Body = modernbert, *, declares: bool = True, **declared: object) -> Path:
    """Write a checkpoint as PyLate saves it, such as lightonai/GTE-ModernColBERT-v1.

    Args:
        directory: the new directory.
        body: writes the transformer.
        declares: whether it declares its model type. The first versions of PyLate do not.
        **declared: further settings of config_sentence_transformers.json.
    """
    body(directory).save_pretrained(directory)
    _write_modules(directory, [f"{OLD}Transformer", PYLATE_DENSE])
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 39, "do_lower_case": False})
    _write_dense(directory / "1_Dense", 32, DIMENSION)
    own: dict[str, object] = {
        "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim" if declares else None,
        "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 24, "document_length": 40,
        "attend_to_expansion_tokens": False, "skiplist_words": PUNCTUATION,
    }  # fmt: skip
    own |= {"model_type": "ColBERT"} if declares else {}
    write_json(directory / "config_sentence_transformers.json", own | declared)
    return directory


def write_stanford(directory: Path, metadata: dict[str, Any] | None) -> Path:
    """Write a checkpoint as Stanford's ColBERT saves it, such as colbert-ir/colbertv2.0."""
    bert(directory, "HF_ColBERT").save_pretrained(directory)
    if metadata is not None:
        write_json(directory / "artifact.metadata", metadata)
    return directory


def write_flag(directory: Path) -> Path:
    """Write an embedder with a third head, as BAAI/bge-m3 has it."""
    xlm_roberta(directory).save_pretrained(directory)
    _write_modules(directory, [f"{OLD}{kind}" for kind in ("Transformer", "Pooling", "Normalize")])
    write_json(directory / "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    torch.manual_seed(5)
    torch.save(torch.nn.Linear(32, 32).state_dict(), directory / "colbert_linear.pt")
    return directory


def _save(model: t.PreTrainedModel, directory: Path, architecture: str | None = None) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    if architecture is None:
        model.save_pretrained(directory)
        return
    weights = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
    directory.mkdir()
    weights["linear.weight"] = torch.randn(DIMENSION, SIZES["hidden_size"])
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    write_json(directory / "config.json", model.config.to_dict() | {"architectures": [architecture]})


def _write_modules(directory: Path, types: list[str]) -> None:
    entries = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name.rpartition('.')[2]}" if index else "",
            "type": name,
        }
        for index, name in enumerate(types)
    ]
    write_json(directory / "modules.json", entries)


def _write_dense(
    directory: Path, width: int, dimension: int, *, bias: bool = False, residual: bool = False, **names: str
) -> None:
    torch.manual_seed(width)
    settings = {"in_features": width, "out_features": dimension, "bias": bias, "activation_function": IDENTITY}
    weights = {"linear.weight": torch.randn(dimension, width)}
    if bias:
        weights["linear.bias"] = torch.randn(dimension)
    if residual:
        settings["use_residual"] = True
        weights["residual.weight"] = torch.randn(dimension, width)
    write_json(directory / "config.json", settings | names)
    save_file(weights, directory / "model.safetensors")
