"""Names of devices as torch writes them: "cpu", or a kind with an index after a colon."""

from __future__ import annotations

import re

from embedder.common.checks import shown
from embedder.errors import InputError


class Device(str):
    """A device's name that also has the attributes of `torch.device`.

    Example:
        >>> CPU == "cpu", CPU.type, CPU.index
        (True, 'cpu', None)
    """

    __slots__ = ()

    @property
    def type(self) -> str:
        """The kind of device."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        """The number after the colon."""
        return int(self.partition(":")[2]) if ":" in self else None


CPU = Device("cpu")


def provider_of(device: object) -> str | None:
    """Return the provider of `Embedder` for a device of torch: a string, a `torch.device`, or None.

    Raises:
        InputError: it is not a device.

    Example:
        >>> provider_of("cpu:0")
        'cpu'
    """
    if device is None:
        return None
    found = re.fullmatch(r"([a-z]+)(?::(\d+))?", str(device))
    if found is None:
        raise InputError(f'device should be a name such as "cpu", not {shown(device)}')
    number = int(found[2] or 0)
    return f"{found[1]}:{number}" if number else found[1]
