"""Run the export without output on the terminal."""

from collections.abc import Callable
from pathlib import Path

from embedder_export import pipeline
from embedder_export.checkpoint.read import read_checkpoint

from embedder.artifact.manifest import Manifest


def export_quietly(checkpoint: Path | str, output: Path, **settings: object) -> Manifest:
    """Export `checkpoint` to `output` with these `ExportSettings`, and report nothing."""
    return _export(checkpoint, output, lambda line: None, settings)


def export_fp32(
    checkpoint: Path | str, output: Path, report: Callable[[str], None] = lambda line: None, **settings: object
) -> Manifest:
    """Export only the fp32 graph. int8 takes seconds and has its own tests."""
    return _export(checkpoint, output, report, {"dtypes": ("fp32",)} | settings)


def _export(
    checkpoint: Path | str, output: Path, report: Callable[[str], None], settings: dict[str, object]
) -> Manifest:
    return pipeline.export(read_checkpoint(str(checkpoint)), output, report, pipeline.ExportSettings(**settings))
