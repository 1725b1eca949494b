"""The export from end to end: every stage in its order."""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.manifest import Manifest, write_manifest

from embedder_export.checkpoint import Checkpoint
from embedder_export.choose import choose_form
from embedder_export.convert import convert_body
from embedder_export.graphs import save_graph
from embedder_export.head import add_head
from embedder_export.tokenizer import convert_tokenizer
from embedder_export.verify import parity_sentences, verify
from embedder_export.write import staged, write_artifact


def export(
    checkpoint: Checkpoint,
    output: Path,
    report: Callable[[str], None],
    *,
    converter: str = "auto",
) -> Manifest:
    """Export `checkpoint` to the directory `output`; `report` is told of each stage.

    `output` changes only when everything, parity included, has passed.

    Args:
        checkpoint: what to export.
        output: where to; an artifact there is replaced.
        report: called with a line at each stage.
        converter: one of `convert.CONVERTERS`.

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

        report(f"writing the graph (form: {choice.form}); texts are cut at {tokenizer.max_seq_length} tokens")
        manifest = write_artifact(stage, checkpoint, tokenizer, choice, dimension)
        write_manifest(manifest, stage)

        manifest = replace(manifest, parity=verify(stage, checkpoint, report))
        write_manifest(manifest, stage)
    return manifest
