"""How a model makes a probability of a cosine. The manifest has it under `extra`, so older programs ignore it."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from embedder.common.decode import decode
from embedder.common.records import frozen, require

if TYPE_CHECKING:
    from embedder.artifact.manifest import Manifest

# Name of the field under `extra`.
_FIELD = "match_logits"


@frozen
class MatchLogits:
    """The weights of SigLIP's logits: sigmoid(scale * cosine + bias) is the probability that image and text match.

    The formula is from Zhai et al., 2023: https://arxiv.org/abs/2303.15343.

    Attributes:
        scale: factor of the cosine, above 0. The checkpoint has its logarithm.
        bias: added to the product.
    """

    scale: float
    bias: float

    def __post_init__(self) -> None:
        require(math.isfinite(self.scale) and self.scale > 0, f"scale: {self.scale} is not above 0")
        require(math.isfinite(self.bias), f"bias: {self.bias} is not finite")


def match_logits(manifest: Manifest) -> MatchLogits | None:
    """Return the weights of the logits, or None if `manifest` has none, or none of this form.

    Example:
        >>> match_logits(model.manifest)  # doctest: +SKIP
        MatchLogits(scale=117.33, bias=-12.93)
    """
    found = manifest.extra.get(_FIELD)
    with suppress(ValueError):
        if isinstance(found, dict):
            return decode(MatchLogits, found)  # type: ignore[no-any-return]
    return None


def with_match_logits(manifest: Manifest, logits: MatchLogits) -> Manifest:
    """Return `manifest` with the weights of its logits.

    Example:
        >>> with_match_logits(manifest, MatchLogits(100.0, -10.0)).extra  # doctest: +SKIP
        {'match_logits': {'scale': 100.0, 'bias': -10.0}}
    """
    return replace(manifest, extra=manifest.extra | {_FIELD: asdict(logits)})
