"""The command line of the builder. `make lambda` calls it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.pipeline import Built, build
from deploy.aws_lambda.builder.sizes import table_of_left_out, table_of_parts
from deploy.aws_lambda.builder.target import Target, choose_target
from embedder import EmbedderError
from embedder.artifact.locate import open_artifact

# Lambda's limit of a zip that is sent with a request. Larger ones come from S3.
MAX_UPLOAD_BYTES = 50 * 1024 * 1024


def main(arguments: list[str] | None = None) -> int:
    """Build a zip, and print what it holds. Return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        target = choose_target(options.python, options.arch)
        artifact = open_artifact(options.model)
        built = build(artifact, Path(options.model).resolve().name, target, options.output)
    except (BuildError, EmbedderError, OSError) as error:
        print(f"make lambda: {error}", file=sys.stderr)
        return 1
    print(report(built, target))
    return 0


def report(built: Built, target: Target) -> str:
    """Return what people need to know of a zip: its sizes, what was left out, and notes.

    Example:
        >>> print(report(built, target))  # doctest: +SKIP
        | part | MB |
        ...
    """
    tables = [table_of_parts(built.parts), table_of_left_out(built.left_out)]
    compressed = built.path.stat().st_size
    summary = (
        f"{built.path}: {compressed / 1e6:.1f} MB, unpacked {sum(built.parts.values()) / 1e6:.1f} MB. "
        f"Runtime {target.runtime}, architecture {target.architecture}, handler lambda_function.handler"
    )
    notes = [f"note: {note}" for note in _notes(built, target, compressed)]
    return "\n\n".join([*tables, "\n".join([summary, *notes])])


def _notes(built: Built, target: Target, compressed: int) -> list[str]:
    notes = []
    if built.dtype != "int8":
        notes.append(f"the model has no int8 graph, so the {built.dtype} graph is in the zip. It is larger and slower")
    if built.glibc > target.glibc:
        notes.append(
            f"Lambda's own runtime {target.runtime} has glibc {_version(target.glibc)}, and the packages need "
            f"{_version(built.glibc)}. For Lambda, set PYTHON to python3.12 or later"
        )
    if not target.runs_here:
        notes.append(
            f"the zip was not tried, and its weights are not prepacked: this machine is no {target.architecture}"
        )
    if compressed > MAX_UPLOAD_BYTES:
        notes.append("Lambda takes a zip above 50 MB from S3 only")
    return notes


def _version(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make lambda", description="Build the zip of an AWS Lambda function.")
    parser.add_argument("model", help="name or path of a model")
    parser.add_argument("--arch", help="x86_64 or arm64 (default: that of this machine)")
    parser.add_argument("--python", default=sys.executable, help="an interpreter of the version that the zip is for")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="directory of the zip (default: dist)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
