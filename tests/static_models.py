"""Write small random checkpoints of static embeddings, in the layouts of sentence-transformers and of model2vec."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer

from tests.checkpoints import write_json
from tests.vocabularies import wordpiece

DIMENSION = 12
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules."
# The types of modules as versions 3 to 5, and as version 6 of sentence-transformers write them.
TYPES = {
    "old": {kind: OLD + kind for kind in ("StaticEmbedding", "Normalize", "Dense")},
    "new": {
        "StaticEmbedding": f"{NEW}static_embedding.StaticEmbedding",
        "Normalize": f"{NEW}normalize.Normalize",
        "Dense": "sentence_transformers.base.modules.dense.Dense",
    },
}


def static_tokenizer() -> Tokenizer:
    """Make a WordPiece tokenizer like that of most static models. Its file has special tokens and padding."""
    tokenizer = wordpiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")])
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    return tokenizer


def random_rows(tokenizer: Tokenizer, seed: int = 0) -> np.ndarray:
    """Return a random table with a row for each token, float32."""
    rows = np.random.default_rng(seed).standard_normal((tokenizer.get_vocab_size(), DIMENSION))
    return rows.astype(np.float32)


def write_sentence_transformers(
    directory: Path,
    *,
    layout: str = "old",
    folder: str = "",
    modules: tuple[str, ...] = ("Normalize",),
    tokenizer: Tokenizer | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint with modules.json.

    Args:
        directory: the new directory.
        layout: one of `TYPES`.
        folder: the folder of the table.
        modules: the classes of the modules after the table.
        tokenizer: its tokenizer; default: `static_tokenizer`.
        tensors: the tensors of the table; default: a random `embedding.weight`.
        config: the content of config_sentence_transformers.json. None leaves the file out.
    """
    tokenizer = tokenizer or static_tokenizer()
    place = directory / folder
    place.mkdir(parents=True)
    tokenizer.save(str(place / "tokenizer.json"))
    save_file(dict(tensors or {"embedding.weight": random_rows(tokenizer)}), place / "model.safetensors")
    entries = [{"idx": 0, "name": "0", "path": folder, "type": TYPES[layout]["StaticEmbedding"]}]
    for index, kind in enumerate(modules, 1):
        path = f"{index}_{kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": TYPES[layout][kind]})
        (directory / path).mkdir()
        if kind == "Dense":
            _write_dense(directory / path)
    write_json(directory / "modules.json", entries)
    if config is not None:
        write_json(directory / "config_sentence_transformers.json", config)
    return directory


def write_model2vec(
    directory: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    **config: object,
) -> Path:
    """Write a checkpoint in model2vec's layout, without modules.json.

    Args:
        directory: the new directory.
        tensors: the tensors; default: random `embeddings`.
        tokenizer: its tokenizer; default: `static_tokenizer`.
        config: settings of config.json besides `model_type`.
    """
    tokenizer = tokenizer or static_tokenizer()
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(dict(tensors or {"embeddings": random_rows(tokenizer)}), directory / "model.safetensors")
    write_json(directory / "config.json", {"model_type": "model2vec", "normalize": True, **config})
    return directory


def quantized_tensors(rows: int = 20) -> dict[str, np.ndarray]:
    """Return the tensors of a model whose tokens share rows, each with a weight of its own."""
    generator, count = np.random.default_rng(1), static_tokenizer().get_vocab_size()
    return {
        "embeddings": generator.standard_normal((rows, DIMENSION)).astype(np.float32),
        "mapping": generator.integers(0, rows, count),
        "weights": generator.uniform(0.1, 2, count).astype(np.float32),
    }


def _write_dense(directory: Path) -> None:
    generator = np.random.default_rng(2)
    weights = {
        "linear.weight": generator.standard_normal((7, DIMENSION)).astype(np.float32),
        "linear.bias": generator.standard_normal(7).astype(np.float32),
    }
    save_file(weights, directory / "model.safetensors")
    settings = {"in_features": DIMENSION, "out_features": 7, "bias": True}
    write_json(directory / "config.json", settings | {"activation_function": "torch.nn.modules.activation.Tanh"})
