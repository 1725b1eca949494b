"""Small random checkpoints of models that only code in repositories on the Hub knows. That code is never run.

They need transformers 5, which gives them weights of models with like layers. The settings are those of published
models, except for the sizes.
"""

import re
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_json, write_modules
from tests.rotary_models import (
    LIMIT,
    LONGEST,
    SIZES,
    convert_to_hub,
    read_config,
    renamed,
    stacked,
    unigram,
    wordpiece,
    write_rotary,
)


def write_jina_v2(directory: Path, *, labels: int = 0, **settings: object) -> Path:
    """Write a checkpoint in the layout of jinaai/jina-embeddings-v2-small-en. `labels` is as in `write_rotary`."""
    repository, tokenizer = "jinaai/jina-bert-implementation--", wordpiece()
    kind = t.BertForSequenceClassification if labels else t.BertModel
    sizes = SIZES | {"vocab_size": len(tokenizer), "type_vocab_size": 2, "layer_norm_eps": 1e-12, "num_labels": labels}
    config = {
        "architectures": [f"JinaBertFor{'SequenceClassification' if labels else 'MaskedLM'}"],
        "attention_probs_dropout_prob": 0.0, "attn_implementation": "torch",
        "auto_map": {
            "AutoConfig": f"{repository}configuration_bert.JinaBertConfig",
            "AutoModel": f"{repository}modeling_bert.JinaBertModel",
            "AutoModelForMaskedLM": f"{repository}modeling_bert.JinaBertForMaskedLM",
            "AutoModelForSequenceClassification": f"{repository}modeling_bert.JinaBertForSequenceClassification",
        },
        "emb_pooler": "mean", "feed_forward_type": "geglu", "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02, "max_position_embeddings": LONGEST, "model_max_length": LONGEST,
        "model_type": "bert", "pad_token_id": 0, "position_embedding_type": "alibi", "torch_dtype": "float32",
        "transformers_version": "4.26.0", "use_cache": True, **(sizes | settings),
    }  # fmt: skip
    if labels:
        config |= {"id2label": {str(label): f"LABEL_{label}" for label in range(labels)}}
    torch.manual_seed(0)
    body = kind(t.BertConfig(**{key: config.get(key, value) for key, value in sizes.items()}))
    weights = {name: tensor + 0.15 * torch.randn(tensor.shape) for name, tensor in body.state_dict().items()}
    width, inner = config["hidden_size"], config["intermediate_size"]
    if config["feed_forward_type"] != "original":
        weights = renamed(weights, [(r"(layer\.\d+)\.output\.LayerNorm", r"\1.mlp.layernorm")])
        weights = renamed(weights, [(r"(layer\.\d+)\.output\.dense", r"\1.mlp.wo")])
        for name in [name for name in weights if "intermediate" in name]:
            del weights[name]
        for index in range(config["num_hidden_layers"]):
            name = f"{'bert.' if labels else ''}encoder.layer.{index}.mlp.gated_layers.weight"
            weights[name] = 0.2 * torch.randn(2 * inner, width)
    tokenizer.save_pretrained(directory)
    write_json(directory / "config.json", config)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, directory / "model.safetensors")
    if not labels:
        write_json(directory / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
        write_modules(directory, ["Transformer", "Pooling"])
        write_json(directory / "1_Pooling/config.json", {"word_embedding_dimension": width, "pooling_mode": "mean"})
    return directory


def write_jina_code(directory: Path, *, labels: int = 0, **settings: object) -> Path:
    """Write a checkpoint in the layout of jinaai/jina-embeddings-v2-base-code. `labels` is as in `write_rotary`."""
    write_jina_v2(directory, labels=labels, **settings)
    config, path = read_config(directory), directory / "model.safetensors"
    references = {key: value.replace("implementation", "v2-qk-post-norm") for key, value in config["auto_map"].items()}
    write_json(directory / "config.json", config | {"auto_map": references})
    names = [
        (r"mlp\.gated_layers", "mlp.up_gated_layer"), (r"mlp\.wo", "mlp.down_layer"),
        (r"mlp\.layernorm", "layer_norm_2"),
    ]  # fmt: skip
    weights = renamed(load_file(path), names)
    for name in [name for name in weights if "layer_norm_2" in name]:
        for other in ("layer_norm_1", "attention.self.layer_norm_q", "attention.self.layer_norm_k"):
            weights[name.replace("layer_norm_2", other)] = weights[name] + 0.3 * torch.randn(config["hidden_size"])
    save_file(weights, path)
    return directory


def write_nomic_moe(directory: Path, **settings: object) -> Path:
    """Write a checkpoint in the layout of nomic-ai/nomic-embed-text-v2-moe."""
    name, width, inner, count = "nomic-embed-text-v1.5", SIZES["hidden_size"], SIZES["intermediate_size"], 4
    write_rotary(directory, name, num_hidden_layers=4, type_vocab_size=1)
    experts = {
        "activation_function": "gelu", "expert_choice_router": False, "ffn_div": 1, "layer_norm_epsilon": 1e-5,
        "mlp_fc1_bias": True, "mlp_fc2_bias": True, "moe_every_n_layers": 2, "moe_impl": "megablocks",
        "moe_normalize_expert_weights": False, "moe_resid_pdrop": 0.0, "moe_top_k": 2, "num_experts": count,
        "num_shared_experts": 0, "qkv_proj_bias": True, "router_aux_loss_coef": 0.1, "rotary_emb_base": 10000,
        "use_rms_norm": None,
    }  # fmt: skip
    config = read_config(convert_to_hub(directory, name, **(experts | settings)))
    path = directory / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if ".fc12." not in name}
    weights = renamed(weights, [(r"\.fc11\.", ".fc1.")])
    for name in [name for name in weights if re.search("Wqkv|out_proj|fc", name)]:
        weights[name.replace("weight", "bias")] = 0.15 * torch.randn(len(weights[name]))
    for index in range(1, config["n_layer"], config["moe_every_n_layers"]):
        part = f"encoder.layers.{index}.mlp"
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(f"{part}.")}
        weights[f"{part}.router.layer.weight"] = torch.randn(count, width)
        weights |= {f"{part}.experts.mlp.{name}": 0.2 * torch.randn(count * inner, width) for name in ("w1", "w2")}
        weights[f"{part}.experts.bias"] = 0.2 * torch.randn(width)
    save_file(weights, path)
    return directory


def write_xlm_roberta_reranker(directory: Path) -> Path:
    """Write a cross-encoder of XLM-RoBERTa, in the layout of transformers."""
    tokenizer = unigram()
    config = t.XLMRobertaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=LIMIT + 2, type_vocab_size=1, num_labels=1,
        layer_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    body = t.XLMRobertaForSequenceClassification(config)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.15)
    body.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def convert_to_jina_reranker(directory: Path) -> Path:
    """Give a cross-encoder of XLM-RoBERTa the layout of jinaai/jina-reranker-v2-base-multilingual."""
    kept = (
        "architectures", "hidden_act", "hidden_size", "id2label", "intermediate_size", "layer_norm_eps",
        "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "pad_token_id", "type_vocab_size",
        "vocab_size",
    )  # fmt: skip
    config, path = read_config(directory), directory / "model.safetensors"
    hub = {
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModel": "modeling_xlm_roberta.XLMRobertaModel",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        "emb_pooler": None, "num_labels": 1, "position_embedding_type": "absolute", "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0", "use_flash_attn": True, **{key: config[key] for key in kept},
    }  # fmt: skip
    write_json(directory / "config.json", hub)
    names = [
        ("attention.output.dense", "mixer.out_proj"), ("attention.output.LayerNorm", "norm1"),
        ("intermediate.dense", "mlp.fc1"), (r"(layers?\.\d+)\.output.dense", r"\1.mlp.fc2"),
        (r"output.LayerNorm", "norm2"), (r"encoder\.layer\.", "encoder.layers."), ("embeddings.LayerNorm", "emb_ln"),
    ]  # fmt: skip
    stack = ["query", "key", "value"]
    weights = renamed(stacked(load_file(path), "attention.self.{}", stack, "mixer.Wqkv"), names)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return directory
