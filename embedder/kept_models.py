"""`embedder.encode`: encode in one line. Models stay loaded between calls."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import Any, Unpack

from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.common.forks import call_after_fork
from embedder.common.load_once import LoadOnce
from embedder.encoder import DEFAULT_MODEL, Embedder
from embedder.inputs import Inputs
from embedder.options import EncodeOptions, LoadSettings
from embedder.results import Embeddings

# A program that uses more models at a time should keep the `Embedder` objects itself.
_MAX_KEPT_MODELS = 4
_DEFAULT_SETTINGS = LoadSettings()

_Key = tuple[Any, ...]
_kept: OrderedDict[_Key, LoadOnce[Embedder]] = OrderedDict()
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


call_after_fork(_new_lock)  # a thread of the parent may have held the lock during the fork


def encode(
    inputs: Inputs,
    model: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    provider: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    **options: Unpack[EncodeOptions],
) -> Embeddings:
    """Return the vectors of `inputs`, as `Embedder(model, ...).encode(inputs, **options)` does.

    The first call loads the model. Later calls use it again. The four models used last are kept; `release_models`
    releases them.

    Args:
        inputs: one text or image, or many; see `Embedder.encode`.
        model: a model's name or path; see `Embedder`. A model of the Hub is fetched at its first use.
        provider: "cpu" or "cuda"; see `Embedder`.
        dtype: which graph runs; see `Embedder`.
        threads: most threads that compute on a CPU; see `Embedder`.
        revision: a branch, tag or commit of the model on the Hub; see `Embedder`.
        token: a token for the Hub; see `Embedder`. Calls with different tokens use the same kept model.
        local_files_only: do not use the network; see `Embedder`.
        **options: see `EncodeOptions`.

    Returns:
        float32 (dimension,) for one input, (n, dimension) for n inputs; see `Embedder.encode`.

    Raises:
        EmbedderError: as in `Embedder` and `Embedder.encode`.

    Example:
        >>> embedder.encode(["a text", "another"], model="all-MiniLM-L6-v2").shape  # doctest: +SKIP
        (2, 384)
    """
    access = HubAccess(revision, token, local_files_only)
    return get_model(model, LoadSettings(provider, dtype, threads), access).encode(inputs, **options)


def get_model(
    model: str | os.PathLike[str], settings: LoadSettings = _DEFAULT_SETTINGS, access: HubAccess = DEFAULT_ACCESS
) -> Embedder:
    """Return the kept model, or load it and keep it. `encode` and the integrations share the kept models.

    Raises:
        EmbedderError: as in `Embedder`.

    Example:
        >>> get_model("all-MiniLM-L6-v2") is get_model("all-MiniLM-L6-v2")  # doctest: +SKIP
        True
    """
    # A name or a relative path depends on the working directory.
    here = None if os.path.isabs(str(model)) else os.getcwd()
    # `repr` also works for values that cannot be hashed. `Embedder` refuses them. It does not show the token.
    key = (str(model), repr(settings), repr(access), here, os.environ.get("EMBEDDER_HOME"))
    with _lock:
        if key not in _kept:
            _kept[key] = LoadOnce(lambda: Embedder(model, **settings.options(), **access.options()))
        kept = _kept[key]
        _kept.move_to_end(key)
    try:
        loaded = kept.get()
    except BaseException:
        with _lock:
            if _kept.get(key) is kept:
                del _kept[key]
        raise
    with _lock:  # only after the load: a load that fails must release no other model
        while len(_kept) > _MAX_KEPT_MODELS:
            _kept.popitem(last=False)
    return loaded


def release_models() -> None:
    """Release the models that `encode` keeps. Running calls finish with the model that they use.

    Example:
        >>> embedder.release_models()  # doctest: +SKIP
    """
    with _lock:
        _kept.clear()
