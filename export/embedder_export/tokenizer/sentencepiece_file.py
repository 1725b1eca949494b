"""Read the file of a SentencePiece model: its pieces, and how it normalises texts.

The file is one message of protobuf, which sentencepiece_model.proto describes:
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder.common.files import read_regular
from embedder.common.protobuf import fields

from embedder_export.errors import NotNativeError

# No published model comes near it. That of the multilingual SigLIP has 4 MB.
_MAX_BYTES = 256_000_000
# Numbers of fields in the message of a model, of a piece, of the training and of the normaliser.
_PIECE, _TRAINING, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_CHARACTERS, _DUMMY_PREFIX, _REMOVES_SPACES, _ESCAPES_SPACES = 2, 3, 4, 5
# Kinds of pieces: those of text, the unknown piece, those of control, those that users defined, and single bytes.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_UNIGRAM = 1


@dataclass(frozen=True)
class UnigramModel:
    """A Unigram model of SentencePiece (Kudo, 2018: https://arxiv.org/abs/1804.10959).

    Attributes:
        pieces: pairs of a piece and its score, the logarithm of its probability. The place is the piece's id.
        user_defined: the ids of pieces that users defined. SentencePiece never splits them.
        unknown_id: the id of the piece that stands for unknown characters.
        has_bytes: whether unknown characters become pieces of single bytes.
        characters: the compiled table that replaces characters. Empty if none are replaced.
    """

    pieces: tuple[tuple[str, float], ...]
    user_defined: tuple[int, ...]
    unknown_id: int
    has_bytes: bool
    characters: bytes


def read_unigram(path: Path) -> UnigramModel:
    """Read the file of a Unigram model.

    Raises:
        NotNativeError: it is another kind of model, or has pieces or a normaliser of an unusual kind.
        OSError, ValueError, LookupError, struct.error: the file cannot be read, or is damaged.

    Example:
        >>> read_unigram(Path("siglip-base-patch16-224/spiece.model")).pieces[1]  # doctest: +SKIP
        ('</s>', 0.0)
    """
    pieces: list[tuple[str, float]] = []
    kinds: list[int] = []
    training: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in fields(read_regular(path, _MAX_BYTES)):
        if number == _PIECE:
            piece = dict(fields(value))
            (score,) = struct.unpack("<f", piece.get(_SCORE, bytes(4)))
            pieces.append((piece[_TEXT].decode(), score))
            kinds.append(piece.get(_KIND, _NORMAL))
        elif number == _TRAINING:
            training = dict(fields(value))
        elif number == _NORMALIZER:
            normalizer = dict(fields(value))
    _check(training, normalizer, kinds)
    return UnigramModel(
        pieces=tuple(pieces),
        user_defined=tuple(at for at, kind in enumerate(kinds) if kind == _USER_DEFINED),
        unknown_id=kinds.index(_UNKNOWN),
        has_bytes=bool(training.get(_BYTE_FALLBACK, 0)),
        characters=normalizer.get(_CHARACTERS, b""),
    )


def _check(training: dict[int, Any], normalizer: dict[int, Any], kinds: list[int]) -> None:
    if training.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise NotNativeError("its SentencePiece model is not a Unigram model")
    if not set(kinds) <= {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE}:
        raise NotNativeError("its SentencePiece model has unused pieces")
    if not all(normalizer.get(field, 1) for field in (_DUMMY_PREFIX, _REMOVES_SPACES, _ESCAPES_SPACES)):
        raise NotNativeError("its SentencePiece model treats spaces in an unusual way")
