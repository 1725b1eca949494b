"""Fifth stage: the artifact's files, and their place on disk."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from embedder.artifact.manifest import (
    EMBED,
    FORMAT_VERSION,
    GRAPH_INPUTS,
    IMAGE_INPUTS,
    MANIFEST_NAME,
    POOLING_MASK,
    TEXT,
    File,
    Graph,
    Head,
    ImageSettings,
    Manifest,
    Output,
    Source,
    TokenizerSettings,
)
from embedder.backends.prepacked import FOLDER as PACKED
from embedder.common.digests import sha256_of

from embedder_export import __version__
from embedder_export.body.body import NATIVE
from embedder_export.checkpoint.modules import describe
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.dtype.choose import Choice
from embedder_export.errors import OutputError
from embedder_export.graph.files import weights_of
from embedder_export.head.head import OUTPUT
from embedder_export.tokenizer.convert import ConvertedTokenizer

_OUR_NAMES = (MANIFEST_NAME, "tokenizer.json")
_TOOLS = ("onnx", "onnx_ir", "onnxruntime", "tokenizers", "safetensors")
_TRACING_TOOLS = ("optimum-onnx", "transformers", "torch")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A new directory beside `output`, that takes its place when the body ends without an error.

    Raises:
        OutputError: `output` exists and holds anything but an artifact, so it is not ours to replace; or cannot be
            written.
    """
    try:
        output = output.resolve()
        stage = output.with_name(f".embedder-export-{secrets.token_hex(4)}")
    except (RuntimeError, ValueError) as error:  # a loop of links; no name, as / has none
        raise OutputError(f"{output} cannot be written: {error}") from error
    _check_ours(output)
    new_parents = [parent for parent in output.parents if not parent.exists()]
    try:
        stage.mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}") from error
    try:
        yield stage
        _check_ours(output)
        _replace_directory(output, stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        with suppress(OSError):  # somebody else may have put something there meanwhile
            for parent in new_parents:
                parent.rmdir()
        raise


def _replace_directory(output: Path, stage: Path) -> None:
    old = stage.with_name(f"{stage.name}-old")
    try:
        if output.exists():
            output.rename(old)
        stage.rename(output)
    except OSError as error:
        if old.exists() and not output.exists():
            old.rename(output)
        raise OutputError(f"{output} cannot be replaced, and is as it was: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def _check_ours(output: Path) -> None:
    """Raise OutputError if `output` exists and holds anything that an export does not write."""
    if not output.exists():
        return
    paths = list(output.iterdir()) if output.is_dir() else [output]
    others = [path.name for path in paths if not _is_ours(path)]
    if paths and not others and not (output / MANIFEST_NAME).is_file():
        others = [paths[0].name]  # somebody's graphs, and no artifact
    if others:
        raise OutputError(
            f"{output} exists and holds {others[0]!r}, which is no part of an artifact: remove it, or choose another "
            "--output"
        )


def _is_ours(path: Path) -> bool:
    """Whether an export, or `embedder prepack`, may have written `path` into an artifact."""
    if path.name == PACKED:
        return path.is_dir()
    return path.is_file() and (path.name in _OUR_NAMES or path.name.endswith((".onnx", ".onnx.data")))


def write_artifact(
    directory: Path,
    checkpoint: Checkpoint,
    tokenizer: ConvertedTokenizer,
    images: ImageSettings | None,
    choices: dict[tuple[str, str], Choice],
    dimension: int,
) -> Manifest:
    """Move the graphs, by modality and dtype, and their weights to `directory`, and write the tokenizer there.

    Returns:
        The manifest, without parity and quality.
    """
    tokenizer_path = directory / "tokenizer.json"
    tokenizer_path.write_text(tokenizer.json, encoding="utf-8")
    head = describe(checkpoint.layers)
    graphs = []
    for (modality, dtype), choice in choices.items():
        shutil.move(weights_of(choice.graph), directory)
        path = Path(shutil.move(choice.graph, directory))
        graphs.append(describe_graph(path, modality, dtype, head, dimension, choice))
    tools = _TOOLS if graphs[0].form == NATIVE else (*_TOOLS, *_TRACING_TOOLS)
    return Manifest(
        format_version=FORMAT_VERSION,
        task=EMBED,
        source=Source(checkpoint.name, checkpoint.repository and checkpoint.repository[1], checkpoint.weights_sha256),
        similarity_fn_name=checkpoint.similarity,
        tokenizer=TokenizerSettings(
            _described(tokenizer_path), tokenizer.max_seq_length, tokenizer.pad_id, tokenizer.special_ids
        ),
        images=images,
        image_model=checkpoint.image_model,
        head=head,
        prompts=checkpoint.prompts,
        default_prompt_name=checkpoint.default_prompt_name,
        graphs=tuple(graphs),
        parity=None,
        tools={"embedder-export": __version__} | {name: version(name) for name in tools},
    )


def describe_graph(path: Path, modality: str, dtype: str, head: Head, dimension: int, choice: Choice) -> Graph:
    """The graph at `path`, with `head` at its end, for the manifest."""
    of_text = GRAPH_INPUTS if head.include_prompt else (*GRAPH_INPUTS, POOLING_MASK)
    return Graph(
        modality=modality,
        dtype=dtype,
        file=_described(path),
        weights=_described(weights_of(path)),
        inputs=of_text if modality == TEXT else IMAGE_INPUTS,
        outputs=(Output(OUTPUT, "dense", (dimension,)),),
        form=choice.form,
        candidates=choice.candidates,
        quality=None,
    )


def keep_graphs(directory: Path, manifest: Manifest, kept: tuple[Graph, ...]) -> Manifest:
    """The manifest with the graphs `kept` alone; the files of others are removed from `directory`."""
    for graph in manifest.graphs:
        if graph not in kept:
            for file in (graph.file, graph.weights):
                (directory / file.name).unlink()
    return replace(manifest, graphs=kept)


def _described(path: Path) -> File:
    return File(path.name, path.stat().st_size, sha256_of(path))
