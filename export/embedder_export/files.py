"""A checkpoint's files: JSON, and weights. Reading one never runs anything that it holds."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from embedder.digests import sha256_of

from embedder_export.errors import CheckpointError


def read_json(path: Path, kind: type, default: Any = None) -> Any:
    """The content of `path`, a JSON `kind`; `default`, where one is given, if there is no such file.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise CheckpointError(f"{path} is missing: is this a sentence-transformers checkpoint?") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, not {content!r:.80}")
    return content


def find_weights(directory: Path) -> list[Path]:
    """The files of weights in `directory`: safetensors where there are any, else torch's own.

    Raises:
        CheckpointError: there are none.
    """
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if not files:
        raise CheckpointError(f"{directory} has no .safetensors file, and no pytorch_model.bin either")
    return files


def digest_weights(directory: Path) -> str:
    """SHA-256 of the weights; of weights in several files, that of their digests in the order of their names."""
    digests = [sha256_of(file) for file in find_weights(directory)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_weights(directory: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors of a small module, float32: those of `shapes`, all of them and no others.

    Raises:
        CheckpointError: there is no file of them, it is damaged or would run code, or has other tensors.
    """
    import torch
    from safetensors.torch import load_file

    path = find_weights(directory)[0]
    try:
        tensors = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except Exception as error:  # both libraries raise whatever the damage led to
        raise CheckpointError(f"{path} cannot be read as plain weights: {error}") from error
    if found != shapes:
        raise CheckpointError(f"{path} holds the tensors {found}, not {shapes}")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}
