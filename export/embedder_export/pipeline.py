"""The export from end to end: every stage in its order."""

import gc
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.artifact.manifest import IMAGE, TEXT, Graph, Manifest, write_manifest

from embedder_export.body.body import Body
from embedder_export.body.convert import convert_bodies
from embedder_export.checkpoint.image_processor import read_images
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.dtype.choose import Choice, choose_form, timed
from embedder_export.dtype.fp16 import halve
from embedder_export.dtype.int8 import quantize
from embedder_export.dtype.samples import Samples, image_samples, text_samples
from embedder_export.errors import CheckpointError
from embedder_export.graph.files import save_graph
from embedder_export.head.head import add_head
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.limits import ModelLimits
from embedder_export.verify.verify import (
    MIN_MEAN_COSINE,
    MIN_QUALITY_COSINE,
    falls_short,
    measure_quality,
    verify,
)
from embedder_export.write.write import keep_graphs, staged, write_artifact

# What an export can write, of `embedder.artifact.manifest.DTYPES`; fp16 is for GPUs, so it has to be asked for.
DTYPES = ("fp32", "int8", "fp16")
_BY_DEFAULT = ("fp32", "int8")
_MAKERS = {"int8": quantize, "fp16": halve}


def export(
    checkpoint: Checkpoint,
    output: Path,
    report: Callable[[str], None],
    *,
    converter: str = "auto",
    dtypes: Collection[str] | None = None,
    verification: str = "auto",
) -> Manifest:
    """Export `checkpoint` to the directory `output`; `report` is told of each stage.

    `output` changes only when everything, parity included, has passed.

    Args:
        checkpoint: what to export.
        output: where to; an artifact there is replaced.
        report: called with a line at each stage.
        converter: one of `convert.CONVERTERS`.
        dtypes: those of `DTYPES` to write; None for all that are good enough.
        verification: one of `verify.VERIFICATIONS`.

    Raises:
        EmbedderError: its subclasses in `embedder_export.errors`.
    """
    with staged(output) as stage, TemporaryDirectory(dir=stage) as scratch:
        report("converting to ONNX")
        bodies = convert_bodies(checkpoint, converter, Path(scratch, "bodies"), report)
        text = bodies[TEXT]
        limits = ModelLimits(text.max_position_embeddings, text.usable_positions, text.vocabulary_size)
        tokenizer = convert_tokenizer(checkpoint, limits)
        images = None
        if IMAGE in bodies:
            images = read_images(checkpoint.transformer, bodies[IMAGE].image_size, bodies[IMAGE].usable_positions)
        choices: dict[tuple[str, str], Choice] = {}
        for modality, body in bodies.items():
            samples = image_samples(images) if modality == IMAGE else text_samples(tokenizer)
            name = modality if checkpoint.is_clip else "model"
            made, dimension = _choices(checkpoint, body, samples, Path(scratch, modality), name, dtypes, report)
            choices |= {(modality, dtype): choice for dtype, choice in made.items()}

        report(f"writing the graphs; texts are cut at {tokenizer.max_seq_length} tokens")
        manifest = write_artifact(stage, checkpoint, tokenizer, images, choices, dimension)
        write_manifest(manifest, stage)

        parity, of_images = verify(stage, checkpoint, report, verification)
        if images is not None:
            images = replace(images, parity=of_images)
        manifest = replace(manifest, parity=parity, images=images)
        manifest = _with_quality(stage, manifest, dtypes, report)
        write_manifest(manifest, stage)
    return manifest


def _choices(
    checkpoint: Checkpoint,
    body: Body,
    samples: Samples,
    scratch: Path,
    name: str,
    dtypes: Collection[str] | None,
    report: Callable[[str], None],
) -> tuple[dict[str, Choice], int]:
    """The graphs of one transformer, called `name`, by dtype, in folders of `scratch`; and their dimension."""
    scratch.mkdir()
    forms = {}
    for form, model in body.forms:
        dimension = add_head(model.graph, checkpoint.layers, body.hidden_size)
        forms[form] = save_graph(model, scratch / form, f"{name}.onnx")
        del model
        gc.collect()  # fusing leaves cycles that hold the weights
    choice = choose_form(forms, samples.batches, report)
    choices = {"fp32": choice}
    # Fused attention keeps its weights to itself; the first form has every product as a node.
    first = next(iter(forms))
    for dtype, make in _MAKERS.items():
        if dtype not in (_BY_DEFAULT if dtypes is None else dtypes):
            continue
        report(f"making {name}.{dtype}.onnx")
        try:
            path = make(forms[first], samples.singles, scratch / dtype / f"{name}.{dtype}.onnx")
            candidates = timed({"fp32": choice.graph, dtype: path}, samples.batches, tolerance=math.inf)
            if len(candidates) < 2:
                raise CheckpointError("onnxruntime fails on it")
            choices[dtype] = Choice(path, first, candidates)
        except Exception as error:  # the graph may be any that can be traced
            if dtypes is not None:
                raise CheckpointError(f"{dtype} of {checkpoint.name} cannot be made: {error}") from error
            report(f"{dtype} is not written, as it cannot be made: {error}")
    return choices, dimension


def _with_quality(
    stage: Path, manifest: Manifest, dtypes: Collection[str] | None, report: Callable[[str], None]
) -> Manifest:
    """`manifest` with what each graph is worth, and without those that were not asked for, or are too bad."""
    measured, kept = [], []
    for graph in manifest.graphs:
        if graph.dtype != "fp32":
            graph = replace(graph, quality=measure_quality(stage, graph.modality, graph.dtype))
            report(_described(graph, wanted=dtypes is not None))
        measured.append(graph)
        good = graph.quality is None or not falls_short(graph.quality)
        if good if dtypes is None else graph.dtype in dtypes:
            kept.append(graph)
    return keep_graphs(stage, replace(manifest, graphs=tuple(measured)), tuple(kept))


def _described(graph: Graph, *, wanted: bool) -> str:
    quality = graph.quality
    line = (
        f"{graph.file.name} beside fp32: mean cosine {quality.mean_cosine:.4f}, smallest {quality.min_cosine:.4f}, "
        f"over {quality.samples} samples"
    )
    if falls_short(quality):
        line += f": it falls short of {MIN_MEAN_COSINE} and {MIN_QUALITY_COSINE}"
        if not wanted:
            line += ", and is not written; --dtypes writes it all the same"
    return line
