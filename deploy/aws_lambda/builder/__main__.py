"""The command line of the builder. `make lambda` calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.pipeline import Contents, build_directory, build_zip
from deploy.aws_lambda.builder.sizes import table_of_left_out, table_of_parts
from deploy.aws_lambda.builder.target import Target, choose_target
from embedder import EmbedderError
from embedder.artifact.locate import open_artifact

# Lambda's limit of a zip that is sent with a request. Larger ones come from S3.
MAX_UPLOAD_BYTES = 50 * 1024 * 1024


def main(arguments: list[str] | None = None) -> int:
    """Build a zip or a directory, and print what it holds. Return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        target = choose_target(options.python, options.arch)
        artifact = open_artifact(options.model)
        if options.unpacked is not None:
            contents = build_directory(artifact, target, options.unpacked)
            print(report(contents, target))
        else:
            path = options.output / f"lambda-{Path(options.model).resolve().name}-{target.architecture}.zip"
            contents = build_zip(artifact, target, path)
            print(report(contents, target, path))
    except (BuildError, EmbedderError, OSError) as error:
        print(f"make lambda: {error}", file=sys.stderr)
        return 1
    return 0


def report(contents: Contents, target: Target, path: Path | None = None) -> str:
    """Return what people need to know of a zip, or of a directory: its sizes, what was left out, and notes.

    Example:
        >>> print(report(contents, target, Path("dist/lambda-minilm-x86_64.zip")))  # doctest: +SKIP
        | part | MB |
        ...
    """
    tables = [table_of_parts(contents.parts), table_of_left_out(contents.left_out)]
    lines = [f"note: {note}" for note in _notes(contents, target, path)]
    if path is not None:
        lines.insert(
            0,
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, unpacked {sum(contents.parts.values()) / 1e6:.1f} MB. "
            f"Runtime {target.runtime}, architecture {target.architecture}, handler lambda_function.handler",
        )
    return "\n\n".join([*tables, *(["\n".join(lines)] if lines else [])])


def _notes(contents: Contents, target: Target, path: Path | None) -> list[str]:
    notes = []
    if contents.dtype != "int8":
        notes.append(f"the model has no int8 graph, so the function runs {contents.dtype}, which is larger and slower")
    if not target.runs_here:
        notes.append(f"nothing was tried or prepacked, because this machine is no Linux on {target.architecture}")
    elif not contents.prepacked:
        notes.append("the weights are not prepacked, because Lambda takes no zip as large. The function starts later")
    if path is None:
        return notes  # an image has a glibc of its own
    if contents.glibc > target.glibc:
        notes.append(
            f"Lambda's own runtime {target.runtime} has glibc {_version(target.glibc)}, and the packages need "
            f"{_version(contents.glibc)}. For Lambda, set PYTHON to python3.12 or later"
        )
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        notes.append("Lambda takes a zip above 50 MB from S3 only")
    return notes


def _version(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make lambda", description="Build the zip of an AWS Lambda function.")
    parser.add_argument("model", help="name or path of a model")
    parser.add_argument("--arch", help="x86_64 or arm64 (default: that of this machine)")
    parser.add_argument("--python", default=sys.executable, help="an interpreter of the version that the zip is for")
    parser.add_argument(
        "--unpacked", type=Path, metavar="DIRECTORY", help="write a directory for a container image instead of a zip"
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="directory of the zip (default: dist)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
