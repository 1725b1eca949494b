"""The manifest, `embedder.json`: everything that the export and the runtime must agree on.

The dataclasses below are the format. The export builds them and calls `write_manifest`. The runtime reads them back
with `read_manifest`, which checks every field and upgrades older formats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from embedder.artifact.upgrades import FORMAT_VERSION, OLDEST_VERSION, upgrade
from embedder.common.decode import decode
from embedder.errors import ArtifactError, FormatError

MANIFEST_NAME = "embedder.json"

# What an artifact is for, and the kind of output that each of its graphs has for it.
OUTPUT_OF_TASK = {"embed": "dense", "rank": "score", "sparse": "sparse", "multi_vector": "token"}
EMBED, RANK = "embed", "rank"
DTYPES = ("fp32", "fp16", "int8")
# What a graph takes. An artifact has one graph of a dtype for each modality.
TEXT, IMAGE = "text", "image"
RESAMPLES = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
SIMILARITY_FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")
# Every model has these prompts. A checkpoint may say what they are.
DEFAULT_PROMPTS = {"query": "", "document": ""}
GRAPH_INPUTS = ("input_ids", "attention_mask")
# 0 for the first text of a pair, 1 for the second; needed by models of pairs.
TOKEN_TYPE_IDS = "token_type_ids"
# The attention mask without the prompt's tokens; needed by models that leave the prompt out of the pooling.
POOLING_MASK = "pooling_mask"
IMAGE_INPUTS = ("pixel_values",)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


@dataclass(frozen=True)
class File:
    """A file of the artifact.

    Attributes:
        name: its name in the artifact's directory.
        size: in bytes.
        sha256: in lower-case hexadecimal.
    """

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # A manifest may come from a stranger. It must not reach outside its own directory.
        plain = self.name not in ("", ".", "..") and "\0" not in self.name
        plain = plain and PurePosixPath(self.name).name == self.name == PureWindowsPath(self.name).name
        _require(plain, f"name: {self.name!r} is not a plain file name")
        _require(self.size >= 0, f"size: {self.size} is negative")
        _require(len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef"), "sha256: not a digest")


@dataclass(frozen=True)
class Source:
    """The checkpoint that the artifact was made from.

    Attributes:
        model: its id on the Hub, or the name of its directory.
        revision: its commit on the Hub; None for a local directory.
        weights_sha256: digest of its weights.
    """

    model: str
    revision: str | None
    weights_sha256: str


@dataclass(frozen=True)
class TokenizerSettings:
    """The tokenizer's file, and the limit and padding that the runtime sets on it.

    Padding is always on the right, whatever the checkpoint says. Each token then has the same position alone and in a
    batch, so that a vector does not depend on its batch.

    Attributes:
        file: the `tokenizer.json`.
        max_seq_length: most tokens of a text, special tokens included.
        pad_id: the id that fills shorter texts.
        special_ids: ids of [SEP] and the like. At a prompt's end they do not count as the prompt's tokens.
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
    """How near the artifact's vectors are to the reference's, over the export's samples.

    Attributes:
        reference: what it was compared with.
        samples: how many texts or images.
        min_cosine: the smallest cosine of two vectors of one sample.
        max_difference: the largest difference of two numbers in the same place, divided by the length of the
            reference's vector.
    """

    reference: str
    samples: int
    min_cosine: float
    max_difference: float


@dataclass(frozen=True)
class ImageSettings:
    """How an image is prepared for its graph, in this order. The steps are those of transformers' image processors.

    Attributes:
        resize: pixels of the shorter edge; or height and width; or nothing.
        resample: the filter of the resize, by Pillow's name in lower case.
        crop: height and width of the part in the middle that is kept; or nothing. What is smaller gets a black border.
        rescale: factor for a pixel's value from 0 to 255.
        mean: of red, green and blue. A value x becomes (x - mean) / std.
        std: of red, green and blue.
        tokens: positions of an image in the model. Batches are filled by them, as batches of texts are by tokens.
        parity: of the images' vectors, the preparation included.
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
    """What follows the token vectors. It is baked into the graph, and named here for people.

    Attributes:
        pooling: the modes, by sentence-transformers' names. The results of several modes are laid end to end.
        include_prompt: whether the prompt's tokens are pooled too.
        layers: what follows, in its order, such as "dense(768, 512, tanh)" or "normalize".
    """

    pooling: tuple[str, ...]
    include_prompt: bool
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A graph that the export timed.

    Attributes:
        name: of the graph's form or dtype.
        milliseconds: for a call on one thread, as the geometric mean over several shapes.
    """

    name: str
    milliseconds: float


@dataclass(frozen=True)
class Quality:
    """How near a graph's vectors are to those of the fp32 graph of the same export, over the export's samples."""

    samples: int
    mean_cosine: float
    min_cosine: float


@dataclass(frozen=True)
class Output:
    """A named output of a graph.

    Attributes:
        name: in the graph.
        kind: "dense", "score", "sparse" or "token".
        shape: for one input, without the batch axis. None is an axis that depends on the input, such as its tokens.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        kinds = tuple(OUTPUT_OF_TASK.values())
        _require(self.kind in kinds, f"kind: {self.kind!r} is none of {', '.join(kinds)}")
        _require(len(self.shape) >= 1, "shape: empty")
        _require(all(size is None or size >= 1 for size in self.shape), f"shape: {list(self.shape)} is no shape")
        _require(self.kind != "dense" or (len(self.shape) == 1 and self.shape[0] is not None), "shape: not one number")


@dataclass(frozen=True)
class Graph:
    """An ONNX graph with its weights in a second file, and what the export measured of it.

    Attributes:
        modality: what it takes, "text" or "image".
        dtype: "fp32", "fp16" or "int8".
        file: the graph.
        weights: the weights. onnxruntime finds them by the graph's own name for them, `<file>.data`.
        inputs: names of its inputs.
        outputs: its outputs.
        form: which form of the graph was chosen.
        candidates: of fp32, the forms that were timed; of another dtype, this one and fp32.
        quality: of a dtype other than fp32.
    """

    modality: str
    dtype: str
    file: File
    weights: File
    inputs: tuple[str, ...]
    outputs: tuple[Output, ...]
    form: str
    candidates: tuple[Candidate, ...]
    quality: Quality | None

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPES, f"dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")
        _require(self.weights.name == f"{self.file.name}.data", f"weights: {self.weights.name!r} is not the graph's")
        _require(self.modality in (TEXT, IMAGE), f"modality: {self.modality!r} is neither {TEXT!r} nor {IMAGE!r}")
        required = IMAGE_INPUTS if self.modality == IMAGE else GRAPH_INPUTS
        optional = () if self.modality == IMAGE else (TOKEN_TYPE_IDS, POOLING_MASK)
        known = self.inputs[: len(required)] == required and set(self.inputs[len(required) :]) <= set(optional)
        _require(
            known and len(set(self.inputs)) == len(self.inputs),
            f"inputs: {list(self.inputs)} is not {list(required)}, with or without any of {list(optional)}",
        )
        names = [output.name for output in self.outputs]
        _require(len(names) >= 1 and len(set(names)) == len(names), f"outputs: {names} is empty or has a name twice")

    def output(self, kind: str) -> Output | None:
        """Return the first output of `kind`, or None."""
        return next((output for output in self.outputs if output.kind == kind), None)


@dataclass(frozen=True)
class Manifest:
    """Everything that a program must know to serve the artifact, and a person to trust it.

    Attributes:
        format_version: of this format.
        task: what the artifact is for: "embed", "rank", "sparse" or "multi_vector".
        source: the checkpoint that it was made from.
        similarity_fn_name: the function that compares its vectors; None where it has none to compare.
        tokenizer: how texts become tokens.
        images: how images are prepared, for a model that takes them.
        image_model: another model whose image vectors lie in the space of this model's text vectors.
        head: what follows the token vectors; None where nothing is pooled.
        prompts: texts to put before an input, by name.
        default_prompt_name: the prompt that is used when none is given.
        graphs: the graphs, one of each modality and dtype.
        parity: of the texts' vectors.
        tools: versions of the programs that made the artifact.
        extra: what other programs add. This version ignores it.
    """

    format_version: int
    task: str
    source: Source
    similarity_fn_name: str | None
    tokenizer: TokenizerSettings
    images: ImageSettings | None
    image_model: str | None
    head: Head | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    graphs: tuple[Graph, ...]
    parity: Parity | None
    tools: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.task in OUTPUT_OF_TASK, f"task: {self.task!r} is none of {', '.join(OUTPUT_OF_TASK)}")
        _require(
            self.similarity_fn_name in (None, *SIMILARITY_FUNCTIONS),
            f"similarity_fn_name: {self.similarity_fn_name!r} is none of {', '.join(SIMILARITY_FUNCTIONS)}",
        )
        _require(self.task != EMBED or self.similarity_fn_name is not None, "similarity_fn_name: null in task 'embed'")
        self._check_graphs()
        self._check_outputs()
        _require(
            self.default_prompt_name in (None, *DEFAULT_PROMPTS, *self.prompts),
            f"default_prompt_name: {self.default_prompt_name!r} is not among the prompts",
        )

    def _check_graphs(self) -> None:
        kinds = [(graph.modality, graph.dtype) for graph in self.graphs]
        _require(len(set(kinds)) == len(kinds), f"graphs: several of one kind, {kinds}")
        modalities, found = set(self.modalities), {modality for modality, _ in kinds}
        _require(len(self.graphs) >= 1, "graphs: empty")
        _require(found == modalities, f"graphs: they take {sorted(found)}, and should take {sorted(modalities)}")
        for graph in self.graphs_of(TEXT):
            masked = POOLING_MASK in graph.inputs
            _require(masked == self.leaves_prompt_out, f"head.include_prompt: contradicts inputs {list(graph.inputs)}")

    def _check_outputs(self) -> None:
        kind = OUTPUT_OF_TASK[self.task]
        shapes = {output.shape if (output := graph.output(kind)) else None for graph in self.graphs}
        _require(None not in shapes, f"graphs: task {self.task!r} needs an output of the kind {kind!r} in each")
        _require(len(shapes) == 1, f"graphs: their outputs of the kind {kind!r} differ in shape")

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model takes: "text", and "image" if it takes images."""
        return (TEXT,) if self.images is None else (TEXT, IMAGE)

    @property
    def leaves_prompt_out(self) -> bool:
        """Whether the prompt's tokens are left out of the pooling."""
        return self.head is not None and not self.head.include_prompt

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the task's output for one input, the same for every graph."""
        output = self.graphs[0].output(OUTPUT_OF_TASK[self.task])
        assert output is not None  # `_check_outputs` has seen to it
        return output.shape

    @property
    def dimension(self) -> int:
        """Length of a vector, of an artifact that gives dense vectors.

        Raises:
            ValueError: it gives others.
        """
        _require(self.task == EMBED, f"task: {self.task!r} has no dimension")
        (dimension,) = self.output_shape
        assert dimension is not None  # `Output` has seen to it
        return dimension

    def graphs_of(self, modality: str) -> tuple[Graph, ...]:
        """Return the graphs that take `modality`, in the manifest's order."""
        return tuple(graph for graph in self.graphs if graph.modality == modality)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the artifact except the manifest itself."""
        return (self.tokenizer.file, *(file for graph in self.graphs for file in (graph.file, graph.weights)))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest` as `directory`/embedder.json."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
    (directory / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read and check `directory`/embedder.json. An older format is upgraded in memory.

    Raises:
        FormatError: this version reads neither the format nor an upgrade of it.
        ArtifactError: the file cannot be read, is not JSON, or a field is missing, unknown or out of range.

    Example:
        >>> read_manifest(Path("artifacts/all-MiniLM-L6-v2")).task  # doctest: +SKIP
        'embed'
    """
    path = directory / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}): export or copy the model again") from error
    _check_format_version(path, content)
    try:
        return decode(Manifest, upgrade(content))  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} is not a valid manifest: {problem}. Export or copy the model again") from error


def _check_format_version(path: Path, content: object) -> None:
    version = content.get("format_version") if isinstance(content, Mapping) else None
    if type(version) is int and OLDEST_VERSION <= version <= FORMAT_VERSION:
        return
    newer = type(version) is int and version > FORMAT_VERSION
    advice = "upgrade embedder, or export the model again with this version" if newer else "export the model again"
    raise FormatError(
        f"{path} has format version {version!r}; this embedder reads versions {OLDEST_VERSION} to {FORMAT_VERSION}: "
        f"{advice}"
    )
