"""The manifest, `embedder.json`: everything that the export and the runtime must agree on.

The dataclasses below are the format. The export makes them and calls `write_manifest`. The runtime calls
`read_manifest`, which checks every field and upgrades older formats.
"""

from __future__ import annotations

import json
from dataclasses import asdict, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.measurements import Candidate, Parity, Quality, ScoreQuality
from embedder.artifact.multi_vector import MultiVectorSettings
from embedder.artifact.positions import UNLIMITED_TOKENS
from embedder.artifact.scores import ScoreSettings
from embedder.artifact.upgrades import check_format_version, upgrade
from embedder.common.decode import decode
from embedder.common.files import lfs_pointer_problem, read_regular, replacing
from embedder.common.json_text import parse_json
from embedder.common.records import frozen, require
from embedder.errors import ArtifactError

MANIFEST_NAME = "embedder.json"
# No file system takes a longer name.
_MAX_NAME_BYTES = 255
# A Hub repository is asked for the names of files, and takes them as patterns.
_WILDCARDS = frozenset("*?[]")
# The manifest of all-MiniLM-L6-v2 has 3,000 bytes.
_MAX_MANIFEST_BYTES = 16_000_000

# The tasks, and the kind of output that every graph needs for the task.
EMBED, RANK, SPARSE, MULTI_VECTOR = "embed", "rank", "sparse", "multi_vector"
OUTPUT_OF_TASK = {EMBED: "dense", RANK: "score", SPARSE: "sparse", MULTI_VECTOR: "token"}
DTYPES = ("fp32", "fp16", "int8", "int4")
# Modalities: what a graph takes. An artifact has at most one graph for each pair of modality and dtype.
TEXT, IMAGE = "text", "image"
SIMILARITY_FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")
# The same for texts that have a vector for each token.
MAXSIM_FUNCTIONS = ("maxsim", "meanmaxsim")
# Every model has these prompts. A checkpoint may give them another text.
DEFAULT_PROMPTS = {"query": "", "document": ""}
GRAPH_INPUTS = ("input_ids", "attention_mask")
# 0 for tokens of the first text of a pair, 1 for tokens of the second. Models of pairs need this input.
TOKEN_TYPE_IDS = "token_type_ids"
# The attention mask without the tokens of the prompt. Models that leave the prompt out of the pooling need this input.
POOLING_MASK = "pooling_mask"
IMAGE_INPUTS = ("pixel_values",)
# A graph may compute attention without a mask if a batch has no padding and its texts have at least this many tokens.
# The numbers of the two ways differ by 1e-7. In int8 such a difference moves a number to the next step of a scale, and
# a vector by up to 6e-3. So on a device that takes both ways, the runtime never pads texts of this many tokens: then a
# text's own length decides which way it takes, and its vector does not depend on its batch.
UNPADDED_FROM_TOKENS = 129
# The form of a graph that looks up a vector for each token and takes their mean. It does hardly any work for a token.
LOOKUP = "lookup"
# Fields of the manifest that are left out of the file if they are None.
_OPTIONAL = ("queries", "max_active_dims")


@frozen
class File:
    """A file of the artifact.

    Attributes:
        name: file name in the artifact's directory.
        size: number of bytes.
        sha256: digest in lower-case hexadecimal.
    """

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # A manifest may be untrusted. It must not name files outside its own directory.
        plain = self.name not in ("", ".", "..") and self.name.isprintable() and not set(self.name) & _WILDCARDS
        plain = plain and PurePosixPath(self.name).name == self.name == PureWindowsPath(self.name).name
        plain = plain and len(self.name.encode()) <= _MAX_NAME_BYTES
        require(plain, f"name: {self.name!r:.80} is not a plain file name")
        require(0 <= self.size < 2**63, f"size: {self.size} is not from 0 to 2**63 - 1")
        require(len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef"), "sha256: not a digest")


@frozen
class Source:
    """The checkpoint that the artifact was made from.

    Attributes:
        model: id on the Hub, or the name of the directory.
        revision: commit on the Hub; None for a local directory.
        weights_sha256: digest of the weights.
    """

    model: str
    revision: str | None
    weights_sha256: str


@frozen
class TokenizerSettings:
    """The tokenizer's file, and the limit and the padding that the runtime sets.

    Padding is always on the right, whatever the checkpoint says. A token then has the same position in every batch, so
    a vector does not depend on its batch.

    Attributes:
        file: the `tokenizer.json`.
        max_seq_length: most tokens of a text, or of both texts of a pair together, special tokens included.
            `UNLIMITED_TOKENS` stands for no limit.
        pad_id: token id that pads shorter texts.
        special_ids: ids of special tokens such as [SEP]. At the end of a prompt they do not count as its tokens.
    """

    file: File
    max_seq_length: int
    pad_id: int
    special_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        limit = self.max_seq_length
        require(0 < limit <= UNLIMITED_TOKENS, f"max_seq_length: {limit} is not from 1 to 2**31 - 1")
        require(0 <= self.pad_id < 2**31, f"pad_id: {self.pad_id} is not from 0 to 2**31 - 1")


@frozen
class Head:
    """The layers after the token vectors. They are part of the graph; the manifest lists them for people.

    Attributes:
        pooling: pooling modes, by sentence-transformers' names. The results of several modes are concatenated.
        include_prompt: whether the tokens of the prompt are pooled too.
        layers: the layers after the pooling, in order, such as "dense(768, 512, tanh)" or "normalize".
    """

    pooling: tuple[str, ...]
    include_prompt: bool
    layers: tuple[str, ...]


@frozen
class Output:
    """A named output of a graph.

    Attributes:
        name: name in the graph.
        kind: "dense", "score", "sparse" or "token".
        shape: sizes for one input, without the batch axis. A size that depends on the input is None.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        kinds = tuple(OUTPUT_OF_TASK.values())
        require(self.kind in kinds, f"kind: {self.kind!r} is none of {', '.join(kinds)}")
        require(len(self.shape) >= 1, "shape: empty")
        require(all(size is None or size >= 1 for size in self.shape), f"shape: {list(self.shape)} is no shape")
        vector = len(self.shape) == 1 and self.shape[0] is not None
        require(self.kind == "token" or vector, f"shape: a {self.kind} output needs exactly one fixed size")
        table = len(self.shape) == 2 and self.shape[0] is None and self.shape[1] is not None
        require(self.kind != "token" or table, "shape: a token output needs null and one fixed size")


@frozen
class StaticQueries:
    """How a sparse model encodes queries without a graph: each token id that a query has gets its weight.

    Queries have no special tokens.

    Attributes:
        weights: the file of the weights, float32 in little-endian, one for each token id.
        max_seq_length: most tokens of a query.
    """

    weights: File
    max_seq_length: int

    def __post_init__(self) -> None:
        require(self.weights.size % 4 == 0, f"weights.size: {self.weights.size} bytes are no float32 numbers")
        require(0 < self.max_seq_length < 2**31, f"max_seq_length: {self.max_seq_length} is not from 1 to 2**31 - 1")


@frozen
class Graph:
    """An ONNX graph, the file of its weights, and the export's measurements.

    Attributes:
        modality: what the graph takes, "text" or "image".
        dtype: "fp32", "fp16", "int8" or "int4".
        file: file of the graph.
        weights: file of the weights. Its name must be `<file>.data`, because the graph refers to this name.
        inputs: names of the inputs.
        outputs: the outputs.
        form: name of the form of the graph that the export chose.
        candidates: timed graphs. For fp32: its forms. For another dtype: this graph and the fp32 graph.
        quality: measured on vectors for dtypes other than fp32; None for fp32, and for graphs that give scores.
        score_quality: the same for graphs that give scores.
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
    score_quality: ScoreQuality | None

    def __post_init__(self) -> None:
        require(self.dtype in DTYPES, f"dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")
        # onnxruntime reads a file of another ending in another format.
        require(self.file.name.endswith(".onnx"), f"file: {self.file.name!r} does not end in .onnx")
        require(
            self.weights.name == f"{self.file.name}.data",
            f"weights: {self.weights.name!r} is not {self.file.name}.data",
        )
        require(self.modality in (TEXT, IMAGE), f"modality: {self.modality!r} is neither {TEXT!r} nor {IMAGE!r}")
        required = IMAGE_INPUTS if self.modality == IMAGE else GRAPH_INPUTS
        optional = () if self.modality == IMAGE else (TOKEN_TYPE_IDS, POOLING_MASK)
        known = self.inputs[: len(required)] == required and set(self.inputs[len(required) :]) <= set(optional)
        require(
            known and len(set(self.inputs)) == len(self.inputs),
            f"inputs: {list(self.inputs)} is not {list(required)}, with or without any of {list(optional)}",
        )
        names = [output.name for output in self.outputs]
        require(len(names) >= 1 and len(set(names)) == len(names), f"outputs: {names} is empty or has a name twice")

    @property
    def is_lookup(self) -> bool:
        """Whether the graph only looks up the vectors of tokens and takes their mean."""
        return self.form == LOOKUP

    def output(self, kind: str) -> Output | None:
        """Return the first output of `kind`, or None if there is none."""
        return next((output for output in self.outputs if output.kind == kind), None)


@frozen
class Manifest:
    """Everything that a program needs to run the artifact, and everything that a person needs to trust it.

    Attributes:
        format_version: version of this format.
        task: what the artifact is for: "embed", "rank", "sparse" or "multi_vector".
        source: the checkpoint that the artifact was made from.
        similarity_fn_name: function that compares vectors; None if the task gives none.
        tokenizer: how texts become tokens.
        images: how images are prepared; None if the model takes no images.
        image_model: id of another model. Its image vectors can be compared with this model's text vectors.
        head: the layers after the token vectors; None if there is no pooling.
        scores: what the scores of a pair mean; None unless the task is "rank".
        multi_vector: how queries and documents become tokens; None unless the task is "multi_vector".
        prompts: texts to put before an input, by name.
        default_prompt_name: the prompt for calls that give none.
        graphs: the graphs, at most one for each pair of modality and dtype.
        parity: how close the vectors of texts are to the reference's. None for scores; those have `scores.parity`.
        tools: versions of the programs that made the artifact, by name.
        extra: `prepacked` has the digests of the prepacked forms. `int8_products` lists the products that int8 graphs
            compute in fp32. `positions` is the most tokens of a text that the graph can read. `text_memory` is the
            memory that a long text needs. `match_logits` makes a probability of the cosine of an image and a text.
            `padded_tokens` is the length to which the graph pads shorter texts. This version ignores all other fields.
        queries: how a sparse model encodes queries; None if they are encoded as documents are.
        max_active_dims: how many numbers of a sparse vector are kept by default; None keeps all.

    Example:
        >>> model.manifest.source.model  # doctest: +SKIP
        'sentence-transformers/all-MiniLM-L6-v2'
    """

    format_version: int
    task: str
    source: Source
    similarity_fn_name: str | None
    tokenizer: TokenizerSettings
    images: ImageSettings | None
    image_model: str | None
    head: Head | None
    scores: ScoreSettings | None
    multi_vector: MultiVectorSettings | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    graphs: tuple[Graph, ...]
    parity: Parity | None
    tools: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)
    queries: StaticQueries | None = None
    max_active_dims: int | None = None

    def __post_init__(self) -> None:
        require(self.task in OUTPUT_OF_TASK, f"task: {self.task!r} is none of {', '.join(OUTPUT_OF_TASK)}")
        functions = MAXSIM_FUNCTIONS if self.task == MULTI_VECTOR else SIMILARITY_FUNCTIONS
        require(
            self.similarity_fn_name in (None, *functions),
            f"similarity_fn_name: {self.similarity_fn_name!r} is none of {', '.join(functions)}",
        )
        needed = self.task in (EMBED, MULTI_VECTOR)
        require(not needed or self.similarity_fn_name is not None, f"similarity_fn_name: null in task {self.task!r}")
        self._check_graphs()
        self._check_outputs()
        is_sparse = self.task == SPARSE
        require(is_sparse or self.queries is None, f"queries: contradicts the task {self.task!r}")
        most = self.max_active_dims
        require(is_sparse or most is None, f"max_active_dims: contradicts the task {self.task!r}")
        require(most is None or most >= 1, f"max_active_dims: {most} is below 1")
        require(
            self.default_prompt_name in (None, *DEFAULT_PROMPTS, *self.prompts),
            f"default_prompt_name: {self.default_prompt_name!r} is not among the prompts",
        )

    def _check_graphs(self) -> None:
        kinds = [(graph.modality, graph.dtype) for graph in self.graphs]
        require(len(set(kinds)) == len(kinds), f"graphs: two have the same modality and dtype, {kinds}")
        modalities, found = set(self.modalities), {modality for modality, _ in kinds}
        require(len(self.graphs) >= 1, "graphs: empty")
        require(found == modalities, f"graphs: they take {sorted(found)}, and should take {sorted(modalities)}")
        for graph in self.graphs_of(TEXT):
            masked = POOLING_MASK in graph.inputs
            require(masked == self.leaves_prompt_out, f"head.include_prompt: contradicts inputs {list(graph.inputs)}")

    def _check_outputs(self) -> None:
        kind = OUTPUT_OF_TASK[self.task]
        shapes = {output.shape if (output := graph.output(kind)) else None for graph in self.graphs}
        require(None not in shapes, f"graphs: task {self.task!r} needs an output of the kind {kind!r} in each")
        require(len(shapes) == 1, f"graphs: their outputs of the kind {kind!r} differ in shape")
        require((self.scores is not None) == (self.task == RANK), f"scores: contradicts the task {self.task!r}")
        is_multi = self.task == MULTI_VECTOR
        require((self.multi_vector is not None) == is_multi, f"multi_vector: contradicts the task {self.task!r}")
        if self.scores is not None and self.scores.label_names:
            names = len(self.scores.label_names)
            require((names,) == self.output_shape, f"scores.label_names: {names} names for {self.label_count} labels")

    @property
    def modalities(self) -> tuple[str, ...]:
        """The kinds of input that the model takes: "text", and "image" if it takes images."""
        return (TEXT,) if self.images is None else (TEXT, IMAGE)

    @property
    def leaves_prompt_out(self) -> bool:
        """Whether the pooling leaves out the tokens of the prompt."""
        return self.head is not None and not self.head.include_prompt

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the task's output for one input. It is the same for every graph."""
        output = self.graphs[0].output(OUTPUT_OF_TASK[self.task])
        assert output is not None  # `_check_outputs` made sure
        return output.shape

    @property
    def dimension(self) -> int:
        """Length of a vector.

        Raises:
            ValueError: the task gives no vectors.
        """
        require(self.task != RANK, f"task: {self.task!r} has no dimension")
        *_, dimension = self.output_shape
        assert dimension is not None  # `Output` made sure
        return dimension

    @property
    def label_count(self) -> int:
        """Number of scores that a pair gets, one for each label.

        Raises:
            ValueError: the task is not "rank".
        """
        require(self.task == RANK, f"task: {self.task!r} has no labels")
        (count,) = self.output_shape
        assert count is not None  # `Output` made sure
        return count

    def graphs_of(self, modality: str) -> tuple[Graph, ...]:
        """Return the graphs that take `modality`, in the manifest's order."""
        return tuple(graph for graph in self.graphs if graph.modality == modality)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the artifact except the manifest itself."""
        graphs = [file for graph in self.graphs for file in (graph.file, graph.weights)]
        return (self.tokenizer.file, *graphs, *([] if self.queries is None else [self.queries.weights]))


def write_manifest(manifest: Manifest, directory: Path) -> None:
    """Write `manifest` to the file embedder.json in `directory`. An earlier file is replaced in one step."""
    # Only sparse models have these fields. Without them, manifests of other models are the same as ever.
    content = {name: value for name, value in asdict(manifest).items() if name not in _OPTIONAL or value is not None}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with replacing(directory / MANIFEST_NAME) as partial:
        partial.write_text(text, encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read and check the file embedder.json in `directory`. An older format is upgraded in memory.

    Raises:
        FormatError: this version of embedder cannot read the format version.
        ArtifactError: the file cannot be read or is not JSON; or a field is missing, unknown or out of range.

    Example:
        >>> read_manifest(Path("artifacts/all-MiniLM-L6-v2")).task  # doctest: +SKIP
        'embed'
    """
    path = directory / MANIFEST_NAME
    try:
        content = parse_json(read_regular(path, _MAX_MANIFEST_BYTES))
    except (OSError, ValueError) as error:
        problem = lfs_pointer_problem(path) or f"{path} cannot be read ({error}): export or copy the model again"
        raise ArtifactError(problem) from error
    check_format_version(path, content)
    try:
        return decode(Manifest, upgrade(content))  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} is not a valid manifest: {problem}. Export or copy the model again") from error
