"""Build a zip: the flow."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.aws_lambda.builder import bytecode
from deploy.aws_lambda.builder.archive import unpack_zip, write_zip
from deploy.aws_lambda.builder.elf_file import is_library, strip_library
from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.model import check_model, choose_dtype, write_model
from deploy.aws_lambda.builder.needless import TABLE, files_in, remove_needless
from deploy.aws_lambda.builder.packages import install_packages, needed_glibc
from deploy.aws_lambda.builder.sizes import LeftOut, parts_of, size_of, table_of_parts
from deploy.aws_lambda.builder.target import Target
from deploy.aws_lambda.builder.trial import try_directory
from embedder.artifact.artifact import Artifact
from embedder.common.files import replacing

CHECKOUT = Path(__file__).parents[3]
HANDLER = "lambda_function"
# Lambda's limit of an unpacked zip. It says MB, and means these.
MAX_UNPACKED_BYTES = 250 * 1024 * 1024


@dataclass(frozen=True)
class Contents:
    """What a directory for Lambda holds.

    Attributes:
        dtype: the dtype of its graph.
        prepacked: whether the graph's weights are prepacked.
        glibc: the version of glibc that its packages need.
        parts: the bytes of its parts, by their names.
        left_out: what is not in it.
    """

    dtype: str
    prepacked: bool
    glibc: tuple[int, int]
    parts: dict[str, int]
    left_out: list[LeftOut]


def build_zip(artifact: Artifact, target: Target, path: Path) -> Contents:
    """Write the zip `path` for Lambda, and try it if this machine can run it.

    Raises:
        BuildError: as from `build_directory`; or the zip is too large for Lambda.
        EmbedderError: the artifact is damaged.
        OSError: the zip cannot be written. What was there before is kept.

    Example:
        >>> target = choose_target("python3.13", "arm64")  # doctest: +SKIP
        >>> build_zip(open_artifact("all-MiniLM-L6-v2"), target, Path("dist/minilm.zip")).dtype  # doctest: +SKIP
        'int8'
    """
    with tempfile.TemporaryDirectory() as temporary:
        written, unpacked = Path(temporary, "written"), Path(temporary, "unpacked")
        contents = assemble(artifact, target, written, MAX_UNPACKED_BYTES)
        check_size(contents.parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            write_zip(written, partial)
            unpack_zip(partial, unpacked)
            try_directory(unpacked, artifact, contents.dtype, target)
    return contents


def build_directory(artifact: Artifact, target: Target, directory: Path) -> Contents:
    """Write what a zip holds into the new `directory`, for a container image. Try it if this machine can run it.

    Raises:
        BuildError: the model is not for a function; pip fails; or the handler fails, or gives other vectors than
            `artifact`.
        EmbedderError: the artifact is damaged.
        OSError: the directory is there already, or cannot be written.
    """
    directory.mkdir(parents=True)
    contents = assemble(artifact, target, directory, None)
    try_directory(directory, artifact, contents.dtype, target)
    return contents


def assemble(artifact: Artifact, target: Target, directory: Path, max_bytes: int | None) -> Contents:
    """Write the packages, the handler and the model into `directory`, without what a function does not need.

    The weights are not prepacked if the directory would hold more than `max_bytes`. It may still hold more then.

    Raises:
        BuildError, EmbedderError, OSError: as from `build_directory`.
    """
    check_model(artifact)
    dtype = choose_dtype(artifact)
    install_packages(target, CHECKOUT, directory)
    glibc = needed_glibc(directory)
    left_out = _reduce(directory, target)
    left_bytes = None if max_bytes is None else max_bytes - size_of(directory)
    prepacked = write_model(artifact, dtype, target, directory / "model", left_bytes)
    return Contents(dtype, prepacked, glibc, parts_of(directory), left_out)


def _reduce(directory: Path, target: Target) -> list[LeftOut]:
    """Leave out what a function does not need. Add the handler, and compile all modules."""
    removed = remove_needless(directory)
    sizes = [size_of(directory)]
    for file in files_in(directory):
        content = file.read_bytes()
        if is_library(content):
            file.write_bytes(strip_library(content))
    sizes.append(size_of(directory))
    shutil.copyfile(CHECKOUT / "deploy/aws_lambda" / f"{HANDLER}.py", directory / f"{HANDLER}.py")
    compile_modules(directory, target)
    sizes.append(size_of(directory))
    return [
        *(LeftOut(row.what, row.why, removed[row.what]) for row in TABLE),
        LeftOut("symbol tables of libraries", "debuggers read them", sizes[0] - sizes[1]),
        LeftOut("sources and docstrings", "Python runs the bytecode", sizes[1] - sizes[2]),
    ]


def compile_modules(directory: Path, target: Target) -> None:
    """Compile all modules in `directory` by the target's Python.

    Raises:
        BuildError: Python fails.
    """
    command = [target.python, "-S", str(bytecode.__file__), str(directory), HANDLER]
    # The order of a set's members, which bytecode has, depends on the seed.
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BuildError(f"{target.python} cannot compile the packages: {answer.stderr.strip()}")


def check_size(parts: dict[str, int]) -> None:
    """Raise BuildError if Lambda does not take a zip of these parts.

    Raises:
        BuildError: they are too large. The message has their sizes.

    Example:
        >>> check_size({"the model": 34_800_000})
    """
    size = sum(parts.values())
    if size > MAX_UNPACKED_BYTES:
        raise BuildError(
            f"the zip holds {size:,} bytes, and Lambda takes at most {MAX_UNPACKED_BYTES:,} (250 MB). Choose a smaller "
            f"model, or build a container image, which may hold 10 GB. The parts:\n{table_of_parts(parts)}"
        )
