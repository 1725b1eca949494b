"""The export from end to end: every stage in its order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from embedder.manifest import Manifest, write_manifest

from embedder_export.checkpoint import Checkpoint
from embedder_export.choose import choose_form
from embedder_export.convert import convert_body, convert_tokenizer
from embedder_export.fuse import fused_forms
from embedder_export.head import add_head
from embedder_export.verify import verify
from embedder_export.write import staged, write_artifact


def export(checkpoint: Checkpoint, output: Path, report: Callable[[str], None]) -> Manifest:
    """Export `checkpoint` to the directory `output`; `report` is told of each stage.

    `output` changes only when everything, parity included, has passed.

    Raises:
        EmbedderError: its subclasses in `embedder_export.errors`.
    """
    with staged(output) as stage:
        report("converting the transformer to ONNX")
        tokenizer = convert_tokenizer(checkpoint)
        body, shape = convert_body(checkpoint)

        report("fusing, and timing the forms of the graph")
        forms = fused_forms(body, shape)
        forms = {form: add_head(graph, checkpoint.head, shape.hidden_size) for form, graph in forms.items()}
        with TemporaryDirectory(dir=stage) as scratch:
            choice = choose_form(forms, tokenizer.max_seq_length, Path(scratch))
            report(f"writing the graph (form: {choice.form})")
            manifest = write_artifact(stage, checkpoint, tokenizer, choice, shape.hidden_size)
        write_manifest(manifest, stage)

        report("comparing with sentence-transformers")
        manifest = replace(manifest, parity=verify(stage, checkpoint))
        write_manifest(manifest, stage)
    return manifest
