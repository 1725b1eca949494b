"""The manifest, `embedder.json`: the one thing that the export and the runtime must agree on.

The dataclasses below are the format. The export builds them and calls `write_manifest`; the runtime gets them
back, checked field by field, from `read_manifest`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import UnionType
from typing import Any, get_args, get_origin

from embedder.errors import ArtifactError, FormatError

FORMAT_VERSION = 4
MANIFEST_NAME = "embedder.json"

PRECISIONS = ("fp32", "fp16", "int8")
# What a graph takes; a model has one graph of a precision for each.
TEXT, IMAGE = "text", "image"
RESAMPLES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# Every model has these prompts; a checkpoint may say what they are.
DEFAULT_PROMPTS = {"query": "", "document": ""}
GRAPH_INPUTS = ("input_ids", "attention_mask")
# Of a model that leaves its prompt out of the pooling: the attention mask less the prompt's tokens.
POOLING_MASK = "pooling_mask"
IMAGE_INPUTS = ("pixel_values",)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


@dataclass(frozen=True)
class File:
    """A file of the artifact: its name in the directory, its size in bytes, its SHA-256 in hexadecimal."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # A manifest may come from a stranger: it must not reach outside its own directory.
        plain = self.name not in ("", ".", "..") and "\0" not in self.name
        plain = plain and PurePosixPath(self.name).name == self.name == PureWindowsPath(self.name).name
        _require(plain, f"name: {self.name!r} is not a plain file name")
        _require(self.size >= 0, f"size: {self.size} is negative")
        _require(len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef"), "sha256: not a digest")


@dataclass(frozen=True)
class Source:
    """The checkpoint that the artifact was made from: Hub id or directory name, commit, digest of its weights."""

    model: str
    revision: str | None
    weights_sha256: str


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer's file, and the limit and padding that the runtime sets on it.

    Padding is always on the right, whatever the checkpoint's tokenizer does: then each token has the position that it
    has where its text stands alone, so that a vector does not depend on the batch. The mask hides the rest.

    special_ids: those of [SEP] and its like, which at a prompt's end do not count as the prompt's.
    """

    file: File
    max_seq_length: int
    pad_id: int
    special_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _require(0 < self.max_seq_length < 2**31, f"max_seq_length: {self.max_seq_length} is not from 1 to 2**31 - 1")
        _require(0 <= self.pad_id < 2**31, f"pad_id: {self.pad_id} is not from 0 to 2**31 - 1")


@dataclass(frozen=True)
class Parity:
    """How near the artifact's vectors are to those of the reference, over the export's samples: texts or images.

    max_difference: the largest of two numbers in the same place, as a share of the reference vector's length.
    """

    reference: str
    samples: int
    min_cosine: float
    max_difference: float


@dataclass(frozen=True)
class Images:
    """What becomes of an image before its graph sees it, in this order; as transformers' image processors have it.

    resize: the shorter edge in pixels, with the other in proportion; or height and width; or nothing.
    resample: the filter for that, by Pillow's name in lower case.
    crop: height and width of the middle that is kept, with black around what is smaller; or nothing.
    rescale: what a number from 0 to 255 is multiplied by.
    mean, std: of red, green and blue; what is left is (x - mean) / std.
    tokens: positions that an image takes in the model; batches are filled by them, as those of texts are.
    parity: of the vectors, the preparation included.
    """

    resize: tuple[int, ...]
    resample: str
    crop: tuple[int, ...]
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: int
    parity: Parity | None

    def __post_init__(self) -> None:
        _require(len(self.resize) <= 2 and min(self.resize, default=1) >= 1, f"resize: {list(self.resize)} is no size")
        _require(len(self.crop) in (0, 2) and min(self.crop, default=1) >= 1, f"crop: {list(self.crop)} is no size")
        _require(self.resample in RESAMPLES, f"resample: {self.resample!r} is none of {', '.join(RESAMPLES)}")
        _require(len(self.mean) == len(self.std) == 3, "mean, std: not three numbers each")
        _require(0 not in self.std, "std: holds a zero")
        _require(self.tokens >= 1, f"tokens: {self.tokens} is below 1")


@dataclass(frozen=True)
class Head:
    """What stands between the token vectors and the embedding; baked into the graph, named here for people.

    pooling: the modes, by sentence-transformers' names; of several, the results are laid end to end.
    include_prompt: whether the prompt's tokens are pooled too.
    layers: what follows in its order, such as "dense(768, 512, tanh)" or "normalize".
    """

    pooling: tuple[str, ...]
    include_prompt: bool
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A graph that the export timed: geometric mean over its shapes, in milliseconds a call, on one thread."""

    name: str
    milliseconds: float


@dataclass(frozen=True)
class Quality:
    """How near a graph's vectors are to those of the fp32 graph of the same export, over the export's samples."""

    samples: int
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class Graph:
    """An ONNX graph, its weights beside it, and what the export measured of it.

    modality: what it takes, "text" or "image".
    candidates: of fp32 the forms that it was chosen from; of another precision that and fp32, timed side by side.
    quality: of another precision than fp32.
    """

    modality: str
    precision: str
    file: File
    weights: File
    inputs: tuple[str, ...]
    output: str
    form: str
    candidates: tuple[Candidate, ...]
    quality: Quality | None

    def __post_init__(self) -> None:
        _require(self.precision in PRECISIONS, f"precision: {self.precision!r} is none of {', '.join(PRECISIONS)}")
        # The graph itself names its weights' file, which the runtime cannot read there: this is what the export writes.
        _require(self.weights.name == f"{self.file.name}.data", f"weights: {self.weights.name!r} is not the graph's")
        _require(self.modality in (TEXT, IMAGE), f"modality: {self.modality!r} is neither {TEXT!r} nor {IMAGE!r}")
        if self.modality == IMAGE:
            _require(self.inputs == IMAGE_INPUTS, f"inputs: {list(self.inputs)} is not {list(IMAGE_INPUTS)}")
        else:
            known = self.inputs in (GRAPH_INPUTS, (*GRAPH_INPUTS, POOLING_MASK))
            _require(
                known, f"inputs: {list(self.inputs)} is not {list(GRAPH_INPUTS)}, with or without {POOLING_MASK!r}"
            )


@dataclass(frozen=True)
class Manifest:
    """Everything that a program must know to serve the artifact, and a person to trust it.

    images: of a model that takes them, too.
    image_model: the model whose vectors of images this one's vectors of texts go with, where it is another.
    parity: of the vectors of texts.
    """

    format_version: int
    source: Source
    dimension: int
    similarity: str
    tokenizer: Tokenizer
    images: Images | None
    image_model: str | None
    head: Head
    prompts: dict[str, str]
    default_prompt_name: str | None
    graphs: tuple[Graph, ...]
    parity: Parity | None
    tools: dict[str, str]

    def __post_init__(self) -> None:
        _require(self.dimension >= 1, f"dimension: {self.dimension} is below 1")
        _require(
            self.similarity in SIMILARITIES, f"similarity: {self.similarity!r} is none of {', '.join(SIMILARITIES)}"
        )
        self._check_graphs()
        _require(
            self.default_prompt_name in (None, *DEFAULT_PROMPTS, *self.prompts),
            f"default_prompt_name: {self.default_prompt_name!r} is not among the prompts",
        )

    def _check_graphs(self) -> None:
        kinds = [(graph.modality, graph.precision) for graph in self.graphs]
        _require(len(set(kinds)) == len(kinds), f"graphs: several of one kind, {kinds}")
        modalities, found = set(self.modalities), {modality for modality, _ in kinds}
        _require(len(self.graphs) >= 1, "graphs: empty")
        _require(found == modalities, f"graphs: they take {sorted(found)}, and should take {sorted(modalities)}")
        for graph in self.graphs_of(TEXT):
            masked = POOLING_MASK in graph.inputs
            _require(
                masked != self.head.include_prompt, f"head.include_prompt: contradicts inputs {list(graph.inputs)}"
            )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes: texts, and perhaps images."""
        return (TEXT,) if self.images is None else (TEXT, IMAGE)

    def graphs_of(self, modality: str) -> tuple[Graph, ...]:
        """The graphs that take `modality`, in their order."""
        return tuple(graph for graph in self.graphs if graph.modality == modality)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the artifact but the manifest itself."""
        return (self.tokenizer.file, *(file for graph in self.graphs for file in (graph.file, graph.weights)))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest` as `directory`/embedder.json."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read and check `directory`/embedder.json.

    Raises:
        FormatError: the format version is another than `FORMAT_VERSION`.
        ArtifactError: the file cannot be read, is not JSON, or a field is missing, unknown or out of range.
    """
    path = directory / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}): export or copy the model again") from error
    _check_format_version(path, content)
    try:
        return _decode(Manifest, content, "")  # type: ignore[no-any-return]
    except ValueError as error:
        raise ArtifactError(f"{path} is not a valid manifest: {error}. Export or copy the model again") from error


def _check_format_version(path: Path, content: object) -> None:
    version = content.get("format_version") if isinstance(content, Mapping) else None
    if version == FORMAT_VERSION:
        return
    if isinstance(version, int) and version > FORMAT_VERSION:
        advice = "upgrade embedder, or export the model again with this version"
    else:
        advice = "export the model again"
    raise FormatError(f"{path} has format version {version!r}; this embedder reads version {FORMAT_VERSION}: {advice}")


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Parsed JSON as `kind`, a dataclass or a field's type; ValueError names the place, as in `graphs[0].file`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _decode(arguments[0], value, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if origin is tuple:
        items = _expect(list, value, where)
        return tuple(_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(items))
    if origin is dict:
        pairs = _expect(dict, value, where)
        return {key: _decode(arguments[1], item, f"{where}[{key!r}]") for key, item in pairs.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, where)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    given = _expect(dict, value, where)
    known = {field.name: field.type for field in fields(kind)}
    prefix = f"{where}." if where else ""
    for name in known.keys() - given.keys():
        raise ValueError(f"{prefix}{name} is missing")
    for name in given.keys() - known.keys():
        raise ValueError(f"{prefix}{name} is unknown")
    decoded = {name: _decode(kind_, given[name], prefix + name) for name, kind_ in known.items()}
    try:
        return kind(**decoded)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from error


def _expect(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where or 'the whole'} should be a {kind.__name__}, not {value!r:.80}")
    return value
