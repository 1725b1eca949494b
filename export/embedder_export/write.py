"""Sixth stage: the artifact's files, and their place on disk."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

from embedder.manifest import (
    FORMAT_VERSION,
    GRAPH_INPUTS,
    MANIFEST_NAME,
    File,
    Graph,
    Manifest,
    Source,
    Tokenizer,
)

from embedder_export import __version__
from embedder_export.checkpoint import Checkpoint
from embedder_export.choose import Choice
from embedder_export.convert import ConvertedTokenizer
from embedder_export.errors import OutputError
from embedder_export.graphs import weights_of
from embedder_export.head import OUTPUT

_TOOLS = ("onnx", "onnxruntime", "optimum-onnx", "transformers", "torch", "tokenizers")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A new directory beside `output`, that takes its place when the body ends without an error.

    Raises:
        OutputError: `output` exists and is not an artifact, so it is not ours to replace; or cannot be written.
    """
    output = output.resolve()
    if output.exists() and not (output / MANIFEST_NAME).is_file() and not _is_empty_directory(output):
        raise OutputError(f"{output} exists and is not an artifact: remove it, or choose another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    try:
        yield stage
        stage.chmod(0o777 & ~_umask())
        if output.exists():
            # Swapped by name, so that there is no moment without a whole artifact but the one between two renames.
            output.rename(stage.with_name(f"{stage.name}-old"))
        stage.rename(output)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(stage.with_name(f"{stage.name}-old"), ignore_errors=True)


def write_artifact(
    directory: Path, checkpoint: Checkpoint, tokenizer: ConvertedTokenizer, choice: Choice, dimension: int
) -> Manifest:
    """Write the graph, its weights and the tokenizer to `directory`; the manifest, without parity, is returned."""
    tokenizer_path = directory / "tokenizer.json"
    tokenizer_path.write_text(tokenizer.json, encoding="utf-8")
    graph_path, weights_path = (
        Path(shutil.move(path, directory / path.name)) for path in (choice.graph, weights_of(choice.graph))
    )
    for path in (graph_path, weights_path):
        path.chmod(0o666 & ~_umask())  # onnx makes its files private to their owner
    graph = Graph(
        precision="fp32",
        file=_described(graph_path),
        weights=_described(weights_path),
        inputs=GRAPH_INPUTS,
        output=OUTPUT,
        form=choice.form,
        candidates=choice.candidates,
    )
    return Manifest(
        format_version=FORMAT_VERSION,
        source=Source(checkpoint.name, checkpoint.revision, checkpoint.weights_sha256),
        dimension=dimension,
        similarity=checkpoint.similarity,
        tokenizer=Tokenizer(
            _described(tokenizer_path), tokenizer.max_seq_length, tokenizer.pad_id, tokenizer.padding_side
        ),
        head=checkpoint.head,
        prompts=checkpoint.prompts,
        default_prompt_name=checkpoint.default_prompt_name,
        graphs=(graph,),
        parity=None,
        tools={"embedder-export": __version__} | {name: version(name) for name in _TOOLS},
    )


def _described(path: Path) -> File:
    with path.open("rb") as stream:
        return File(path.name, path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
