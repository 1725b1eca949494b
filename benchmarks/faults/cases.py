"""The cases of the campaign: small artifacts and indexes, each with one fault. A case follows from its number alone."""

import base64
import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import onnx
from tokenizers import Tokenizer

from benchmarks.faults.hostile_tokenizers import put_hostile_part
from benchmarks.faults.mutations import BYTES, mutate_graph, mutate_json
from benchmarks.faults.torch_files import damage_torch_file
from embedder.artifact.manifest import MANIFEST_NAME
from tests import vocabularies
from tests.tiny import add_image_graph, described, write_tiny_artifact

SEED = 15
ROOT = Path(__file__).parents[2]
MINILM_TOKENIZER = ROOT / "artifacts/all-MiniLM-L6-v2/tokenizer.json"
# The tokenizers of the artifacts. "minilm" is a real one. Without its export, "wordpiece" stands for it.
_TOKENIZERS: dict[str, Callable[[], Tokenizer] | None] = {
    "tiny": None,
    "wordpiece": vocabularies.wordpiece,
    "unigram": lambda: _with_charsmap(vocabularies.unigram(["<s>", "<pad>", "</s>", "<unk>"], "<s> $A </s>")),
    "byte-level bpe": vocabularies.byte_level_bpe,
    "clip": vocabularies.clip,
    "minilm": lambda: Tokenizer.from_file(str(MINILM_TOKENIZER)),
}
# Which file a case damages, and how many cases of 100 do so.
_SHARES = {
    "manifest": 24,
    "tokenizer": 25,
    "graph": 25,
    "weights": 6,
    "prepacked copy": 8,
    "packed by the publisher": 4,
    "check record": 2,
    "index": 8,
    "special file": 2,
    "torch file": 8,
}
INDEX_PRECISIONS = ("float32", "int8", "binary")
# The names of files that are no part of an artifact.
FILE_NAMES = {"index": "vectors.index", "torch file": "pytorch_model.bin"}
_WIDTH, _DIMENSION = 32, 16
# The share of tokenizers that get a hostile part.
_HOSTILE_SHARE = 0.3
_DIGEST_BYTES = hashlib.sha256().digest_size

# The mean of tanh(table[ids] @ mixing), times `head`, divided by its length. It has weights that can be prepacked.
_GRAPH = f"""<ir_version: 10, opset_import: ["": 18], producer_name: "faults">
embedder (int64[batch_size, sequence_length] input_ids, int64[batch_size, sequence_length] attention_mask)
    => (float[batch_size, {_DIMENSION}] embedding)
<int64[1] last = {{-1}}, int64[1] sequence = {{1}}, float least = {{1e-9}}>
{{
    tokens = Gather(table, input_ids)
    mixed = MatMul(tokens, mixing)
    hidden = Tanh(mixed)
    mask = Cast<to = 1>(attention_mask)
    column = Unsqueeze(mask, last)
    masked = Mul(hidden, column)
    total = ReduceSum<keepdims = 0>(masked, sequence)
    count = ReduceSum<keepdims = 0>(column, sequence)
    divisor = Max(count, least)
    mean = Div(total, divisor)
    projected = MatMul(mean, head)
    norm = ReduceL2<keepdims = 1>(projected, sequence)
    length = Max(norm, least)
    embedding = Div(projected, length)
}}"""


@dataclass(frozen=True)
class Case:
    """One fault. It follows from its number.

    Attributes:
        number: chooses the fault.
        target: the damaged file, a key of `_SHARES`.
        base: the tokenizer of the artifact, or "images", or the precision of the index.
        sealed: whether sizes and digests are made right again, as a hostile publisher would do.
        structural: whether the change is in JSON or protobuf, and not in bytes.
        prepack: whether weights are prepacked.
    """

    number: int
    target: str
    base: str
    sealed: bool
    structural: bool
    prepack: bool

    @property
    def rng(self) -> Random:
        """The choices of the mutation."""
        return Random(f"{SEED} mutation {self.number}")


def case_of(number: int) -> Case:
    """Return the case of that number."""
    rng = Random(f"{SEED} case {number}")
    (target,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    base = {
        "manifest": rng.choice(["tiny", "images"]),
        "index": rng.choice(INDEX_PRECISIONS),
        "torch file": "torch",
    }.get(target, "tiny")
    if target == "tokenizer":
        base = rng.choice(list(_TOKENIZERS))
        if base == "minilm" and not MINILM_TOKENIZER.is_file():
            base = "wordpiece"
    packed = target in ("prepacked copy", "packed by the publisher", "check record")
    # A manifest has no digest. Every change of it is one that a hostile publisher can make.
    digested = target in ("tokenizer", "graph", "weights", "index")
    structural = target in ("manifest", "tokenizer", "graph", "index", "torch file") and rng.random() < 0.85
    sealed = target == "manifest" or (digested and rng.random() < 0.7) or (target == "torch file" and structural)
    return Case(number, target, base, sealed, structural, prepack=packed or rng.random() < 0.3)


@functools.cache
def base_files(base: str, scratch: Path) -> dict[str, bytes]:
    """Return the files of an undamaged artifact by name. `scratch` is a directory to make it in."""
    directory = write_tiny_artifact(scratch / base)
    if base == "images":
        add_image_graph(directory)
        return _contents(directory)
    make_tokenizer = _TOKENIZERS[base]
    if make_tokenizer:
        make_tokenizer().save(str(directory / "tokenizer.json"))
    _save_graph(directory / "model.onnx", Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size())
    manifest = json.loads((directory / MANIFEST_NAME).read_bytes())
    manifest["graphs"][0]["outputs"][0]["shape"] = [_DIMENSION]
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest))
    seal(directory)
    return _contents(directory)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _save_graph(path: Path, rows: int) -> None:
    model = onnx.parser.parse_model(_GRAPH)
    rng = np.random.default_rng(SEED)
    for name, shape in {"table": (rows, _WIDTH), "mixing": (_WIDTH, _WIDTH), "head": (_WIDTH, _DIMENSION)}.items():
        values = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    path.with_name(f"{path.name}.data").unlink()
    onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def _with_charsmap(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with a table of characters, as SentencePiece models have one."""
    content = json.loads(tokenizer.to_str())
    trie = bytes(4 * 256)  # one that maps nothing
    charsmap = base64.b64encode(len(trie).to_bytes(4, "little") + trie + b"a\0").decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    return Tokenizer.from_str(json.dumps(content))


def seal(directory: Path) -> None:
    """Write the sizes and digests of the files as they are now into the manifest."""
    manifest = json.loads((directory / MANIFEST_NAME).read_bytes())
    files = [manifest["tokenizer"]["file"]]
    files += [graph[key] for graph in manifest["graphs"] for key in ("file", "weights")]
    for file in files:
        found = described(directory / file["name"])
        file.update(size=found.size, sha256=found.sha256)
    (directory / MANIFEST_NAME).write_text(json.dumps(manifest))


def damage(case: Case, path: Path, outside: Path) -> str:
    """Damage the file `path`. Return the kind of the damage. No graph may read the file `outside`."""
    content, rng = path.read_bytes(), case.rng
    if not case.structural:
        kind = rng.choice(list(BYTES))
        changed = BYTES[kind](rng, content)
    elif case.target == "torch file":
        return damage_torch_file(rng, path)
    elif path.suffix == ".onnx":
        kind, changed = mutate_graph(rng, content, outside=str(outside))
    elif case.target == "index":
        kind, changed = _mutate_index_header(rng, content)
    elif case.target == "tokenizer" and rng.random() < _HOSTILE_SHARE:
        kind, changed = put_hostile_part(rng, content)
    else:
        kind, changed = mutate_json(rng, content)
    if case.sealed and case.target == "index":
        changed = changed[:-_DIGEST_BYTES] + hashlib.sha256(changed[:-_DIGEST_BYTES]).digest()
    path.write_bytes(changed)
    return kind


def _mutate_index_header(rng: Random, content: bytes) -> tuple[str, bytes]:
    """Change the JSON header of an index. Its new length is written before it."""
    length = int.from_bytes(content[8:16], "little")
    kind, header = mutate_json(rng, content[16 : 16 + length])
    header += b" " * (-(16 + len(header)) % 64)
    return kind, content[:8] + len(header).to_bytes(8, "little") + header + content[16 + length :]


def replace_by_special_file(rng: Random, path: Path, elsewhere: Path) -> str:
    """Replace a file by something that is not a regular file. Return the kind. `elsewhere` is a directory for links."""
    good = elsewhere / path.name
    good.write_bytes(path.read_bytes())
    path.unlink()
    links = {"link to /dev/zero": "/dev/zero", "link to /dev/full": "/dev/full", "link to itself": path}
    links |= {"dangling link": elsewhere / "missing", "link to a directory": elsewhere, "link to a copy": good}
    kind = rng.choice(["FIFO", "link to a FIFO", "directory", "socket", *links])
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "link to a FIFO":
        os.mkfifo(elsewhere / "fifo")
        path.symlink_to(elsewhere / "fifo")
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server, suppress(OSError):  # some paths are too long for a socket
            server.bind(str(path))
    else:
        path.symlink_to(links[kind])
    return kind
