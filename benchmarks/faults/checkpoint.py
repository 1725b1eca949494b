"""Write a small random checkpoint: a BERT with two layers, without torch."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.vocabularies import wordpiece

_WIDTH, _INNER, _POSITIONS, _LAYERS = 32, 64, 64, 2
_MODULES = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")


def write_checkpoint(directory: Path) -> Path:
    """Write the checkpoint into the new `directory`, in the layout of sentence-transformers."""
    tokenizer = wordpiece()
    config = {
        **{"model_type": "bert", "architectures": ["BertModel"], "vocab_size": tokenizer.get_vocab_size()},
        **{"hidden_size": _WIDTH, "num_hidden_layers": _LAYERS, "num_attention_heads": 4, "intermediate_size": _INNER},
        **{"max_position_embeddings": _POSITIONS, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    }
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(_MODULES)
    ]
    files = {
        "config.json": config,
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "strip_accents": False},
        "1_Pooling/config.json": {"word_embedding_dimension": _WIDTH, "pooling_mode_mean_tokens": True},
    }
    (directory / "1_Pooling").mkdir(parents=True)
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(_weights(config["vocab_size"]), directory / "model.safetensors", {"format": "pt"})
    return directory


def _weights(words: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "embeddings.word_embeddings.weight": (words, _WIDTH),
        "embeddings.position_embeddings.weight": (_POSITIONS, _WIDTH),
        "embeddings.token_type_embeddings.weight": (2, _WIDTH),
    }
    sizes = {
        **{f"attention.self.{name}": (_WIDTH, _WIDTH) for name in ("query", "key", "value")},
        **{"attention.output.dense": (_WIDTH, _WIDTH), "intermediate.dense": (_INNER, _WIDTH)},
        **{"output.dense": (_WIDTH, _INNER)},
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(_LAYERS):
        place = f"encoder.layer.{layer}"
        norms += [f"{place}.attention.output.LayerNorm", f"{place}.output.LayerNorm"]
        for name, size in sizes.items():
            shapes |= {f"{place}.{name}.weight": size, f"{place}.{name}.bias": size[:1]}
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in norms:
        weights |= {f"{name}.weight": np.ones(_WIDTH, np.float32), f"{name}.bias": np.zeros(_WIDTH, np.float32)}
    return weights
