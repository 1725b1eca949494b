"""Export the model for another program, with the export functions of sentence-transformers' backends.

Usage: python graphs.py GRAPH CHECKPOINT OUTPUT TEXTS.json

compare.py and rerankers.py run this file once for each graph, in an environment that has the backend. TEXTS.json has
texts, or pairs of texts for a cross-encoder. They calibrate the quantisation of the OpenVINO backend.
"""

import json
import platform
import shutil
import sys
from pathlib import Path

MAX_TOKENS = 256


def main(graph, checkpoint, output, texts_path):
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if graph == "onnx":
        onnx(checkpoint, partial)
    elif graph == "onnx-qint8":
        onnx(checkpoint, partial, quantize=True)
    elif graph == "openvino":
        load("openvino", checkpoint).save_pretrained(str(partial))
    elif graph == "openvino-qint8":
        openvino_qint8(checkpoint, partial, json.loads(Path(texts_path).read_text(encoding="utf-8")))
    else:
        plain(checkpoint, partial, quantize=graph == "plain-qint8")
    partial.rename(output)


def is_cross_encoder(checkpoint):
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    return config["architectures"][0].endswith("ForSequenceClassification")


def load(backend, checkpoint):
    from sentence_transformers import CrossEncoder, SentenceTransformer

    kind = CrossEncoder if is_cross_encoder(checkpoint) else SentenceTransformer
    settings = {"export": True} | ({"provider": "CPUExecutionProvider"} if backend == "onnx" else {})
    return kind(checkpoint, device="cpu", backend=backend, local_files_only=True, model_kwargs=settings)


def onnx(checkpoint, output, quantize=False):
    """Export the fp32 graph with the optimisations "O3". With `quantize`, export the int8 graph instead.

    Source: https://sbert.net/docs/sentence_transformer/usage/efficiency.html.
    """
    from sentence_transformers import export_dynamic_quantized_onnx_model, export_optimized_onnx_model

    model = load("onnx", checkpoint)
    model.save_pretrained(str(output))
    # The backend loads this file if no name is given.
    default = output / "onnx/model.onnx"
    default.unlink()
    if quantize:
        export_dynamic_quantized_onnx_model(model, instructions(), str(output))
    else:
        export_optimized_onnx_model(model, "O3", str(output))
    (made,) = default.parent.glob("*.onnx")
    made.rename(default)


def instructions():
    """Return the instruction set of this CPU, as sentence-transformers names it."""
    if platform.machine() in ("arm64", "aarch64"):
        return "arm64"
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return next((name for name in ("avx512_vnni", "avx2") if name in flags), "avx2")


def openvino_qint8(checkpoint, output, texts):
    """Quantise as `export_static_quantized_openvino_model` does. That function downloads its texts from the Hub."""
    import nncf
    from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer

    model = load("openvino", checkpoint)
    model.save_pretrained(str(output))
    settings = {"padding": "max_length", "max_length": 384, "truncation": True, "return_tensors": "np"}
    inputs = [dict(model.tokenizer(*([text] if isinstance(text, str) else text), **settings)) for text in texts]
    OVQuantizer.from_pretrained(model.transformers_model).quantize(
        nncf.Dataset(inputs),
        save_directory=str(output),
        ov_config=OVConfig(quantization_config=OVQuantizationConfig()),
    )


def plain(checkpoint, output, quantize=False):
    """Export a graph and copy the tokenizer's files, for programs without sentence-transformers."""
    exported = output / "exported"
    onnx(checkpoint, exported, quantize)
    (exported / "onnx/model.onnx").rename(output / "model.onnx")
    shutil.rmtree(exported)
    for name in ("config.json", "special_tokens_map.json", "tokenizer.json"):
        shutil.copy(Path(checkpoint) / name, output / name)
    # fastembed reads its token limit from this file. The checkpoint of all-MiniLM-L6-v2 has 512 in it, but 256 in the
    # file that sentence-transformers reads.
    settings = json.loads((Path(checkpoint) / "tokenizer_config.json").read_text(encoding="utf-8"))
    if not is_cross_encoder(checkpoint):
        settings["model_max_length"] = MAX_TOKENS
    (output / "tokenizer_config.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
