"""The command line, `embedder`."""

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

import embedder
from embedder import packed, records
from embedder.artifact import open_artifact
from embedder.digests import check_digest
from embedder.encoder import DEFAULT_MODEL, Embedder, choose_graph
from embedder.errors import EmbedderError, InputError
from embedder.manifest import Graph, Manifest
from embedder.session import PROVIDERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that the message explains, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
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

    encode = commands.add_parser("encode", help="turn texts into vectors", description=_ENCODE, allow_abbrev=False)
    encode.add_argument("input", nargs="?", default=records.STDIO, metavar="INPUT", help="a file; default: stdin")
    encode.add_argument("-o", "--output", default=records.STDIO, metavar="FILE", help="a file; default: stdout")
    encode.add_argument("--input-format", choices=records.INPUT_KINDS, help="default: by the file's name; stdin: lines")
    encode.add_argument("--column", default="text", help="where a JSONL or CSV record has its text; default: text")
    encode.add_argument("--output-format", choices=records.WRITERS, help="default: by the file's name; stdout: jsonl")
    encode.add_argument("--prompt", help="put this before each text")
    encode.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of this name before each text")
    encode.add_argument("--batch-size", type=int, metavar="N", help="most texts in one call of the model")
    encode.add_argument("--truncate-dim", type=int, metavar="N", help="keep the first N dimensions")
    encode.add_argument("--normalize", action="store_true", help="scale each vector to length 1")
    encode.set_defaults(run=_encode)

    similarity = commands.add_parser("similarity", help="how near two texts are, by the model's own function")
    similarity.add_argument("a", metavar="A", help="a text")
    similarity.add_argument("b", metavar="B", help="another")
    similarity.set_defaults(run=_similarity)

    optimize = commands.add_parser("optimize", help="pack an artifact's weights for this CPU", description=_OPTIMIZE)
    optimize.add_argument("artifact", metavar="ARTIFACT", help="path or name of a model")
    optimize.set_defaults(run=_optimize)

    for command in (encode, similarity):
        command.add_argument("-m", "--model", default=DEFAULT_MODEL, help="path or name; default: %(default)s")
        command.add_argument("--provider", metavar="NAME", help=f"{' or '.join(PROVIDERS)}; default: a GPU if it can")
        command.add_argument(
            "--graph", metavar="NAME", help="fp32, int8, or auto for the fastest; default: the exact one"
        )
        command.add_argument("--threads", type=int, metavar="N", help="most threads on a CPU; default: its cores")

    info = commands.add_parser("info", help="what an artifact is, how it was made, and whether its files are whole")
    info.add_argument("artifact", metavar="ARTIFACT", help="path or name of a model")
    info.set_defaults(run=_info)
    return parser


_DESCRIPTION = "Sentence embeddings without PyTorch."
_ENCODE = """Turn texts into vectors, in the order of the input. An empty line is a text too. JSONL output repeats each
record with its vector under "embedding"; .npy output is one float32 array of shape (n, dimension)."""


_OPTIMIZE = """Pack the weights of each graph as this CPU and the installed onnxruntime want them, in files beside the
artifact's own: then it loads sooner, and all processes that load it share them. For images and functions, of which the
disk cannot be written later; elsewhere the first load does it, in the user's cache."""


def _encode(options: argparse.Namespace) -> None:
    kind = options.output_format or records.output_kind(options.output)
    if kind == "jsonl" and options.column == "embedding":
        raise InputError("--column embedding: JSONL output has the vectors there. Rename the column")
    model = Embedder(options.model, provider=options.provider, graph=options.graph, threads=options.threads)
    source = records.read_records(
        options.input, options.input_format or records.input_kind(options.input), options.column
    )
    waiting: list[records.Record] = []

    def texts() -> Iterator[str]:
        for record in source:
            waiting.append(record)
            yield record[options.column]

    vectors = model.encode_iter(
        texts(),
        prompt=options.prompt,
        prompt_name=options.prompt_name,
        batch_size=options.batch_size,
        truncate_dim=options.truncate_dim,
        normalize_embeddings=options.normalize,
        show_progress_bar=sys.stderr is not None and sys.stderr.isatty(),
    )

    def embedded() -> Iterator[tuple[list[records.Record], NDArray[np.float32]]]:
        for block in vectors:
            yield waiting[: len(block)], block
            del waiting[: len(block)]

    with records.open_output(options.output) as stream:
        records.WRITERS[kind](stream, embedded(), options.truncate_dim or model.dimension)


def _similarity(options: argparse.Namespace) -> None:
    model = Embedder(options.model, provider=options.provider, graph=options.graph, threads=options.threads)
    a, b = model.encode([options.a, options.b])
    print(f"{model.similarity(a, b).item():.4f}")


def _optimize(options: argparse.Namespace) -> None:
    for path in packed.optimize(open_artifact(options.artifact)):
        print(path.parent)


def _info(options: argparse.Namespace) -> None:
    artifact = open_artifact(options.artifact)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have the letters of a prompt or a path
        sys.stdout.reconfigure(errors="backslashreplace")
    for label, value in _described(artifact.manifest):
        print(f"{label:<16}{value}")
    for file in artifact.manifest.files:
        check_digest(artifact.path(file), file.sha256)
    print(f"{'files':<16}{len(artifact.manifest.files)} in {artifact.directory}, all with the right sha256")


def _described(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source, head, parity = manifest.source, manifest.head, manifest.parity
    yield "model", source.model + (f" at {source.revision}" if source.revision else "")
    yield "weights", f"sha256 {source.weights_sha256}"
    yield "dimension", str(manifest.dimension)
    yield "max_seq_length", f"{manifest.tokenizer.max_seq_length} tokens"
    yield "similarity", manifest.similarity
    pooling = "+".join(head.pooling) + ("" if head.include_prompt else ", without the prompt")
    yield "head", ", ".join([f"{pooling} pooling", *head.layers])
    for name, prompt in manifest.prompts.items():
        default = " (default)" if name == manifest.default_prompt_name else ""
        yield "prompt", f"{name}{default}: {prompt!r}"
    for graph in manifest.graphs:
        yield "graph", _described_graph(graph)
    yield "auto", f"{choose_graph(manifest.graphs, 'auto', 'cpu').precision}, on a CPU like this one"
    if parity is not None:
        yield "parity", f"with {parity.reference}, over {parity.sentences} sentences:"
        yield "", f"smallest cosine {parity.min_cosine:.8f}, largest difference {parity.max_difference:.1e}"
    else:
        yield "parity", "not measured: the export had nothing to compare with"
    yield "made by", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _described_graph(graph: Graph) -> str:
    megabytes = (graph.file.size + graph.weights.size) / 1e6
    timed = ", ".join(f"{candidate.name} {candidate.milliseconds:.1f} ms" for candidate in graph.candidates)
    timing = f" (timed at export: {timed})" if timed else ""
    quality = graph.quality
    near = (
        f", cosine to fp32 {quality.mean_cosine:.4f} on average, {quality.min_cosine:.4f} at the least, over "
        f"{quality.sentences} sentences"
        if quality
        else ""
    )
    return f"{graph.precision}, {megabytes:.1f} MB, form: {graph.form}{timing}{near}"
