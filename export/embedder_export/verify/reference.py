"""sentence-transformers as a reference: its vectors for the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.packages import is_installed
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
        CheckpointError: sentence-transformers cannot load it, or fails later on texts or images.
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
        raise _failure(f"sentence-transformers cannot load {checkpoint.name}", error) from error


def _failure(problem: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"{problem}: {str(error) or type(error).__name__}")
