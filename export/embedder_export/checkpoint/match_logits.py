"""Read the weights of SigLIP's logits, which make a probability of the cosine of an image and a text."""

import math
from pathlib import Path

import onnx_ir as ir
from embedder.artifact.match_logits import MatchLogits

from embedder_export.checkpoint.weights import read_weights
from embedder_export.errors import CheckpointError

_SCALE, _BIAS = "logit_scale", "logit_bias"


def read_match_logits(directory: Path) -> MatchLogits:
    """Read the weights of the logits in `directory`. The checkpoint has the logarithm of the scale.

    Raises:
        CheckpointError: one is missing, is not a single number, or is not finite.

    Example:
        >>> read_match_logits(Path("checkpoints/siglip-base-patch16-224"))  # doctest: +SKIP
        MatchLogits(scale=117.33, bias=-12.93)
    """
    weights = read_weights(directory)
    scale, bias = (_number(weights.get(name), name) for name in (_SCALE, _BIAS))
    try:
        return MatchLogits(math.exp(scale), bias)
    except (OverflowError, ValueError) as error:
        raise CheckpointError(f"the weights have {scale} as {_SCALE} and {bias} as {_BIAS}") from error


def _number(tensor: ir.TensorProtocol | None, name: str) -> float:
    if tensor is None:
        raise CheckpointError(f"the weights lack {name}")
    array = tensor.numpy()
    if array.size != 1:
        raise CheckpointError(f"the weights have {name} of shape {array.shape}, not (1,)")
    return float(array.reshape(()))
