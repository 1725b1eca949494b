"""`embedder info`: describe an artifact."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedder.cli.commands import Commands, add_command, add_revision_option
from embedder.cli.console import print_text

if TYPE_CHECKING:
    from embedder.artifact.image_settings import ImageSettings
    from embedder.artifact.int8_products import Int8Products
    from embedder.artifact.manifest import Graph, Head, Manifest
    from embedder.artifact.measurements import Parity, ScoreParity
    from embedder.artifact.multi_vector import MultiVectorSettings
    from embedder.artifact.scores import ScoreSettings

_DESCRIPTION = """Print the model, the settings and the graphs of an artifact, and how close its
vectors are to those of the reference. The last lines say which dtypes and
prepacked weights are on this machine, which device runs a model if no provider
is named, in which directory the model lies, and where it was found.
`embedder verify` checks its files."""
_EXAMPLE = "  embedder info all-MiniLM-L6-v2"
_SAMPLES = {"text": "sentences", "image": "images"}
_PAIRS = "pairs"
_TOKENS = "tokens of queries and documents"
_LABEL_WIDTH = 16

# A label and its text.
Line = tuple[str, str]


def add_parser(commands: Commands) -> None:
    """Add `embedder info`."""
    parser = add_command(
        commands,
        "info",
        "describe a model, and say where it comes from",
        usage="MODEL",
        description=_DESCRIPTION,
        example=_EXAMPLE,
    )
    parser.add_argument("artifact", metavar="MODEL", help="name or path of a model")
    add_revision_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the description of an artifact."""
    from embedder.artifact.hub_access import HubAccess
    from embedder.artifact.locate import open_artifact
    from embedder.backends.prepacked import describe_prepacked

    artifact = open_artifact(options.artifact, HubAccess(options.revision), may_export=False)
    for line in _manifest_lines(artifact.manifest):
        _print_line(line)
    here = dict.fromkeys(graph.dtype for graph in artifact.graphs_here())
    _print_line(("dtypes here", ", ".join(here) or "none"))
    for text in describe_prepacked(artifact):
        _print_line(("prepacked", text))
    _print_line(("device", _device_text()))
    _print_line(("directory", str(artifact.directory)))
    _print_line(("found in", str(artifact.origin)))


def _print_line(line: Line) -> None:
    label, text = line
    print_text(f"{label:<{_LABEL_WIDTH}}{text}")


def _manifest_lines(manifest: Manifest) -> Iterator[Line]:
    from embedder.artifact.distillation import distillation
    from embedder.artifact.positions import UNLIMITED_TOKENS, positions

    source = manifest.source
    yield "model", source.model + (f" at {source.revision}" if source.revision else "")
    yield "weights", f"sha256 {source.weights_sha256}"
    taught = distillation(manifest)
    if taught is not None:
        yield "distilled", f"from {taught.teacher}; Spearman {taught.spearman:.3f} with it over {taught.pairs} pairs"
    yield from _output_lines(manifest)
    limit, most = manifest.tokenizer.max_seq_length, positions(manifest)
    pair = " of a pair" if manifest.scores is not None else ""
    tokens = "no limit" if limit == UNLIMITED_TOKENS else f"{limit} tokens"
    yield "max_seq_length", f"{tokens}{pair}" + (f"; the graph can read {most:,}" if most > limit else "")
    if manifest.head is not None:
        yield "head", _head_text(manifest.head)
    for name, prompt in manifest.prompts.items():
        default = " (default)" if name == manifest.default_prompt_name else ""
        yield "prompt", f"{name}{default}: {prompt!r}"
    if manifest.image_model is not None:
        yield "images", f"none; compare its texts with the images of {manifest.image_model}"
    if manifest.images is not None:
        yield "images", _images_text(manifest.images)
    yield from _graph_lines(manifest)
    if manifest.scores is None:
        samples = _SAMPLES["text"] if manifest.multi_vector is None else _TOKENS
        yield from _parity_lines(manifest.parity, samples)
    else:
        yield from _parity_lines(manifest.scores.parity, _PAIRS)
    if manifest.images is not None:
        yield from _parity_lines(manifest.images.parity, _SAMPLES["image"])
    yield "made by", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _output_lines(manifest: Manifest) -> Iterator[Line]:
    """Yield the lines that depend on the task of the artifact."""
    from embedder.artifact.match_logits import match_logits

    yield "task", manifest.task
    if manifest.task == "embed":
        yield "dimension", str(manifest.dimension)
    elif manifest.scores is not None:
        yield "labels", _labels_text(manifest.label_count, manifest.scores)
    elif manifest.multi_vector is not None:
        yield "dimension", f"{manifest.dimension} for each token"
        yield from _role_lines(manifest.multi_vector)
    else:
        yield "output shape", " x ".join("any" if size is None else str(size) for size in manifest.output_shape)
    if manifest.queries is not None:
        yield "queries", f"static weights, without a graph; at most {manifest.queries.max_seq_length} tokens"
    if manifest.max_active_dims is not None:
        yield "largest", f"{manifest.max_active_dims} numbers of each vector are kept"
    if manifest.similarity_fn_name is not None:
        yield "similarity", manifest.similarity_fn_name
    logits = match_logits(manifest)
    if logits is not None:
        yield "probability", f"sigmoid({logits.scale:.2f} * cosine {logits.bias:+.2f}) of an image and a text"


def _role_lines(settings: MultiVectorSettings) -> Iterator[Line]:
    """Yield how queries and documents become tokens."""
    from embedder.artifact.multi_vector import QUERY, ROLES

    for role in ROLES:
        text = f"up to {settings.length_of(role)} tokens"
        expansion = settings.expansion
        if role == QUERY and expansion is not None:
            attended = "attended to" if expansion.is_attended else "not attended to"
            text += f", filled up to {expansion.length} with token {expansion.token_id}, which is {attended}"
        if role in settings.skipped_in:
            text += f"; {len(settings.skipped_ids)} tokens, such as punctuation, give no vector"
        yield role, text


def _labels_text(count: int, scores: ScoreSettings) -> str:
    names = f" ({', '.join(map(repr, scores.label_names))})" if scores.label_names else ""
    return f"{count}{names}, activation_fn: {scores.activation_fn}"


def _head_text(head: Head) -> str:
    if not head.pooling:
        return ", ".join(head.layers) or "none"
    pooling = "+".join(head.pooling) + ("" if head.include_prompt else ", without the prompt")
    return ", ".join([f"{pooling} pooling", *head.layers])


def _images_text(images: ImageSettings) -> str:
    size, crop = (" x ".join(map(str, numbers)) for numbers in (images.resize, images.crop))
    resizing = f"resized to {size} ({images.resample})" if size else "not resized"
    return f"{resizing}, {f'cropped to {crop}' if crop else 'not cropped'}"


def _graph_lines(manifest: Manifest) -> Iterator[Line]:
    from embedder.artifact.int8_products import int8_products
    from embedder.backends import default_device
    from embedder.engine.loading import choose_graph

    device, _ = default_device()
    for modality in manifest.modalities:
        graphs = manifest.graphs_of(modality)
        for graph in graphs:
            label = f"{modality} graph" if manifest.images else "graph"
            yield label, _graph_text(graph) + _products_text(int8_products(manifest, graph))
        dtype = choose_graph(graphs, "auto", device).dtype
        yield "auto", f"{dtype} on {device.name}"


def _device_text() -> str:
    """Return the device that runs a model if no provider is named, and why no other one does."""
    from embedder.backends import default_device

    device, problems = default_device()
    failed = [problem for kind, problem in problems if kind.is_installed()]
    if problems and not failed:
        return f"{device.name}; the onnxruntime installed here has no other"
    return "; ".join([device.name, *failed])


def _graph_text(graph: Graph) -> str:
    megabytes = (graph.file.size + graph.weights.size) / 1e6
    text = f"{graph.dtype}, {megabytes:.1f} MB, form: {graph.form}"
    if graph.candidates:
        timings = ", ".join(f"{candidate.name} {candidate.milliseconds:.1f} ms" for candidate in graph.candidates)
        text += f" (timed at export: {timings})"
    if graph.quality is not None:
        quality = graph.quality
        text += (
            f", cosine to fp32: mean {quality.mean_cosine:.4f}, smallest {quality.min_cosine:.4f}, over "
            f"{quality.samples} {_SAMPLES[graph.modality]}"
        )
    if graph.score_quality is not None:
        found = graph.score_quality
        text += (
            f", Spearman with fp32: {found.spearman:.4f}, largest difference {found.max_difference:.2%} of the range, "
            f"over {found.samples} {_PAIRS}"
        ).replace("%", " %")
    return text


def _products_text(products: Int8Products | None) -> str:
    """Return how many products of an int8 graph are computed in fp32, wholly or in part."""
    if products is None:
        return ""
    kept, split = len(products.fp32), len(products.split)
    text = f", products in fp32: {kept} of {products.count}"
    return text + (f", with outliers in fp32: {split}" if split else "")


def _parity_lines(parity: Parity | ScoreParity | None, samples: str) -> Iterator[Line]:
    from embedder.artifact.measurements import ScoreParity

    if parity is None:
        yield "parity", f"not measured for {samples}, because the export had no reference"
        return
    yield "parity", f"with {parity.reference}, over {parity.samples} {samples}:"
    if isinstance(parity, ScoreParity):
        yield "", f"Spearman {parity.spearman:.8f}, largest difference {parity.max_difference:.1e} of the range"
    else:
        yield "", f"smallest cosine {parity.min_cosine:.8f}, largest difference {parity.max_difference:.1e}"
