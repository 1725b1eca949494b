"""Run a graph on a device. Only this folder knows onnxruntime.

Each device has one file: `cpu.py`, `cuda.py`. To add a device, write its file and add it to `DEVICE_KINDS`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from embedder.backends.backend import Backend, Device, DeviceKind, GraphFiles, check_backend
from embedder.backends.cpu import CPU
from embedder.backends.cuda import CUDA
from embedder.common.checks import shown
from embedder.common.warn import warn_caller
from embedder.errors import InputError, ProviderError

__all__ = [
    "DEVICE_KINDS",
    "Backend",
    "Device",
    "DeviceKind",
    "GraphFiles",
    "check_backend",
    "default_device",
    "select_device",
    "worker_providers",
]

# If the caller names no provider, these are tried in this order. The last one always works.
DEVICE_KINDS: tuple[DeviceKind, ...] = (CUDA, CPU)
# The kinds of devices that did not work although onnxruntime was built for them. The user was told once.
_told: set[str] = set()


def select_device(
    provider: str | None = None, threads: int | None = None, options: Mapping[str, str | int] | None = None
) -> Device:
    """Start a device and return it.

    Args:
        provider: the name of one of `DEVICE_KINDS`, with a number after a colon if there may be several. None takes the
            first kind that works here. It warns once of a kind that is installed and does not work.
        threads: most threads that compute on a CPU. None takes one for each usable core.
        options: the options of onnxruntime's provider.

    Raises:
        ProviderError: the name is unknown, or the device does not work here. If there are options, the first kind of
            device that takes options has to work.
        InputError: an option is unknown, or the device takes none.
        DependencyError: onnxruntime is not installed.

    Example:
        >>> select_device("cpu", threads=2).threads
        2
    """
    if provider is not None:
        kind, index = _parse(provider)
        return kind.start(threads, index, _check_options(kind, options))
    if options:
        kind = next(kind for kind in DEVICE_KINDS if kind.option_names)
        return kind.start(threads, 0, _check_options(kind, options))
    device, problems = default_device(threads)
    for kind, problem in problems:
        _tell(kind, problem, device.name)
    return device


def _tell(kind: DeviceKind, problem: str, used: str) -> None:
    """Warn once of a kind that is installed and does not work. Log the problem of any other. `used` is used instead."""
    if kind.is_installed() and kind.name not in _told:
        _told.add(kind.name)
        warn_caller(f"{used!r} is used (with provider={used!r} this warning does not come): {problem}", RuntimeWarning)
    # To import it takes milliseconds of each start. A program that listens to it has imported it.
    elif "logging" in sys.modules:
        sys.modules["logging"].getLogger("embedder").info("%s is not used: %s", kind.name, problem)


def default_device(threads: int | None = None) -> tuple[Device, list[tuple[DeviceKind, str]]]:
    """Return the first device that works here, and the kinds before it with the reasons why they do not work.

    Raises:
        DependencyError: onnxruntime is not installed.

    Example:
        >>> device, problems = default_device()
    """
    problems: list[tuple[DeviceKind, str]] = []
    for kind in DEVICE_KINDS[:-1]:
        try:
            return kind.start(threads, 0, {}), problems
        except ProviderError as error:
            problems.append((kind, str(error)))
    return DEVICE_KINDS[-1].start(threads, 0, {}), problems


def worker_providers(provider: str | None) -> tuple[str, ...]:
    """Return the provider of each process of a pool: one for each device of a kind, or one for each core of the CPU.

    Args:
        provider: the name of a kind, or of one device. None takes the first kind that works here. It warns as
            `select_device` does.

    Raises:
        ProviderError: the name is unknown, or no device of the kind works here.
        DependencyError: onnxruntime is not installed.

    Example:
        >>> worker_providers("cpu")[0]
        'cpu'
    """
    if provider is not None:
        kind, _ = _parse(provider)
        return kind.workers() if provider == kind.name else (provider,)
    for kind in DEVICE_KINDS[:-1]:
        try:
            return kind.workers()
        except ProviderError as error:
            _tell(kind, str(error), DEVICE_KINDS[-1].name)
    return DEVICE_KINDS[-1].workers()


def _parse(provider: object) -> tuple[DeviceKind, int]:
    """Return the kind of the device that `provider` names, and the number of the device."""
    kinds = {kind.name: kind for kind in DEVICE_KINDS}
    found = re.fullmatch(r"(\w+)(?::(\d{1,4}))?", provider) if isinstance(provider, str) else None
    kind = kinds.get(found[1]) if found else None
    if found is None or kind is None or (found[2] and not kind.has_numbers):
        names = ", ".join(map(repr, sorted(kinds)))
        numbered = [each.name for each in DEVICE_KINDS if each.has_numbers]
        hint = f". A number chooses one of several, such as '{numbered[0]}:1'" if numbered else ""
        raise ProviderError(f"unknown provider {shown(provider)}: choose from {names}{hint}")
    return kind, int(found[2] or 0)


def _check_options(kind: DeviceKind, options: Mapping[str, str | int] | None) -> dict[str, str]:
    """Return the options as onnxruntime takes them. Raises InputError for those that `kind` does not take."""
    for name in options or {}:
        if not kind.option_names:
            raise InputError(
                f"the provider {kind.name!r} takes no provider_options (here {name!r}). threads= sets its threads"
            )
        if name == "device_id":
            raise InputError(
                f"provider_options has no 'device_id': give provider='{kind.name}:1' for the second device"
            )
        if name not in kind.option_names:
            raise InputError(f"provider_options has no {name!r}: known are {', '.join(kind.option_names)}")
    return {name: str(value) for name, value in (options or {}).items()}
