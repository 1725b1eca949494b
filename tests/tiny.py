"""A model small enough to be made in each test: an embedding table, mean pooling, a WordPiece vocabulary of 35."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from embedder_export.checkpoint.layers import Normalize, Pooling, describe
from embedder_export.graph.files import save_graph
from embedder_export.graph.operators import Operators, new_graph, new_image_graph, new_model
from embedder_export.head.heads import add_head
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from embedder.artifact.manifest import (
    GRAPH_INPUTS,
    POOLING_MASK,
    Candidate,
    File,
    Graph,
    ImageSettings,
    Manifest,
    Output,
    Parity,
    Quality,
    Source,
    TokenizerSettings,
    read_manifest,
    write_manifest,
)
from embedder.artifact.upgrades import FORMAT_VERSION

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] a b c d e f the cat dog sat on mat query document : ! , . ##s ##ing 1 2 3 é 字 "
    "long short word words more less"
)
VOCABULARY = {word: index for index, word in enumerate(WORDS.split())}
SPECIAL_IDS = (0, 1, 2, 3)
DIMENSION = 8
IMAGE_SIZE = 2
MIXING = np.random.default_rng(8).normal(size=(3 * IMAGE_SIZE**2, DIMENSION)).astype(np.float32)
TABLE = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSION)).astype(np.float32)


def tiny_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def tiny_body(table: np.ndarray = TABLE) -> ir.Model:
    """A graph from token ids to rows of `table`."""
    graph = new_graph()
    op = Operators(graph, "body")
    tokens = op.Gather(op.constant(table), graph.inputs[0])
    return new_model(graph, tokens, table.shape[1])


def write_tiny_artifact(
    directory: Path, *, normalize: bool = True, include_prompt: bool = True, max_seq_length: int = 16, **fields
) -> Path:
    layers = (Pooling(("mean",), include_prompt), *([Normalize()] if normalize else []))
    model = tiny_body()
    add_head(model.graph, layers, DIMENSION)
    save_graph(model, directory)
    tokenizer = tiny_tokenizer()
    # As many real ones do, it comes with a limit and a padding that are not the model's.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(directory / "tokenizer.json"))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=Source("tiny", None, "0" * 64),
        task="embed",
        similarity_fn_name="cosine",
        tokenizer=TokenizerSettings(described(directory / "tokenizer.json"), max_seq_length, 0, SPECIAL_IDS),
        images=None,
        image_model=None,
        head=describe(layers),
        prompts={},
        default_prompt_name=None,
        graphs=(
            Graph(
                modality="text",
                dtype="fp32",
                file=described(directory / "model.onnx"),
                weights=described(directory / "model.onnx.data"),
                inputs=GRAPH_INPUTS if include_prompt else (*GRAPH_INPUTS, POOLING_MASK),
                outputs=(Output("embedding", "dense", (DIMENSION,)),),
                form="traced",
                candidates=(),
                quality=None,
            ),
        ),
        parity=Parity("nothing", 0, 1.0, 0.0),
        tools={},
    )
    write_manifest(replace(manifest, **fields), directory)
    return directory


def add_image_graph(directory: Path) -> None:
    """Images beside the texts of `write_tiny_artifact`: two pixels a side, of which the numbers are mixed."""
    graph = new_image_graph(IMAGE_SIZE, IMAGE_SIZE)
    op = Operators(graph, "body")
    numbers = op.Reshape(graph.inputs[0], op.constant([-1, len(MIXING)]))
    model = new_model(graph, op.MatMul(numbers, op.constant(MIXING)), DIMENSION, pooled=True)
    add_head(model.graph, (), DIMENSION)
    scratch = save_graph(model, directory / "scratch", "image.onnx").parent
    for path in scratch.iterdir():
        path.rename(directory / path.name)
    scratch.rmdir()
    manifest = read_manifest(directory)
    file, weights = (described(directory / name) for name in ("image.onnx", "image.onnx.data"))
    of_images = replace(manifest.graphs[0], modality="image", file=file, weights=weights, inputs=("pixel_values",))
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = ImageSettings(size, "box", (), 1 / 255, (0.0,) * 3, (1.0,) * 3, tokens=100, parity=None)
    write_manifest(replace(manifest, graphs=(*manifest.graphs, of_images), images=images), directory)


def expected_of_image(pixels: np.ndarray) -> np.ndarray:
    """What the tiny model gives for an image of its own size, by the formula."""
    return (pixels.transpose(2, 0, 1).astype(np.float32) / 255).ravel() @ MIXING


def add_int8_graph(directory: Path) -> None:
    """A second graph beside that of `write_tiny_artifact`, which can be told from it: its vectors are the negative."""
    model = tiny_body(-TABLE)
    add_head(model.graph, (Pooling(("mean",), True), Normalize()), DIMENSION)
    scratch = save_graph(model, directory / "scratch", "model.int8.onnx").parent
    for path in scratch.iterdir():
        path.rename(directory / path.name)
    scratch.rmdir()
    manifest = read_manifest(directory)
    graph = replace(
        manifest.graphs[0],
        dtype="int8",
        file=described(directory / "model.int8.onnx"),
        weights=described(directory / "model.int8.onnx.data"),
        candidates=(Candidate("fp32", 2.0), Candidate("int8", 1.0)),
        quality=Quality(3, 0.998, 0.99),
    )
    write_manifest(replace(manifest, graphs=(*manifest.graphs, graph)), directory)


def redescribe(directory: Path) -> None:
    """Bring the manifest up to date with files that a test has changed."""
    manifest = read_manifest(directory)
    (graph,) = manifest.graphs
    graph = replace(graph, file=described(directory / "model.onnx"), weights=described(directory / "model.onnx.data"))
    tokenizer = replace(manifest.tokenizer, file=described(directory / "tokenizer.json"))
    write_manifest(replace(manifest, graphs=(graph,), tokenizer=tokenizer), directory)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def described(path: Path) -> File:
    content = path.read_bytes()
    return File(path.name, len(content), hashlib.sha256(content).hexdigest())


def expected(ids: list[int], *, normalize: bool = True) -> np.ndarray:
    """What the tiny model gives for token ids, by the formula."""
    mean = TABLE[ids].mean(axis=0)
    return mean / np.linalg.norm(mean) if normalize else mean


def ids_of(text: str, limit: int = 16) -> list[int]:
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(limit)
    return tokenizer.encode(text).ids
