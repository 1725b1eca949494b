"""Small random checkpoints of models with rotary positions, in the layouts of transformers 5 and of the Hub.

They need transformers 5. The settings are those of published models, except for the sizes.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as t
from safetensors.torch import load_file, save_file

from tests import vocabularies
from tests.checkpoints import write_json, write_modules
from tests.decoders import gemma_tokenizer

ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# Most tokens of a text of the checkpoints, and of the published models. The vocabularies of the tests have a token for
# each letter, and attention over long texts takes much memory in torch.
LIMIT, LONGEST = 300, 8192
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class RotaryModel:
    """A small model of a family.

    Attributes:
        model_class: its class in transformers.
        settings: the settings of its config.json by transformers' names.
        tokenizer: makes its tokenizer.
        pooling: "mean" or "cls".
        to_hub: returns the content of config.json and the weights in the Hub's layout, from those of transformers.
    """

    model_class: type
    settings: dict[str, Any]
    tokenizer: Callable[[], t.PreTrainedTokenizerBase]
    pooling: str
    to_hub: Callable[[dict[str, Any], Weights], tuple[dict[str, Any], Weights]]


def wordpiece() -> t.PreTrainedTokenizerBase:
    """Make a tokenizer like BERT's."""
    return t.BertTokenizer(vocab=vocabularies.wordpiece().get_vocab(), model_max_length=LIMIT)


def general() -> t.PreTrainedTokenizerBase:
    """Make a tokenizer without a class of its own, as ModernBERT has it."""
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return t.PreTrainedTokenizerFast(
        tokenizer_object=vocabularies.wordpiece(), model_max_length=LIMIT, mask_token="[MASK]", **special
    )


def gemma() -> t.PreTrainedTokenizerBase:
    """Make a tokenizer like Gemma's, as mmBERT has it."""
    backend = gemma_tokenizer()
    model = json.loads(backend.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = t.GemmaTokenizer(vocab=model["vocab"], merges=merges, cls_token="<bos>", model_max_length=LIMIT)
    tokenizer.backend_tokenizer.post_processor = backend.post_processor
    return tokenizer


def modernbert_to_hub(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Return the layout of nomic-ai/modernbert-embed-base, as transformers 4 saved it."""
    ropes = config.pop("rope_parameters")
    del config["layer_types"]
    older = {
        "global_attn_every_n_layers": 3, "global_rope_theta": ropes["full_attention"]["rope_theta"],
        "layer_norm_eps": 1e-5, "local_rope_theta": ropes["sliding_attention"]["rope_theta"],
        "position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.48.0",
    }  # fmt: skip
    return config | older, weights


def nomic_to_hub(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Return the layout of nomic-ai/nomic-embed-text-v1.5."""
    repository = "nomic-ai/nomic-bert-2048--"
    hub = {
        "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0,
        "auto_map": {
            "AutoConfig": f"{repository}configuration_hf_nomic_bert.NomicBertConfig",
            "AutoModel": f"{repository}modeling_hf_nomic_bert.NomicBertModel",
            "AutoModelForMaskedLM": f"{repository}modeling_hf_nomic_bert.NomicBertForPreTraining",
        },
        "bos_token_id": None, "causal": False, "dense_seq_output": True, "embd_pdrop": 0.0, "eos_token_id": None,
        "fused_bias_fc": True, "fused_dropout_add_ln": True, "initializer_range": 0.02,
        "layer_norm_epsilon": config["layer_norm_eps"], "max_trained_positions": 2048, "mlp_fc1_bias": False,
        "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"], "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"], "n_positions": 8192, "pad_vocab_size_multiple": 1,
        "parallel_block": False, "parallel_block_tied_norm": False, "prenorm": False, "qkv_proj_bias": False,
        "reorder_and_upcast_attn": False, "resid_pdrop": 0.0, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "rotary_scaling_factor": None,
        "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True, "torch_dtype": "float32",
        "transformers_version": "4.37.2", "type_vocab_size": config["type_vocab_size"], "use_cache": True,
        "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "vocab_size": config["vocab_size"],
    }  # fmt: skip
    names = [
        ("self_attn.o_proj", "attn.out_proj"), ("post_attention_layernorm", "norm1"), ("post_mlp_layernorm", "norm2"),
        ("mlp.up_proj", "mlp.fc11"), ("mlp.gate_proj", "mlp.fc12"), ("mlp.down_proj", "mlp.fc2"),
        ("^layers", "encoder.layers"), ("embeddings.LayerNorm", "emb_ln"),
    ]  # fmt: skip
    return hub, renamed(stacked(weights, "self_attn.{}_proj", "qkv", "attn.Wqkv"), names)


def unigram() -> t.PreTrainedTokenizerBase:
    """Make a tokenizer like XLM-RoBERTa's."""
    model = json.loads(vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A").to_str())["model"]
    return t.XLMRobertaTokenizer(vocab=[tuple(piece) for piece in model["vocab"]], model_max_length=LIMIT)


def gte_to_hub(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Return the layout of Alibaba-NLP/gte-multilingual-base."""
    repository = "Alibaba-NLP/new-impl--"
    rope = config["rope_parameters"]
    kept = (
        "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "type_vocab_size", "vocab_size",
    )  # fmt: skip
    hub = {
        "architectures": ["NewModel"], "attention_probs_dropout_prob": 0.0,
        "auto_map": {
            "AutoConfig": f"{repository}configuration.NewConfig",
            "AutoModel": f"{repository}modeling.NewModel",
            "AutoModelForMaskedLM": f"{repository}modeling.NewForMaskedLM",
            "AutoModelForSequenceClassification": f"{repository}modeling.NewForSequenceClassification",
        },
        "classifier_dropout": 0.0, "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
        "layer_norm_type": "layer_norm", "logn_attention_clip1": False, "logn_attention_scale": False,
        "model_type": "new", "pack_qkv": True, "pad_token_id": 1, "position_embedding_type": "rope",
        "rope_scaling": None, "rope_theta": rope["rope_theta"], "torch_dtype": "float16",
        "transformers_version": "4.39.1", "unpad_inputs": False, "use_memory_efficient_attention": False,
        **{key: config[key] for key in kept},
    }  # fmt: skip
    weights = stacked(weights, "self_attn.{}_proj", "qkv", "attention.qkv_proj")
    weights = stacked(weights, "mlp.{}_proj", ["up", "gate"], "mlp.up_gate_proj")
    names = [
        ("self_attn.o_proj", "attention.o_proj"), ("post_attention_layernorm", "attn_ln"),
        ("post_mlp_layernorm", "mlp_ln"), ("^layers", "encoder.layer"), ("^", "new."),
    ]  # fmt: skip
    return hub, renamed(weights, names) | {"classifier.weight": torch.zeros(2, config["hidden_size"])}


def jina_v3_to_hub(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Return the layout of jinaai/jina-embeddings-v3, without its adapters."""
    repository = "jinaai/xlm-roberta-flash-implementation--"
    kept = (
        "hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "type_vocab_size", "vocab_size",
    )  # fmt: skip
    hub = {
        "architectures": ["XLMRobertaModel"],
        "auto_map": {
            "AutoConfig": f"{repository}configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": f"{repository}modeling_lora.XLMRobertaLoRA",
            "AutoModelForMaskedLM": f"{repository}modeling_xlm_roberta.XLMRobertaForMaskedLM",
            "AutoModelForPreTraining": f"{repository}modeling_xlm_roberta.XLMRobertaForPreTraining",
        },
        "bos_token_id": 0, "emb_pooler": None, "eos_token_id": 2, "lora_adaptations": None, "model_type": "xlm-roberta",
        "output_past": True, "pad_token_id": 1, "position_embedding_type": "rotary",
        "rotary_emb_base": config["rope_parameters"]["rope_theta"], "torch_dtype": "bfloat16",
        "transformers_version": "4.30.2", "use_cache": True, "use_flash_attn": True,
        **{key: config[key] for key in kept},
    }  # fmt: skip
    names = [
        ("self_attn.o_proj", "mixer.out_proj"), ("post_attention_layernorm", "norm1"), ("post_mlp_layernorm", "norm2"),
        ("^layers", "encoder.layers"), ("embeddings.LayerNorm", "emb_ln"), ("^", "roberta."),
    ]  # fmt: skip
    return hub, renamed(stacked(weights, "self_attn.{}_proj", "qkv", "mixer.Wqkv"), names)


def stacked(weights: Weights, part: str, parts: str | list[str], stack: str) -> Weights:
    """Return `weights` with `parts` of each layer stacked, in this order."""
    names = [part.format(one) for one in parts]
    found = {}
    for name, tensor in weights.items():
        inside = next((one for one in names if one in name), None)
        if inside is None:
            found[name] = tensor
        elif inside == names[0]:
            found[name.replace(inside, stack)] = torch.cat([weights[name.replace(inside, one)] for one in names])
    return found


def renamed(weights: Weights, names: list[tuple[str, str]]) -> Weights:
    """Return `weights` with regular expressions replaced in their names."""
    found = {}
    for name, tensor in weights.items():
        for old, new in names:
            name = re.sub(old, new, name)
        found[name] = tensor
    return found


MODELS = {
    "nomic-embed-text-v1.5": RotaryModel(
        t.NomicBertModel, {"max_position_embeddings": 2048, "type_vocab_size": 2}, wordpiece, "mean", nomic_to_hub
    ),
    "gte-base-en-v1.5": RotaryModel(
        t.GteModel,
        {"type_vocab_size": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        wordpiece,
        "cls",
        gte_to_hub,
    ),
    "gte-multilingual-base": RotaryModel(
        t.GteModel,
        {"type_vocab_size": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        unigram,
        "cls",
        gte_to_hub,
    ),
    "jina-embeddings-v3": RotaryModel(t.JinaEmbeddingsV3Model, {"type_vocab_size": 1}, unigram, "mean", jina_v3_to_hub),
    "modernbert-embed-base": RotaryModel(
        t.ModernBertModel,
        {"num_hidden_layers": 5, "local_attention": 128, "pad_token_id": 0},
        general,
        "mean",
        modernbert_to_hub,
    ),
    "mmBERT-small": RotaryModel(
        t.ModernBertModel,
        {
            "num_hidden_layers": 4,
            "pad_token_id": 0,
            "local_attention": 128,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 160000.0},
            },
        },
        gemma,
        "mean",
        modernbert_to_hub,
    ),
}


def write_rotary(directory: Path, name: str, *, labels: int = 0, **settings: object) -> Path:
    """Write a model of `MODELS` as sentence-transformers saves it, in the layout of transformers 5.

    Args:
        directory: the new directory.
        name: a name in `MODELS`.
        labels: number of labels of a sequence classifier. 0 writes an embedder.
        **settings: settings of config.json that replace those of the model.
    """
    model = MODELS[name]
    tokenizer = model.tokenizer()
    model_class = model.model_class
    if labels:
        model_class = getattr(t, model_class.__name__.removesuffix("Model") + "ForSequenceClassification")
        settings["num_labels"] = labels
    config = model_class.config_class(vocab_size=len(tokenizer), **(SIZES | model.settings | settings))
    torch.manual_seed(0)
    body = model_class(config)
    with torch.no_grad():
        for parameter in body.parameters():  # training leaves biases and scales that are not 0 and 1
            parameter.add_(torch.randn(parameter.shape), alpha=0.15)
    body.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if not labels:
        write_modules(directory, ["Transformer", "Pooling", "Normalize"])
        modes = {f"pooling_mode_{mode}": mode.startswith(model.pooling) for mode in ("cls_token", "mean_tokens")}
        write_json(directory / "1_Pooling/config.json", {"word_embedding_dimension": config.hidden_size} | modes)
        write_json(directory / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    return directory


def convert_to_hub(directory: Path, name: str, **settings: object) -> Path:
    """Give a checkpoint the Hub's layout, with further `settings` of its config.json."""
    path = directory / "config.json"
    config, weights = MODELS[name].to_hub(read_config(directory), load_file(directory / "model.safetensors"))
    path.write_text(json.dumps(config | settings), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    return directory


def read_config(directory: Path) -> dict[str, Any]:
    """Return the content of config.json."""
    return json.loads((directory / "config.json").read_text(encoding="utf-8"))
