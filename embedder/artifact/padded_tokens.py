"""The length to which a model pads its texts. The manifest has it under `extra`, so older programs ignore it.

Most models give a text the same vector with and without padding. Some, such as SigLIP, were trained on texts that are
all padded to one length, and their graphs pad a text themselves. A short text then takes the time and the memory of a
long one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedder.artifact.positions import positions

if TYPE_CHECKING:
    from embedder.artifact.manifest import Manifest

# Name of the field under `extra`.
_FIELD = "padded_tokens"


def padded_tokens(manifest: Manifest) -> int:
    """Return the number of tokens to which shorter texts are padded. 1 if `manifest` has no plausible number.

    Example:
        >>> padded_tokens(siglip.manifest), padded_tokens(minilm.manifest)  # doctest: +SKIP
        (64, 1)
    """
    found = manifest.extra.get(_FIELD)
    return found if type(found) is int and 1 <= found <= positions(manifest) else 1


def with_padded_tokens(manifest: Manifest, count: int) -> Manifest:
    """Return `manifest` with the number of tokens to which shorter texts are padded.

    Example:
        >>> with_padded_tokens(manifest, 64).extra  # doctest: +SKIP
        {'padded_tokens': 64}
    """
    return replace(manifest, extra=manifest.extra | {_FIELD: count})
