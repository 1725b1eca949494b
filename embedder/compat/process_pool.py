"""The pool that `start_multi_process_pool` returns: an `EncoderPool` in the form of sentence-transformers' dict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from embedder.common.checks import shown
from embedder.compat.device import CPU, Device, provider_of
from embedder.compat.loading import Loading
from embedder.errors import InputError
from embedder.pool import EncoderPool

# sentence-transformers starts four processes where there is no GPU.
_DEFAULT_WORKERS = 4


class ProcessPool(dict[str, Any]):
    """A pool of worker processes. `pool["processes"]` lists them, as in sentence-transformers.

    Example:
        >>> pool = model.start_multi_process_pool()  # doctest: +SKIP
        >>> len(pool["processes"])  # doctest: +SKIP
        4
    """

    def __init__(self, encoder_pool: EncoderPool, loading: Loading) -> None:
        """Wrap `encoder_pool`, whose processes have loaded the model of `loading`."""
        super().__init__(processes=list(encoder_pool.processes))
        self.encoder_pool = encoder_pool
        self._loaded = _without_device(loading)

    def check_model(self, loading: Loading) -> EncoderPool:
        """Return the pool underneath.

        Raises:
            InputError: `loading` is another model, or the same with another limit or graph.
        """
        if _without_device(loading) != self._loaded:
            raise InputError("the pool has loaded another model, limit or dtype. Start a pool of this model")
        return self.encoder_pool

    def __missing__(self, name: object) -> Any:
        raise InputError(f"the pool has no {name!r}: call model.encode(inputs, pool=pool)")


def start_pool(loading: Loading, target_devices: Sequence[Any] | None, model_device: str) -> ProcessPool:
    """Start a process for each device, each with the model loaded.

    Args:
        loading: the model.
        target_devices: a device for each process. None takes all GPUs if the model is on one, otherwise four processes.
        model_device: the device of the model.

    Raises:
        InputError: `target_devices` is not a list of devices.
        EmbedderError: what `EncoderPool` raises.
    """
    if isinstance(target_devices, str) or (target_devices is not None and not target_devices):
        raise InputError(f'target_devices should be a list such as ["cpu", "cpu"], not {shown(target_devices)}')
    options = dict(loading.options)
    options["providers"] = options.pop("provider")
    if target_devices is not None:
        options["providers"] = [provider_of(device) for device in target_devices]
    elif model_device == CPU:
        options["workers"] = _DEFAULT_WORKERS
    else:
        options["providers"] = Device(model_device).type
    return ProcessPool(EncoderPool(loading.model, **options), loading)


def _without_device(loading: Loading) -> Loading:
    return replace(loading, options=loading.options | {"provider": None})


def checked_pool(pool: object) -> ProcessPool:
    """Return `pool` if `start_multi_process_pool` made it.

    Raises:
        InputError: it is something else, such as a pool of sentence-transformers.
    """
    if not isinstance(pool, ProcessPool):
        raise InputError(f"pool should come from model.start_multi_process_pool(), not {shown(pool)}")
    return pool
