"""sentence-transformers as a reference: its vectors for the same checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NoReferenceError
from embedder_export.packages import is_installed
from embedder_export.tokenizer.transformers5 import needs_version_5
from embedder_export.verify.compare import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Texts or images, uint8 (height, width, 3), and a prompt.
Encode = Callable[[Sequence[Any], str | None], Vectors]


@dataclass(frozen=True)
class Reference:
    """Another program's embeddings.

    Attributes:
        name: of the program, with its version.
        encode: gives float32 (n, dim). It raises NoReferenceError if the program fails on the inputs.
    """

    name: str
    encode: Encode


def is_reference_installed() -> bool:
    """Whether sentence-transformers is installed."""
    return is_installed("sentence_transformers")


def sentence_transformers_reference(checkpoint: Checkpoint, max_seq_length: int) -> Reference | None:
    """Load the checkpoint with sentence-transformers on the CPU. None if that is not installed.

    Args:
        checkpoint: what to load.
        max_seq_length: texts are cut here, in tokens.

    Raises:
        NoReferenceError: it cannot load the checkpoint, which newer libraries saved than are installed.
        CheckpointError: it cannot load the checkpoint for another reason, or fails later on texts or images.
    """
    if not is_reference_installed():
        return None
    model = _load(checkpoint)
    # With padding on the left, some models' vectors depend on their batch: they count positions from the padding's
    # start. With padding on the right each vector is what it is alone.
    model.tokenizer.padding_side = "right"
    # sentence-transformers fails where its limit is past the table of positions.
    model.max_seq_length = min(model.max_seq_length or max_seq_length, max_seq_length)

    def encode(inputs: Sequence[Any], prompt: str | None) -> Vectors:
        given = [Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in inputs]
        try:
            vectors: Vectors = model.encode(given, prompt=prompt, batch_size=8, show_progress_bar=False)
        except Exception as error:  # any error of any library; nothing but its own call stands in this block
            raise _failure(f"sentence-transformers fails on {checkpoint.name}", error) from error
        return vectors

    return Reference(f"sentence-transformers {version('sentence-transformers')}", encode)


def _load(checkpoint: Checkpoint) -> SentenceTransformer:
    name, revision = checkpoint.repository or (str(checkpoint.directory), None)
    try:
        from sentence_transformers import SentenceTransformer

        model: SentenceTransformer = SentenceTransformer(
            name,
            revision=revision,
            device="cpu",
            local_files_only=True,
            # The checkpoint may name an implementation of attention that would be fetched.
            model_kwargs={"attn_implementation": "eager"},
        )
        return model
    except Exception as error:  # any error of any library; nothing but its own calls stand in this block
        problem = f"sentence-transformers cannot load {checkpoint.name}"
        newer = _newer_library(checkpoint)
        if newer is not None:
            raise NoReferenceError(f"{problem}, which {newer}") from error
        raise _failure(problem, error) from error


def _newer_library(checkpoint: Checkpoint) -> str | None:
    """Say which library saved the checkpoint in a newer version than the installed one. None if none did."""
    saved = read_json(checkpoint.directory / "config_sentence_transformers.json", dict, default={}).get("__version__")
    config = read_json(checkpoint.transformer / "config.json", dict, default={})
    by = {
        "sentence-transformers": saved.get("sentence_transformers") if isinstance(saved, dict) else None,
        "transformers": "5" if needs_version_5(checkpoint.transformer) else config.get("transformers_version"),
    }
    for library, text in by.items():
        installed = version(library)
        if _release(text) > _release(installed):
            return f"{library} {text} saved, and {library} {installed} is installed"
    return None


def _release(text: object) -> tuple[int, ...]:
    """Return the major and minor number of a version, as far as it has them."""
    found = re.match(r"(\d+)(?:\.(\d+))?", text) if isinstance(text, str) else None
    return tuple(int(number) for number in found.groups(default="0")) if found else ()


def _failure(problem: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{problem}: {str(error) or type(error).__name__}")
