"""Packages of the extra [torch], which may not be installed."""

from importlib.util import find_spec
from typing import Any

from embedder.common.imports import import_optional

from embedder_export.errors import NeedsTorchError


def is_installed(*packages: str) -> bool:
    """Whether all `packages` are installed. It imports none of them.

    Example:
        >>> is_installed("json", "math")
        True
    """
    return all(find_spec(package) is not None for package in packages)


def import_from_extra(module: str, reason: str) -> Any:
    """Import and return `module`, which the extra [torch] brings.

    Args:
        module: its full name.
        reason: why it is needed. It begins the message.

    Raises:
        NeedsTorchError: it is not installed.
        DependencyError: it is installed, and its import fails.
    """
    if not is_installed(module.partition(".")[0]):
        raise NeedsTorchError(reason)
    return import_optional(module, needed_for=reason, install="'./export[torch]'")
