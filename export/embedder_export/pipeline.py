"""The export from end to end: every stage in its order."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.manifest import Manifest, write_manifest

from embedder_export.checkpoint import Checkpoint
from embedder_export.choose import choose_form
from embedder_export.convert import convert_body, convert_tokenizer
from embedder_export.fuse import fused_forms
from embedder_export.graphs import save_graph
from embedder_export.head import add_head
from embedder_export.reference import settle_prompt
from embedder_export.verify import parity_sentences, verify
from embedder_export.write import staged, write_artifact


def export(checkpoint: Checkpoint, output: Path, report: Callable[[str], None]) -> Manifest:
    """Export `checkpoint` to the directory `output`; `report` is told of each stage.

    `output` changes only when everything, parity included, has passed.

    Raises:
        EmbedderError: its subclasses in `embedder_export.errors`.
    """
    with staged(output) as stage:
        with TemporaryDirectory(dir=stage) as scratch:
            checkpoint = settle_prompt(checkpoint)
            report("converting the transformer to ONNX")
            body = convert_body(checkpoint, Path(scratch) / "body")
            tokenizer = convert_tokenizer(checkpoint, body)

            report("fusing, and timing the forms of the graph")
            forms = {}
            for form, graph in fused_forms(body):
                dimension = add_head(graph, checkpoint.layers, body.hidden_size)
                forms[form] = save_graph(graph, Path(scratch) / form, source=body.graph.parent)
                del graph
                gc.collect()  # fusing leaves cycles that hold the weights
            choice = choose_form(forms, tokenizer, parity_sentences())

            report(f"writing the graph (form: {choice.form}); texts are cut at {tokenizer.max_seq_length} tokens")
            manifest = write_artifact(stage, checkpoint, tokenizer, choice, dimension)
        write_manifest(manifest, stage)

        report("comparing with sentence-transformers")
        manifest = replace(manifest, parity=verify(stage, checkpoint))
        write_manifest(manifest, stage)
    return manifest
