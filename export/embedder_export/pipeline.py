"""Run the export from end to end, stage by stage."""

import gc
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
from embedder.artifact.image_settings import ImageSettings
from embedder.artifact.manifest import IMAGE, RANK, TEXT, Graph, Manifest, Output, write_manifest
from embedder.artifact.match_logits import MatchLogits
from embedder.artifact.positions import describe_limit

from embedder_export.body.contract import ALL_TOKENS, Body, BodyRequest
from embedder_export.body.convert import convert_bodies
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.image_processor import read_images
from embedder_export.checkpoint.layers import Pooling
from embedder_export.checkpoint.match_logits import read_match_logits
from embedder_export.dtype.convert import DTYPES, Conversion, convert_dtypes
from embedder_export.errors import CheckpointError
from embedder_export.graph.files import save_graph
from embedder_export.head.heads import add_head
from embedder_export.samples.feeds import Samples
from embedder_export.samples.images import image_samples
from embedder_export.samples.pairs import pair_samples
from embedder_export.samples.texts import text_samples
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.tokenizer.convert import convert_tokenizer, gives_token_types, read_padding
from embedder_export.tokenizer.limits import ModelLimits
from embedder_export.verify.memory import measure_text_memory
from embedder_export.verify.parity import verify
from embedder_export.verify.quality import describe_limits, describe_quality, is_good_enough, with_quality
from embedder_export.write.artifact import FinishedGraph, Parts, keep_graphs, write_files
from embedder_export.write.output import staged

__all__ = ["DTYPES", "ExportSettings", "export"]


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export.

    Attributes:
        converter: one of `body.convert.CONVERTERS`.
        dtypes: which of `DTYPES` to write. None writes fp32, and the others if they are close enough to it: int8, and
            fp16 on a machine with a GPU that works.
        verification: one of `verify.parity.VERIFICATIONS`.
    """

    converter: str = "auto"
    dtypes: Collection[str] | None = None
    verification: str = "auto"


@dataclass(frozen=True)
class _Export:
    """The values that all stages share.

    Attributes:
        checkpoint: the checkpoint that is exported.
        dtypes: the dtypes that the caller asked for. None stands for the default.
        report: called with a line at each stage.
        scratch: a directory for files between stages.
    """

    checkpoint: Checkpoint
    dtypes: Collection[str] | None
    report: Callable[[str], None]
    scratch: Path


def export(
    checkpoint: Checkpoint,
    output: Path,
    report: Callable[[str], None],
    settings: ExportSettings = ExportSettings(),
) -> Manifest:
    """Export `checkpoint` to the directory `output`.

    `output` changes only after every stage and the comparison with the reference have passed.

    Args:
        checkpoint: what to export.
        output: the directory to write. An artifact there is replaced.
        report: called with a line at each stage.
        settings: how to export it.

    Returns:
        The manifest of the new artifact.

    Raises:
        EmbedderError: one of its subclasses in `embedder_export.errors`.

    Example:
        >>> checkpoint = read_checkpoint("checkpoints/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> export(checkpoint, Path("artifacts/all-MiniLM-L6-v2"), print).dimension  # doctest: +SKIP
        384
    """
    with staged(output) as stage, TemporaryDirectory(dir=stage) as scratch:
        work = _Export(checkpoint, settings.dtypes, report, Path(scratch))
        report("converting to ONNX")
        request = _body_request(checkpoint)
        bodies = convert_bodies(checkpoint, settings.converter, work.scratch / "bodies", report, request)
        tokenizer = convert_tokenizer(checkpoint, _model_limits(bodies[TEXT]))
        images = _read_image_settings(checkpoint, bodies)
        graphs = _finish_graphs(work, bodies, tokenizer, images)

        limits, logits = _model_limits(bodies[TEXT]), _read_match_logits(checkpoint)
        report(f"writing the graphs; {describe_limit(tokenizer.max_seq_length)}")
        manifest = write_files(stage, Parts(checkpoint, tokenizer, images, graphs, limits, logits))
        write_manifest(manifest, stage)

        manifest = verify(stage, manifest, checkpoint, report, settings.verification)
        manifest = _keep_good_graphs(work, stage, _with_quality(work, stage, manifest))
        manifest = measure_text_memory(stage, manifest, report)
        write_manifest(manifest, stage)
    return manifest


def _body_request(checkpoint: Checkpoint) -> BodyRequest:
    """Return what the head and the tokenizer need from the graph."""
    family = checkpoint.family
    if checkpoint.task != RANK:
        expansion = None if checkpoint.roles is None else checkpoint.roles.expansion
        fills_up = expansion is not None and not expansion.is_attended
        return replace(ALL_TOKENS, fills_up=fills_up, padding=read_padding(checkpoint) if family.pads_texts else None)
    # A traced model says itself whether it has token types.
    token_types = (family.has_token_types or not family.builders) and gives_token_types(checkpoint)
    first_token_only = family.rank_head is not None and checkpoint.layers[:1] == (Pooling(("cls",), True),)
    return BodyRequest(token_types, first_token_only)


def _model_limits(body: Body) -> ModelLimits:
    sizes = body.sizes
    return ModelLimits(sizes.max_position_embeddings, sizes.usable_positions, sizes.vocabulary_size)


def _read_image_settings(checkpoint: Checkpoint, bodies: dict[str, Body]) -> ImageSettings | None:
    processor = checkpoint.family.image_processor
    if IMAGE not in bodies or processor is None:
        return None
    return read_images(checkpoint.transformer, processor, bodies[IMAGE].sizes)


def _read_match_logits(checkpoint: Checkpoint) -> MatchLogits | None:
    if not checkpoint.family.has_match_logits:
        return None
    try:
        return read_match_logits(checkpoint.transformer)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error}") from error


def _finish_graphs(
    work: _Export, bodies: dict[str, Body], tokenizer: ConvertedTokenizer, images: ImageSettings | None
) -> tuple[FinishedGraph, ...]:
    """Add the head to each transformer, and return the graphs in every dtype."""
    finished = []
    for modality, body in bodies.items():
        samples = _samples(work.checkpoint, tokenizer, images if modality == IMAGE else None)
        name = modality if len(bodies) > 1 else "model"
        finished += _finish_body(work, modality, name, body, samples)
    return tuple(finished)


def _samples(checkpoint: Checkpoint, tokenizer: ConvertedTokenizer, images: ImageSettings | None) -> Samples:
    if images is not None:
        return image_samples(images)
    return pair_samples(tokenizer) if checkpoint.task == RANK else text_samples(tokenizer)


def _finish_body(work: _Export, modality: str, name: str, body: Body, samples: Samples) -> list[FinishedGraph]:
    directory = work.scratch / modality
    directory.mkdir()
    forms, ends = _add_heads(work.checkpoint, body, directory, f"{name}.onnx")
    try:
        writers = _gpu_writer(work.checkpoint, body), _dtype_writer(work.checkpoint, body)
        conversion = Conversion(name, forms, samples, directory, *writers)
        chosen = convert_dtypes(conversion, work.dtypes, work.report)
    except CheckpointError as error:
        raise CheckpointError(f"{work.checkpoint.name}: {error}") from error
    return [FinishedGraph(modality, dtype, *ends, graph) for dtype, graph in chosen.items()]


def _add_heads(
    checkpoint: Checkpoint, body: Body, directory: Path, name: str
) -> tuple[dict[str, Path], tuple[tuple[str, ...], tuple[Output, ...]]]:
    """Add the head to each form of a transformer, and save it.

    Returns:
        The files by form; the names of the inputs, and the outputs. They are the same for all forms.
    """
    forms: dict[str, Path] = {}
    inputs: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()
    for form, model in body.forms:
        outputs = add_head(model.graph, checkpoint.layers, body.sizes.width, checkpoint.task)
        inputs = tuple(str(value.name) for value in model.graph.inputs)
        forms[form] = save_graph(model, directory / form, name)
        del model
        gc.collect()  # fusing leaves reference cycles that hold the weights
    return forms, (inputs, outputs)


def _gpu_writer(checkpoint: Checkpoint, body: Body) -> Callable[[], ir.Model] | None:
    """Return a function that writes the graph for GPUs with its head. None if there is no such graph."""
    write_body = body.write_for_gpu
    if write_body is None:
        return None

    def write() -> ir.Model:
        model = write_body()
        add_head(model.graph, checkpoint.layers, body.sizes.width, checkpoint.task)
        return model

    return write


def _dtype_writer(checkpoint: Checkpoint, body: Body) -> Callable[[str], ir.Model] | None:
    """Return a function that writes the graph of a dtype with its head. None if the fp32 graph is converted."""
    write_body = body.write_dtype
    if write_body is None:
        return None

    def write(dtype: str) -> ir.Model:
        model = write_body(dtype)
        add_head(model.graph, checkpoint.layers, body.sizes.width, checkpoint.task)
        return model

    return write


def _with_quality(work: _Export, stage: Path, manifest: Manifest) -> Manifest:
    """Measure each graph that is not fp32. Return the manifest with the results."""
    graphs = []
    for graph in manifest.graphs:
        if graph.dtype != "fp32":
            graph = with_quality(stage, graph, manifest.task)
            work.report(_describe_quality(graph, asked_for=work.dtypes is not None))
        graphs.append(graph)
    return replace(manifest, graphs=tuple(graphs))


def _keep_good_graphs(work: _Export, stage: Path, manifest: Manifest) -> Manifest:
    """Remove the graphs that the caller did not ask for; by default, the graphs that are too far from fp32.

    Returns:
        The manifest without the removed graphs.
    """

    def is_kept(graph: Graph) -> bool:
        if work.dtypes is not None:
            return graph.dtype in work.dtypes
        return graph.dtype == "fp32" or is_good_enough(graph)

    return keep_graphs(stage, manifest, [graph for graph in manifest.graphs if is_kept(graph)])


def _describe_quality(graph: Graph, *, asked_for: bool) -> str:
    line = f"{graph.file.name} compared with fp32: {describe_quality(graph)}"
    if not is_good_enough(graph):
        line += f". {describe_limits(graph)}"
        if not asked_for:
            line += ", so it is not written; --dtypes writes it anyway"
    return line
