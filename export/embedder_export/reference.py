"""sentence-transformers with the checkpoint: what the artifact is compared with, and asked what no file says."""

from dataclasses import replace

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from embedder_export.checkpoint import Checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.layers import Pooling


def load_reference(checkpoint: Checkpoint) -> SentenceTransformer:
    """The checkpoint in sentence-transformers, on the CPU; one from the Hub by its own name there.

    Raises:
        CheckpointError: sentence-transformers cannot load it.
    """
    name, revision = checkpoint.repository or (str(checkpoint.directory), None)
    try:
        return SentenceTransformer(
            name,
            revision=revision,
            device="cpu",
            local_files_only=True,
            model_kwargs={"attn_implementation": "eager"},  # the checkpoint may name none that would be fetched
        )
    except Exception as error:  # it raises whatever the checkpoint led to
        raise CheckpointError(f"sentence-transformers cannot load {checkpoint.name}: {error}") from error


def settle_prompt(checkpoint: Checkpoint) -> Checkpoint:
    """`checkpoint`, with what sentence-transformers alone knows: that INSTRUCTOR's prompts are not pooled.

    The files of those repositories do not say so. It goes by their names on the Hub, so it is asked only for a
    checkpoint from there.
    """
    if checkpoint.repository is None:
        return checkpoint
    (include_prompt,) = (
        module.include_prompt for module in load_reference(checkpoint) if isinstance(module, TheirPooling)
    )
    layers = tuple(
        replace(layer, include_prompt=include_prompt) if isinstance(layer, Pooling) else layer
        for layer in checkpoint.layers
    )
    return replace(checkpoint, layers=layers)
