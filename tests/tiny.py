"""A tiny model that each test writes for itself: an embedding table, mean pooling, a WordPiece vocabulary of 35 words.

The graphs are in ONNX's text format, so that tests of the runtime do not need the exporter. `expected`,
`expected_of_image` and `expected_score` compute the same formulas in NumPy.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, processors

from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.manifest import (
    GRAPH_INPUTS,
    IMAGE_INPUTS,
    POOLING_MASK,
    TOKEN_TYPE_IDS,
    File,
    Graph,
    Head,
    Manifest,
    Output,
    Source,
    StaticQueries,
    TokenizerSettings,
    read_manifest,
    write_manifest,
)
from embedder.artifact.measurements import Candidate, Parity, Quality
from embedder.artifact.multi_vector import MultiVectorSettings, QueryExpansion
from embedder.artifact.scores import ScoreSettings
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
WORD_SCORES = np.random.default_rng(9).normal(-1.5, 1.0, (len(VOCABULARY), len(VOCABULARY))).astype(np.float32)
QUERY_WEIGHTS = np.random.default_rng(6).normal(size=len(VOCABULARY)).astype(np.float32)
TABLE = np.random.default_rng(7).normal(size=(len(VOCABULARY), DIMENSION)).astype(np.float32)
# The settings of the tiny model for late interaction: [UNK] fills up queries, and documents leave out punctuation.
MULTI_VECTOR = MultiVectorSettings(
    query_length=8,
    document_length=12,
    expansion=QueryExpansion(length=8, token_id=VOCABULARY["[UNK]"], is_attended=False),
    skipped_ids=tuple(VOCABULARY[word] for word in "!,."),
    skipped_in=("document",),
    skipped_first=0,
)

# onnx writes tensors of at least this size to the file of the weights. Smaller ones stay in the graph.
_MIN_EXTERNAL_BYTES = 1024

_HEADER = '<ir_version: 10, opset_import: ["": 18], producer_name: "tests">'
_TOKENS = "int64[batch_size, sequence_length]"

_BODY = f"""{_HEADER}
embedder ({_TOKENS} input_ids, {_TOKENS} attention_mask)
    => (float[batch_size, sequence_length, WIDTH] last_hidden_state)
{{
    last_hidden_state = Gather(table, input_ids)
}}"""

# sum(tokens * mask) / max(sum(mask), 1e-9), then vector / max(|vector|, 1e-12): the formulas of sentence-transformers.
_EMBED = f"""{_HEADER}
embedder (INPUTS) => (float[batch_size, {DIMENSION}] embedding)
<int64[1] last = {{-1}}, int64[1] sequence = {{1}}, float least_count = {{1e-9}}, float least_norm = {{1e-12}}>
{{
    tokens = Gather(table, input_ids)
    mask = Cast<to = 1>(POOLED)
    column = Unsqueeze(mask, last)
    masked = Mul(tokens, column)
    total = ReduceSum<keepdims = 0>(masked, sequence)
    count = ReduceSum<keepdims = 0>(column, sequence)
    divisor = Max(count, least_count)
    RESULT = Div(total, divisor)
    NORMALIZE
}}"""
_NORMALIZE = """norm = ReduceL2<keepdims = 1>(mean, sequence)
    length = Max(norm, least_norm)
    embedding = Div(mean, length)"""

_IMAGE = f"""{_HEADER}
embedder (float[batch_size, 3, {IMAGE_SIZE}, {IMAGE_SIZE}] pixel_values) => (float[batch_size, {DIMENSION}] embedding)
<int64[2] shape = {{-1, {len(MIXING)}}}>
{{
    numbers = Reshape(pixel_values, shape)
    embedding = MatMul(numbers, mixing)
}}"""

# The dot product of the two segments' mean vectors, times a factor for each label.
_RANK = f"""{_HEADER}
embedder ({_TOKENS} input_ids, {_TOKENS} attention_mask, {_TOKENS} token_type_ids) => (float[batch_size, LABELS] score)
<int64[1] last = {{-1}}, int64[1] sequence = {{1}}, float least_count = {{1e-9}}>
{{
    tokens = Gather(table, input_ids)
    mask = Cast<to = 1>(attention_mask)
    types = Cast<to = 1>(token_type_ids)
    mask_b = Mul(mask, types)
    mask_a = Sub(mask, mask_b)
    column_a = Unsqueeze(mask_a, last)
    column_b = Unsqueeze(mask_b, last)
    masked_a = Mul(tokens, column_a)
    masked_b = Mul(tokens, column_b)
    total_a = ReduceSum<keepdims = 0>(masked_a, sequence)
    total_b = ReduceSum<keepdims = 0>(masked_b, sequence)
    count_a = ReduceSum<keepdims = 0>(column_a, sequence)
    count_b = ReduceSum<keepdims = 0>(column_b, sequence)
    divisor_a = Max(count_a, least_count)
    divisor_b = Max(count_b, least_count)
    mean_a = Div(total_a, divisor_a)
    mean_b = Div(total_b, divisor_b)
    products = Mul(mean_a, mean_b)
    dot = ReduceSum<keepdims = 1>(products, sequence)
    score = Mul(dot, factors)
}}"""

# Each token's vector is its row of the table plus the mean of the attended tokens' rows, scaled to length 1.
_TOKEN_VECTORS = f"""{_HEADER}
embedder ({_TOKENS} input_ids, {_TOKENS} attention_mask)
    => (float[batch_size, sequence_length, {DIMENSION}] token_embeddings)
<int64[1] last = {{-1}}, int64[1] sequence = {{1}}, float least_count = {{1e-9}}, float least_norm = {{1e-12}}>
{{
    rows = Gather(table, input_ids)
    mask = Cast<to = 1>(attention_mask)
    column = Unsqueeze(mask, last)
    masked = Mul(rows, column)
    total = ReduceSum<keepdims = 1>(masked, sequence)
    count = ReduceSum<keepdims = 1>(column, sequence)
    divisor = Max(count, least_count)
    mean = Div(total, divisor)
    mixed = Add(rows, mean)
    norm = ReduceL2<keepdims = 1>(mixed, last)
    length = Max(norm, least_norm)
    token_embeddings = Div(mixed, length)
}}"""


# The largest relu(row of `WORD_SCORES`) over the tokens of a text, for each word of the vocabulary.
_SPARSE = f"""{_HEADER}
embedder ({_TOKENS} input_ids, {_TOKENS} attention_mask) => (float[batch_size, {len(WORDS.split())}] weights)
<int64[1] last = {{-1}}, int64[1] sequence = {{1}}>
{{
    tokens = Gather(table, input_ids)
    positive = Relu(tokens)
    mask = Cast<to = 1>(attention_mask)
    column = Unsqueeze(mask, last)
    masked = Mul(positive, column)
    weights = ReduceMax<keepdims = 0>(masked, sequence)
}}"""


def tiny_tokenizer(*, pairs: bool = False) -> Tokenizer:
    """Return the tokenizer: `[CLS] text [SEP]`, and with `pairs` also `[CLS] text [SEP] text [SEP]`."""
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", VOCABULARY["[CLS]"]), ("[SEP]", VOCABULARY["[SEP]"])]
    pair = {"pair": "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"} if pairs else {}
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special, **pair)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def tiny_body(table: np.ndarray = TABLE) -> Any:
    """Return an `onnx_ir.Model` from token ids to rows of `table`, for the tests of the export."""
    import onnx_ir

    return onnx_ir.from_proto(_parse(_BODY.replace("WIDTH", str(table.shape[1])), {"table": table}))


def write_tiny_artifact(
    directory: Path, *, normalize: bool = True, include_prompt: bool = True, max_seq_length: int = 16, **fields: object
) -> Path:
    """Write an artifact of task "embed" and return its `directory`. `fields` replace fields of its manifest."""
    directory.mkdir()
    inputs = GRAPH_INPUTS if include_prompt else (*GRAPH_INPUTS, POOLING_MASK)
    _save(_embedding_graph(inputs, normalize), directory / "model.onnx")
    _save_tokenizer(tiny_tokenizer(), directory)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task="embed",
        source=Source("tiny", None, "0" * 64),
        similarity_fn_name="cosine",
        tokenizer=TokenizerSettings(described(directory / "tokenizer.json"), max_seq_length, 0, SPECIAL_IDS),
        images=None,
        image_model=None,
        head=Head(("mean",), include_prompt, ("normalize",) if normalize else ()),
        scores=None,
        multi_vector=None,
        prompts={},
        default_prompt_name=None,
        graphs=(_describe_graph(directory / "model.onnx", inputs, Output("embedding", "dense", (DIMENSION,))),),
        parity=Parity("nothing", 0, 1.0, 0.0),
        tools={},
    )
    write_manifest(replace(manifest, **fields), directory)
    return directory


def write_tiny_ranker(directory: Path, *, labels: int = 1, max_seq_length: int = 16, **fields: object) -> Path:
    """Write an artifact of task "rank" and return its `directory`. `fields` replace fields of its manifest.

    The model is a toy cross-encoder. It gives a pair of texts one score for each label; see `expected_score`.
    """
    directory.mkdir()
    inputs = (*GRAPH_INPUTS, TOKEN_TYPE_IDS)
    graph = _parse(_RANK.replace("LABELS", str(labels)), {"table": TABLE, "factors": _label_factors(labels)})
    _save(graph.SerializeToString(), directory / "model.onnx")
    _save_tokenizer(tiny_tokenizer(pairs=True), directory)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task="rank",
        source=Source("tiny-ranker", None, "0" * 64),
        similarity_fn_name=None,
        tokenizer=TokenizerSettings(described(directory / "tokenizer.json"), max_seq_length, 0, SPECIAL_IDS),
        images=None,
        image_model=None,
        head=None,
        scores=ScoreSettings("sigmoid" if labels == 1 else "identity", (), "longest_first", parity=None),
        multi_vector=None,
        prompts={},
        default_prompt_name=None,
        graphs=(_describe_graph(directory / "model.onnx", inputs, Output("score", "score", (labels,))),),
        parity=None,
        tools={},
    )
    write_manifest(replace(manifest, **fields), directory)
    return directory


def write_tiny_multi_vector(directory: Path, *, max_seq_length: int = 16, **fields: object) -> Path:
    """Write an artifact of task "multi_vector" and return its `directory`. `fields` replace fields of its manifest.

    See `MULTI_VECTOR` for its settings and `expected_tokens` for its vectors.
    """
    directory.mkdir()
    _save(_parse(_TOKEN_VECTORS, {"table": TABLE}).SerializeToString(), directory / "model.onnx")
    _save_tokenizer(tiny_tokenizer(), directory)
    output = Output("token_embeddings", "token", (None, DIMENSION))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task="multi_vector",
        source=Source("tiny-multi-vector", None, "0" * 64),
        similarity_fn_name="maxsim",
        tokenizer=TokenizerSettings(described(directory / "tokenizer.json"), max_seq_length, 0, SPECIAL_IDS),
        images=None,
        image_model=None,
        head=None,
        scores=None,
        multi_vector=MULTI_VECTOR,
        prompts={"query": "query : ", "document": "document : "},
        default_prompt_name=None,
        graphs=(_describe_graph(directory / "model.onnx", GRAPH_INPUTS, output),),
        parity=None,
        tools={},
    )
    write_manifest(replace(manifest, **fields), directory)
    return directory


def add_image_graph(directory: Path) -> None:
    """Add images to a tiny artifact: an image of 2 x 2 pixels is multiplied by `MIXING`."""
    path = directory / "image.onnx"
    _save(_parse(_IMAGE, {"mixing": MIXING}).SerializeToString(), path)
    manifest = read_manifest(directory)
    (output,) = manifest.graphs[0].outputs
    graph = _describe_graph(path, IMAGE_INPUTS, output, modality="image")
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = ImageSettings(size, "box", (), 1 / 255, (0.0,) * 3, (1.0,) * 3, tokens=100, parity=None)
    write_manifest(replace(manifest, graphs=(*manifest.graphs, graph), images=images), directory)


def add_int8_graph(directory: Path) -> None:
    """Add a second text graph to a tiny artifact. It stands for an int8 graph. Its vectors have the opposite sign."""
    path = directory / "model.int8.onnx"
    _save(_embedding_graph(GRAPH_INPUTS, normalize=True, sign=-1), path)
    manifest = read_manifest(directory)
    (output,) = manifest.graphs[0].outputs
    graph = replace(
        _describe_graph(path, GRAPH_INPUTS, output),
        dtype="int8",
        candidates=(Candidate("fp32", 2.0), Candidate("int8", 1.0)),
        quality=Quality(3, 0.998, 0.99),
    )
    write_manifest(replace(manifest, graphs=(*manifest.graphs, graph)), directory)


def redescribe(directory: Path) -> None:
    """Write the sizes and digests of files that a test has changed into the manifest."""
    manifest = read_manifest(directory)
    graphs = tuple(
        replace(graph, file=described(directory / graph.file.name), weights=described(directory / graph.weights.name))
        for graph in manifest.graphs
    )
    tokenizer = replace(manifest.tokenizer, file=described(directory / "tokenizer.json"))
    write_manifest(replace(manifest, graphs=graphs, tokenizer=tokenizer), directory)


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def described(path: Path) -> File:
    """Return the manifest's entry for the file at `path`."""
    content = path.read_bytes()
    return File(path.name, len(content), hashlib.sha256(content).hexdigest())


def write_tiny_sparse(directory: Path, *, static_queries: bool = False, **fields: object) -> Path:
    """Write an artifact of task "sparse" and return its `directory`. `fields` replace fields of its manifest.

    Args:
        directory: the new directory.
        static_queries: whether queries have the static weights `QUERY_WEIGHTS`.
        **fields: fields of the manifest.
    """
    directory.mkdir()
    _save(_parse(_SPARSE, {"table": WORD_SCORES}).SerializeToString(), directory / "model.onnx")
    _save_tokenizer(tiny_tokenizer(), directory)
    queries = None
    if static_queries:
        (directory / "queries.weights").write_bytes(QUERY_WEIGHTS.astype("<f4").tobytes())
        queries = StaticQueries(described(directory / "queries.weights"), 6)
    output = Output("weights", "sparse", (len(VOCABULARY),))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task="sparse",
        source=Source("tiny-sparse", None, "0" * 64),
        similarity_fn_name="dot",
        tokenizer=TokenizerSettings(described(directory / "tokenizer.json"), 16, 0, SPECIAL_IDS),
        images=None,
        image_model=None,
        head=Head(("max",), True, ("relu",)),
        scores=None,
        multi_vector=None,
        prompts={},
        default_prompt_name=None,
        graphs=(_describe_graph(directory / "model.onnx", GRAPH_INPUTS, output),),
        parity=Parity("nothing", 0, 1.0, 0.0),
        tools={},
        queries=queries,
    )
    write_manifest(replace(manifest, **fields), directory)
    return directory


def expected(ids: Sequence[int], *, normalize: bool = True) -> np.ndarray:
    """Return the vector that the tiny model gives for token ids, float32 (8,)."""
    mean = TABLE[list(ids)].mean(axis=0)
    return mean / np.linalg.norm(mean) if normalize else mean


def expected_sparse(ids: Sequence[int]) -> np.ndarray:
    """Return the vector that the tiny sparse model gives for token ids, float32 (words,)."""
    return np.maximum(WORD_SCORES[list(ids)].max(axis=0), 0)


def expected_of_image(pixels: np.ndarray) -> np.ndarray:
    """Return the vector that the tiny model gives for an image, uint8 (2, 2, 3); float32 (8,)."""
    return (pixels.transpose(2, 0, 1).astype(np.float32) / 255).ravel() @ MIXING


def expected_score(a_ids: Sequence[int], b_ids: Sequence[int], *, labels: int = 1) -> np.ndarray:
    """Return the scores that the tiny ranker gives for a pair of segments, float32 (labels,).

    The score of label l is mean(a) @ mean(b) times 1, -2, 3, -4 ... The ids are those of `segments_of`.
    """
    return (expected(a_ids, normalize=False) @ expected(b_ids, normalize=False)) * _label_factors(labels)


def expected_tokens(ids: Sequence[int], attended: int | None = None) -> np.ndarray:
    """Return the vectors that the tiny model gives for token ids, float32 (tokens, 8).

    The tokens attend to the first `attended` tokens. None stands for all.
    """
    mixed = TABLE[list(ids)] + TABLE[list(ids)[:attended]].mean(axis=0)
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def ids_of(text: str, limit: int = 16) -> list[int]:
    """Return the token ids of `text`, special tokens included, cut at `limit` tokens."""
    tokenizer = tiny_tokenizer()
    tokenizer.enable_truncation(limit)
    return tokenizer.encode(text).ids


def segments_of(a: str, b: str, limit: int = 16) -> tuple[list[int], list[int]]:
    """Return the token ids of `[CLS] a [SEP]` and of `b [SEP]`.

    Together they have at most `limit` tokens. Tokens are cut from the longer text first.
    """
    tokenizer = tiny_tokenizer(pairs=True)
    tokenizer.enable_truncation(limit)
    encoding: Encoding = tokenizer.encode(a, b)
    first, second = ([i for i, kind in zip(encoding.ids, encoding.type_ids, strict=True) if kind == k] for k in (0, 1))
    return first, second


@functools.cache
def _embedding_graph(inputs: tuple[str, ...], normalize: bool, sign: int = 1) -> bytes:
    """Return the graph of task "embed" as protobuf. The table is multiplied by `sign`."""
    text = _EMBED.replace("INPUTS", ", ".join(f"{_TOKENS} {name}" for name in inputs)).replace("POOLED", inputs[-1])
    text = text.replace("RESULT", "mean" if normalize else "embedding")
    text = text.replace("NORMALIZE", _NORMALIZE if normalize else "")
    return _parse(text, {"table": sign * TABLE}).SerializeToString()


def _label_factors(labels: int) -> np.ndarray:
    """Return 1, -2, 3, -4 ..., float32 (labels,)."""
    return np.array([(-1) ** label * (label + 1) for label in range(labels)], np.float32)


def _parse(text: str, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the model that `text` describes in ONNX's text format. `weights` are its initializers by name."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def _save(model: bytes, path: Path) -> None:
    """Write a model to `path` and its large tensors to `path`.data. The second file may be empty."""
    weights = path.with_name(f"{path.name}.data")
    weights.touch()
    onnx.save_model(
        onnx.load_from_string(model),
        path,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=_MIN_EXTERNAL_BYTES,
    )


def _save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    # Many real tokenizer files have a limit and a padding that are not the model's.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(directory / "tokenizer.json"))


def _describe_graph(path: Path, inputs: tuple[str, ...], output: Output, *, modality: str = "text") -> Graph:
    """Return the manifest's entry for the fp32 graph at `path`."""
    return Graph(
        modality=modality,
        dtype="fp32",
        file=described(path),
        weights=described(path.with_name(f"{path.name}.data")),
        inputs=inputs,
        outputs=(output,),
        form="traced",
        candidates=(),
        quality=None,
        score_quality=None,
    )
