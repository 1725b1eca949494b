"""The export from end to end: every stage in its order."""

import gc
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.manifest import Graph, Manifest, write_manifest
from tokenizers import Tokenizer

from embedder_export.checkpoint import Checkpoint
from embedder_export.choose import Choice, choose_form, timed
from embedder_export.convert import convert_body
from embedder_export.errors import CheckpointError
from embedder_export.graphs import save_graph
from embedder_export.head import add_head
from embedder_export.int8 import quantize
from embedder_export.tokenizer import ConvertedTokenizer, convert_tokenizer
from embedder_export.verify import (
    MIN_MEAN_COSINE,
    MIN_QUALITY_COSINE,
    falls_short,
    measure_quality,
    parity_sentences,
    sample_sentences,
    verify,
)
from embedder_export.write import drop_graphs, staged, write_artifact

# What an export can write, of `embedder.manifest.PRECISIONS`.
GRAPHS = ("fp32", "int8")


def export(
    checkpoint: Checkpoint,
    output: Path,
    report: Callable[[str], None],
    *,
    converter: str = "auto",
    graphs: Collection[str] | None = None,
) -> Manifest:
    """Export `checkpoint` to the directory `output`; `report` is told of each stage.

    `output` changes only when everything, parity included, has passed.

    Args:
        checkpoint: what to export.
        output: where to; an artifact there is replaced.
        report: called with a line at each stage.
        converter: one of `convert.CONVERTERS`.
        graphs: those of `GRAPHS` to write; None for all that are good enough.

    Raises:
        EmbedderError: its subclasses in `embedder_export.errors`.
    """
    with staged(output) as stage, TemporaryDirectory(dir=stage) as scratch:
        report("converting the transformer to ONNX")
        body = convert_body(checkpoint, converter, Path(scratch, "body"), report)
        tokenizer = convert_tokenizer(checkpoint, body.max_position_embeddings, body.usable_positions)
        forms = {}
        for form, model in body.forms:
            dimension = add_head(model.graph, checkpoint.layers, body.hidden_size)
            forms[form] = save_graph(model, Path(scratch, form))
            del model
            gc.collect()  # fusing leaves cycles that hold the weights
        choice = choose_form(forms, tokenizer, parity_sentences(), report)
        choices = {"fp32": choice}
        if graphs is None or "int8" in graphs:
            report("quantising the graph to int8")
            # Fused attention keeps its weights to itself; the first form has every product as a node.
            first = next(iter(forms))
            source = replace(choice, graph=forms[first], form=first)
            try:
                choices["int8"] = _quantized(choice, source, tokenizer, Path(scratch, "int8"))
            except Exception as error:  # the graph may be any that can be traced
                if graphs is not None:
                    raise CheckpointError(f"the graph of {checkpoint.name} cannot be quantised: {error}") from error
                report(f"int8 is not written, as the graph cannot be quantised: {error}")

        report(f"writing the graphs (form: {choice.form}); texts are cut at {tokenizer.max_seq_length} tokens")
        manifest = write_artifact(stage, checkpoint, tokenizer, choices, dimension)
        write_manifest(manifest, stage)

        manifest = replace(manifest, parity=verify(stage, checkpoint, report))
        manifest = _with_quality(stage, manifest, graphs, report)
        write_manifest(manifest, stage)
    return manifest


def _quantized(fp32: Choice, source: Choice, tokenizer: ConvertedTokenizer, directory: Path) -> Choice:
    """The graph `source` in int8, timed beside `fp32`."""
    backend = Tokenizer.from_str(tokenizer.json)
    backend.enable_truncation(tokenizer.max_seq_length)
    texts = [encoding.ids for encoding in backend.encode_batch(sample_sentences()) if encoding.ids]
    path = quantize(source.graph, texts, directory)
    candidates = timed({"fp32": fp32.graph, "int8": path}, tokenizer, sample_sentences(), tolerance=math.inf)
    if len(candidates) < 2:
        raise CheckpointError("onnxruntime fails on it in int8")
    return Choice(path, source.form, candidates)


def _with_quality(
    stage: Path, manifest: Manifest, graphs: Collection[str] | None, report: Callable[[str], None]
) -> Manifest:
    """`manifest` with what each graph is worth, and without those that were not asked for, or are too bad."""
    measured, bad = [], set()
    for graph in manifest.graphs:
        if graph.precision != "fp32":
            graph = replace(graph, quality=measure_quality(stage, graph.precision))
            report(_described(graph, wanted=graphs is not None))
            if falls_short(graph.quality):
                bad.add(graph.precision)
        measured.append(graph)
    kept = {graph.precision for graph in measured} - bad if graphs is None else graphs
    return drop_graphs(stage, replace(manifest, graphs=tuple(measured)), kept)


def _described(graph: Graph, *, wanted: bool) -> str:
    quality = graph.quality
    line = (
        f"{graph.precision} beside fp32: mean cosine {quality.mean_cosine:.4f}, smallest {quality.min_cosine:.4f}, "
        f"over {quality.sentences} sentences"
    )
    if falls_short(quality):
        line += f": it falls short of {MIN_MEAN_COSINE} and {MIN_QUALITY_COSINE}"
        if not wanted:
            line += ", and is not written; --graphs writes it all the same"
    return line
