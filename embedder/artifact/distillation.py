"""What a static model was distilled from. The manifest has it under `extra`, so older programs ignore it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from embedder.common.decode import decode
from embedder.common.records import frozen

if TYPE_CHECKING:
    from embedder.artifact.manifest import Manifest

# Name of the field under `extra`.
_FIELD = "distilled"


@frozen
class Distillation:
    """The model that taught a static model, and how close the two are.

    Attributes:
        teacher: the teacher's id on the Hub, or the name of its directory.
        weights_sha256: digest of the teacher's weights.
        spearman: rank correlation of the two models' similarities, over pairs of English texts.
        pairs: number of these pairs.
    """

    teacher: str
    weights_sha256: str
    spearman: float
    pairs: int


def distillation(manifest: Manifest) -> Distillation | None:
    """Return what `manifest` says of a teacher, or None if it says nothing, or nothing of this form.

    Example:
        >>> distillation(model.manifest).teacher  # doctest: +SKIP
        'all-MiniLM-L6-v2'
    """
    with suppress(ValueError):
        if _FIELD in manifest.extra:
            return decode(Distillation, manifest.extra[_FIELD])  # type: ignore[no-any-return]
    return None


def with_distillation(manifest: Manifest, found: Distillation) -> Manifest:
    """Return `manifest` with what its model was distilled from.

    Example:
        >>> with_distillation(manifest, Distillation("small", 64 * "0", 0.8, 300)).extra  # doctest: +SKIP
        {'distilled': {'teacher': 'small', ...}}
    """
    return replace(manifest, extra=manifest.extra | {_FIELD: asdict(found)})
