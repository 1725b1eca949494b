"""Run a graph on a device. Only this folder knows onnxruntime.

Each device has one file: `cpu.py`, `cuda.py`. To add a device, write its file and add it to `DEVICE_KINDS`.
"""

from __future__ import annotations

import sys

from embedder.backends.backend import Backend, Device, DeviceKind, GraphFiles, check_backend
from embedder.backends.cpu import CPU
from embedder.backends.cuda import CUDA
from embedder.errors import ProviderError

__all__ = ["DEVICE_KINDS", "Backend", "Device", "DeviceKind", "GraphFiles", "check_backend", "select_device"]

# If the caller names no provider, these are tried in this order. The last one always works.
DEVICE_KINDS: tuple[DeviceKind, ...] = (CUDA, CPU)


def select_device(provider: str | None = None, threads: int | None = None) -> Device:
    """Start a device and return it.

    Args:
        provider: the name of one of `DEVICE_KINDS`. None takes the first kind that works here.
        threads: most threads that compute on a CPU. None takes one for each usable core.

    Raises:
        ProviderError: the name is unknown, or the device does not work here.
        DependencyError: onnxruntime is not installed.

    Example:
        >>> select_device("cpu", threads=2).threads
        2
    """
    kinds = {kind.name: kind for kind in DEVICE_KINDS}
    if provider is not None:
        if not isinstance(provider, str) or provider not in kinds:
            raise ProviderError(f"unknown provider {provider!r}: choose from {', '.join(map(repr, sorted(kinds)))}")
        return kinds[provider].start(threads)
    for kind in DEVICE_KINDS[:-1]:
        try:
            return kind.start(threads)
        except ProviderError as error:
            # To import it takes milliseconds of each start. A program that listens to it has imported it.
            if "logging" in sys.modules:
                sys.modules["logging"].getLogger("embedder").info("%s is not used: %s", kind.name, error)
    return DEVICE_KINDS[-1].start(threads)
