"""Call the handler once, in a process that has nothing but the unpacked zip, and check its vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.target import Target
from embedder import Embedder
from embedder.artifact.artifact import Artifact

_TEXTS = ["A cat sits outside.", "Le chat est assis dehors.", "The kitten is resting in the garden. " * 20]
_CALL = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import lambda_function; "
    "print(json.dumps(lambda_function.handler({'inputs': json.loads(sys.argv[2])}, None)))"
)
# Another optimisation of the same graph may round differently.
_TOLERANCE = 1e-4


def try_directory(directory: Path, artifact: Artifact, dtype: str, target: Target) -> None:
    """Call the handler in `directory`, an unpacked zip, and compare its vectors with those of `artifact`.

    Nothing is done if this machine cannot run it.

    Raises:
        BuildError: the handler fails, or its vectors are others.
    """
    if not target.runs_here:
        return
    expected = Embedder(artifact.directory, provider="cpu", dtype=dtype).encode(_TEXTS)
    found = call_handler(directory, _TEXTS, target.python)
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not difference <= _TOLERANCE:
        raise BuildError(
            f"the vectors of the handler are not those of {artifact.directory}: they differ by {difference:g}"
        )


def call_handler(directory: Path, texts: list[str], python: str) -> NDArray[np.float32]:
    """Return the vectors of the handler in `directory`. It runs in a new process of `python`.

    Raises:
        BuildError: the handler fails.

    Example:
        >>> call_handler(Path("task"), ["a text"], "python3.13").shape  # doctest: +SKIP
        (1, 384)
    """
    # -I and -S: no module comes from anywhere else.
    command = [python, "-I", "-S", "-c", _CALL, str(directory), json.dumps(texts)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        vectors = np.array(json.loads(answer.stdout)["embeddings"], np.float32)
    except (ValueError, KeyError) as error:
        raise BuildError(f"the handler fails: {answer.stdout or answer.stderr.strip()}") from error
    sys.stderr.write(answer.stderr)  # of onnxruntime, which knows few virtual machines
    return vectors
