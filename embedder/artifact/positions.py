"""How many tokens of a text a graph can read. The manifest has it under `extra`, so older programs ignore it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedder.errors import InputError

if TYPE_CHECKING:
    from embedder.artifact.manifest import Manifest

# Name of the field under `extra`.
_FIELD = "positions"
# Stands for no limit. A graph without a table of positions has none.
NO_LIMIT = 1_000_000
# As `max_seq_length` of the manifest, it stands for no limit: texts are never cut.
UNLIMITED_TOKENS = 2**31 - 1


def positions(manifest: Manifest) -> int:
    """Return the most tokens of a text that the graph of texts can read, special tokens included.

    It is often more than `max_seq_length`, where the model cuts texts. Without a plausible number in `extra`, it is
    `max_seq_length`.

    Example:
        >>> positions(model.manifest), model.manifest.tokenizer.max_seq_length  # doctest: +SKIP
        (512, 256)
    """
    limit = manifest.tokenizer.max_seq_length
    found = manifest.extra.get(_FIELD)
    return found if type(found) is int and limit <= found <= NO_LIMIT else limit


def with_positions(manifest: Manifest, count: int) -> Manifest:
    """Return `manifest` with the number of tokens that the graph of texts can read.

    Example:
        >>> with_positions(manifest, 512).extra  # doctest: +SKIP
        {'positions': 512}
    """
    return replace(manifest, extra=manifest.extra | {_FIELD: count})


def describe_limit(max_seq_length: int, unit: str = "texts") -> str:
    """Return in words where texts are cut.

    Example:
        >>> describe_limit(256), describe_limit(2**31 - 1)
        ('texts are cut at 256 tokens', 'texts are not cut')
    """
    return f"{unit} are not cut" if max_seq_length == UNLIMITED_TOKENS else f"{unit} are cut at {max_seq_length} tokens"


def check_limit(max_seq_length: int | None, manifest: Manifest, option: str = "max_seq_length") -> None:
    """Raise InputError if the graph of texts may be unable to read `max_seq_length` tokens.

    Args:
        max_seq_length: the limit that the caller wants. None is the model's own.
        manifest: the manifest of the model.
        option: the name of the option, for the error.

    Example:
        >>> check_limit(128, model.manifest)  # doctest: +SKIP
    """
    most = positions(manifest)
    if max_seq_length is None or max_seq_length <= most:
        return
    if _FIELD in manifest.extra:
        hint = "To read all of a longer text, cut it into chunks: model.chunks(text)"
    else:
        hint = "Its artifact does not say whether the graph can read more. Export the model again, so that it does"
    raise InputError(f"{option} should be at most {most:,} for this model, not {max_seq_length:,}. {hint}")
