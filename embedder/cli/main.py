"""The command line, `embedder`."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import IMAGE, TEXT, Graph, Manifest, Parity
from embedder.backends import select_device
from embedder.backends.prepacked import prepack
from embedder.cli import records
from embedder.common.checks import check_count
from embedder.common.digests import check_digest
from embedder.encoder import DEFAULT_IMAGE_MODEL, DEFAULT_MODEL, Embedder
from embedder.engine.engine import choose_graph
from embedder.errors import EmbedderError, InputError
from embedder.images.sources import IMAGE_ENDINGS, is_image


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that the message explains, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    if not sys.warnoptions:  # Pillow warns of damage that it can read past
        warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except EmbedderError as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader has gone, as in `| head`
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    except KeyboardInterrupt:
        return 130


def _failed(message: str) -> int:
    if sys.stderr is not None:
        print(f"embedder: error: {message}", file=sys.stderr)
    return 1


def _drop_output() -> None:
    """Keep Python from failing once more, over what standard output does not take, when it flushes at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="embedder", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"embedder {embedder.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    encode = commands.add_parser(
        "encode", help="turn texts or images into vectors", description=_ENCODE, allow_abbrev=False
    )
    source = encode.add_mutually_exclusive_group()
    source.add_argument("input", nargs="?", default=records.STDIO, metavar="INPUT", help="a file; default: stdin")
    source.add_argument("--images", metavar="DIR", help="for texts, the images in this directory and those below it")
    encode.add_argument("-o", "--output", default=records.STDIO, metavar="FILE", help="a file; default: stdout")
    encode.add_argument("--input-format", choices=records.INPUT_KINDS, help="default: by the file's name; stdin: lines")
    encode.add_argument("--column", help="where a JSONL or CSV record has its text; default: text")
    encode.add_argument("--output-format", choices=records.WRITERS, help="default: by the file's name; stdout: jsonl")
    encode.add_argument("--prompt", help="put this before each text")
    encode.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of this name before each text")
    encode.add_argument("--batch-size", type=int, metavar="N", help="most texts in one call of the model")
    encode.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    encode.add_argument("--normalize", action="store_true", help="scale each vector to length 1")
    encode.set_defaults(run=_encode)

    search = commands.add_parser("search", help="find images", description=_SEARCH, allow_abbrev=False)
    search.add_argument("query", metavar="QUERY", help="a text, or the path of an image")
    search.add_argument("--images", required=True, metavar="DIR", help="where to search, and below")
    search.add_argument(
        "-k", "--top-k", type=int, default=10, metavar="N", help="how many to show; default: %(default)s"
    )
    search.set_defaults(run=_search)

    similarity = commands.add_parser("similarity", help="how near two texts are, by the model's own function")
    similarity.add_argument("a", metavar="A", help="a text")
    similarity.add_argument("b", metavar="B", help="another")
    similarity.set_defaults(run=_similarity)

    prepack = commands.add_parser("prepack", help="pack an artifact's weights for this CPU", description=_PREPACK)
    prepack.add_argument("artifact", metavar="ARTIFACT", help="path or name of a model")
    prepack.set_defaults(run=_prepack)

    for command in (encode, search, similarity):
        model = DEFAULT_IMAGE_MODEL if command is search else DEFAULT_MODEL
        command.add_argument("-m", "--model", default=model, help="path or name; default: %(default)s")
        command.add_argument("--provider", metavar="NAME", help="cpu or cuda; default: a GPU if it can")
        command.add_argument(
            "--dtype", metavar="NAME", help="fp32, int8, or auto for the fastest; default: the exact one"
        )
        command.add_argument("--threads", type=int, metavar="N", help="most threads on a CPU; default: its cores")

    info = commands.add_parser("info", help="what an artifact is, how it was made, and whether its files are whole")
    info.add_argument("artifact", metavar="ARTIFACT", help="path or name of a model")
    info.set_defaults(run=_info)
    return parser


_DESCRIPTION = "Sentence and image embeddings without PyTorch."
_ENCODE = """Turn texts into vectors, in the order of the input. An empty line is a text too. JSONL output repeats each
record with its vector under "embedding"; .npy output is one float32 array of shape (n, dimension). Images come in the
order of their paths, which JSONL output has under "image"; those that cannot be read are named and left out."""
_SEARCH = """Find the images that are nearest to a text, or to another image, by a model that takes both, or by one of
texts that goes with another of images."""


_PREPACK = """Pack the weights of each graph as this CPU and the installed onnxruntime want them, in files beside the
artifact's own: then it loads sooner, and all processes that load it share them. For images and functions, of which the
disk cannot be written later; elsewhere the first load does it, in the user's cache."""


def _encode(options: argparse.Namespace) -> None:
    kind = options.output_format or records.output_kind(options.output)
    column = options.column or "text"
    if kind == "jsonl" and column == "embedding":
        raise InputError("--column embedding: JSONL output has the vectors there. Rename the column")
    model = _load(options, options.model)
    if options.images is None:
        input_kind = options.input_format or records.input_kind(options.input)
        source = records.read_records(options.input, input_kind, column)
    else:
        _check_takes_images(model)
        for name in ("column", "input_format", "prompt", "prompt_name"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} is for texts, and --images gives none")
        column, source = "image", ({"image": str(path)} for path in records.image_files(options.images))
    waiting: dict[int, records.Record] = {}

    def inputs() -> Iterator[str | Path]:
        for index, record in enumerate(source):
            waiting[index] = record
            yield record[column] if options.images is None else Path(record[column])

    blocks = model.encode_iter(
        inputs(),
        prompt=options.prompt,
        prompt_name=options.prompt_name,
        batch_size=options.batch_size,
        truncate_dim=options.truncate_dim,
        normalize_embeddings=options.normalize,
        show_progress_bar=_is_watched(),
        read_paths=False,
        errors="skip",
    )
    embedded = (([waiting.pop(index) for index in indices.tolist()], vectors) for vectors, indices in blocks)
    with records.open_output(options.output) as stream:
        records.WRITERS[kind](stream, embedded, options.truncate_dim or model.dimension)
    if waiting:
        raise InputError(f"{len(waiting)} of the images cannot be read, as said above; what can be is written")


def _search(options: argparse.Namespace) -> None:
    check_count("top_k", options.top_k)
    if options.query.lower().endswith(IMAGE_ENDINGS) and not os.path.isfile(options.query):
        raise InputError(f"QUERY is the name of an image, and there is no such file: {options.query}")
    model = _load(options, options.model)
    image_model = model
    if IMAGE not in model.modalities and model.manifest.image_model is not None:
        image_model = _load(options, model.manifest.image_model)
    _check_takes_images(image_model)
    query = (image_model if is_image(options.query) else model).encode(options.query)
    paths = records.image_files(options.images)
    vectors, indices = image_model.encode(paths, show_progress_bar=_is_watched(), errors="skip")
    scores = model.similarity(query, vectors)[0]
    _print_anything()
    for row in np.argsort(-scores, kind="stable")[: options.top_k]:
        print(f"{scores[row]:.4f}  {paths[indices[row]]}")
    if len(indices) < len(paths):
        raise InputError(f"{len(paths) - len(indices)} of {len(paths)} images cannot be read, as said above")


def _print_anything() -> None:
    """Let standard output take what it has no letters for: of a prompt, or of a path that is not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _load(options: argparse.Namespace, model: str) -> Embedder:
    return Embedder(model, provider=options.provider, dtype=options.dtype, threads=options.threads)


def _check_takes_images(model: Embedder) -> None:
    if IMAGE not in model.modalities:
        name = model.manifest.source.model
        raise InputError(f"{name!r} takes no images. Choose --model, such as {DEFAULT_IMAGE_MODEL}")


def _is_watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _similarity(options: argparse.Namespace) -> None:
    model = _load(options, options.model)
    a, b = model.encode([options.a, options.b], read_paths=False)
    print(f"{model.similarity(a, b).item():.4f}")


def _prepack(options: argparse.Namespace) -> None:
    for path in prepack(open_artifact(options.artifact)):
        print(path.parent)


def _info(options: argparse.Namespace) -> None:
    artifact = open_artifact(options.artifact)
    _print_anything()
    for label, value in _described(artifact.manifest):
        print(f"{label:<16}{value}")
    for file in artifact.manifest.files:
        check_digest(artifact.path(file), file.sha256)
    print(f"{'files':<16}{len(artifact.manifest.files)} in {artifact.directory}, all with the right sha256")


def _described(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source, head = manifest.source, manifest.head
    yield "model", source.model + (f" at {source.revision}" if source.revision else "")
    yield "weights", f"sha256 {source.weights_sha256}"
    yield "dimension", str(manifest.dimension)
    yield "max_seq_length", f"{manifest.tokenizer.max_seq_length} tokens"
    yield "similarity", manifest.similarity_fn_name
    pooling = "+".join(head.pooling) + ("" if head.include_prompt else ", without the prompt")
    yield "head", ", ".join([f"{pooling} pooling", *head.layers])
    for name, prompt in manifest.prompts.items():
        default = " (default)" if name == manifest.default_prompt_name else ""
        yield "prompt", f"{name}{default}: {prompt!r}"
    yield from _described_images(manifest)
    for modality in manifest.modalities:
        graphs = manifest.graphs_of(modality)
        for graph in graphs:
            yield f"{modality} graph" if manifest.images else "graph", _described_graph(graph)
        dtype = choose_graph(graphs, "auto", select_device("cpu")).dtype
        yield "auto", f"{dtype}, on a CPU like this one"
    yield from _described_parity(manifest.parity, _SAMPLES[TEXT])
    if manifest.images is not None:
        yield from _described_parity(manifest.images.parity, _SAMPLES[IMAGE])
    yield "made by", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _described_images(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.image_model is not None:
        yield "images", f"none; its texts go with the images of {manifest.image_model}"
    if manifest.images is not None:
        images = manifest.images
        size, crop = (" x ".join(map(str, numbers)) for numbers in (images.resize, images.crop))
        yield "images", f"resized to {size or 'no other size'} ({images.resample}), cropped to {crop or 'all'}"


def _described_parity(parity: Parity | None, samples: str) -> Iterator[tuple[str, str]]:
    if parity is None:
        yield "parity", f"of {samples} not measured: the export had nothing to compare with"
        return
    yield "parity", f"with {parity.reference}, over {parity.samples} {samples}:"
    yield "", f"smallest cosine {parity.min_cosine:.8f}, largest difference {parity.max_difference:.1e}"


_SAMPLES = {TEXT: "sentences", IMAGE: "images"}


def _described_graph(graph: Graph) -> str:
    megabytes = (graph.file.size + graph.weights.size) / 1e6
    timed = ", ".join(f"{candidate.name} {candidate.milliseconds:.1f} ms" for candidate in graph.candidates)
    timing = f" (timed at export: {timed})" if timed else ""
    quality = graph.quality
    near = (
        f", cosine to fp32 {quality.mean_cosine:.4f} on average, {quality.min_cosine:.4f} at the least, over "
        f"{quality.samples} {_SAMPLES[graph.modality]}"
        if quality
        else ""
    )
    return f"{graph.dtype}, {megabytes:.1f} MB, form: {graph.form}{timing}{near}"
