"""Choose the graph that a function runs, and write it into the directory of the zip."""

from __future__ import annotations

import shutil
from pathlib import Path

from embedder_export.write.prepacked import write_prepacked_artifact

from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.sizes import size_of
from deploy.aws_lambda.builder.target import Target
from embedder.artifact.artifact import Artifact
from embedder.artifact.manifest import EMBED, TEXT

# The dtypes, in the order in which they are taken. fp16 is slow on a CPU.
_DTYPES = ("int8", "fp32", "fp16")


def check_model(artifact: Artifact) -> None:
    """Raise BuildError unless a function can run the model.

    Raises:
        BuildError: the model takes images, or is not for embeddings.
    """
    manifest = artifact.manifest
    if manifest.task != EMBED:
        raise BuildError(f"{artifact.directory} is for the task {manifest.task!r}. A function needs one for {EMBED!r}")
    if manifest.modalities != (TEXT,):
        raise BuildError(
            f"{artifact.directory} takes images, and a function takes only texts. Choose a model that takes only texts"
        )


def choose_dtype(artifact: Artifact) -> str:
    """Return the dtype that a function runs: int8 if the artifact has it.

    Example:
        >>> choose_dtype(open_artifact("all-MiniLM-L6-v2"))  # doctest: +SKIP
        'int8'
    """
    dtypes = [graph.dtype for graph in artifact.manifest.graphs_of(TEXT)]
    return min(dtypes, key=_DTYPES.index)


def write_model(artifact: Artifact, dtype: str, target: Target, directory: Path, max_bytes: int | None) -> bool:
    """Write the graph of `dtype` into the new `directory`. Return whether its weights are prepacked.

    The weights are prepacked if this machine can run what is built, because it packs them for its own kernels. A CPU of
    another kind uses the plain weights, which are there too. If both need more than `max_bytes`, only the plain ones
    are written.
    """
    if target.runs_here:
        write_prepacked_artifact(artifact, dtype, directory)
        if max_bytes is None or size_of(directory) <= max_bytes:
            return True
        shutil.rmtree(directory)
    write_prepacked_artifact(artifact, dtype, directory, prepack=False)
    return False
