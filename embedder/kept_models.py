"""`embedder.encode`: encode in one line, with models that are kept between calls."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any, Unpack

from embedder.common.load_once import LoadOnce
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.inputs import Inputs
from embedder.options import EncodeOptions
from embedder.results import Embeddings

# A program that needs more models at a time should hold them itself.
_MAX_KEPT_MODELS = 4

_Key = tuple[Any, ...]
_kept: OrderedDict[_Key, LoadOnce[Embedder]] = OrderedDict()
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a thread of the parent may have held it during the fork
    os.register_at_fork(after_in_child=_new_lock)


def encode(
    inputs: Inputs,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    provider: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    **options: Unpack[EncodeOptions],
) -> Embeddings:
    """Return the vectors of `inputs`, as `Embedder(model, ...).encode(inputs, **options)` does, with the same errors.

    The model is loaded at the first call and kept for the next ones. The four models used last are kept;
    `release_models` releases them.

    Example:
        >>> embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2").shape  # doctest: +SKIP
        (2, 384)
    """
    # What a name or a relative path means depends on the working directory.
    here = None if os.path.isabs(str(model)) else os.getcwd()
    key = (str(model), repr((provider, dtype, threads)), here, os.environ.get("EMBEDDER_ARTIFACTS"))
    with _lock:
        if key not in _kept:
            _kept[key] = LoadOnce(lambda: Embedder(model, provider=provider, dtype=dtype, threads=threads))
        kept = _kept[key]
        _kept.move_to_end(key)
    try:
        loaded = kept.get()
    except BaseException:
        with _lock:
            if _kept.get(key) is kept:
                del _kept[key]
        raise
    with _lock:  # only now, so that a load that fails releases no other model
        while len(_kept) > _MAX_KEPT_MODELS:
            _kept.popitem(last=False)
    return loaded.encode(inputs, **options)


def release_models() -> None:
    """Release the models that `encode` keeps. Calls that run are finished first.

    Example:
        >>> embedder.release_models()  # doctest: +SKIP
    """
    with _lock:
        _kept.clear()
