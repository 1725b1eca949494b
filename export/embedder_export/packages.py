"""Find and import packages of the extra [torch]. They may be missing."""

from importlib.util import find_spec
from typing import Any

from embedder.common.imports import import_optional

from embedder_export.errors import NeedsTorchError


def is_installed(*packages: str) -> bool:
    """Return whether all `packages` are installed. None of them is imported.

    Example:
        >>> is_installed("json", "math")
        True
    """
    return all(find_spec(package) is not None for package in packages)


def import_from_extra(module: str, reason: str) -> Any:
    """Import `module` from the extra [torch], and return it.

    Args:
        module: the module's full name, such as "torch.nn".
        reason: what needs the module. The message begins with it.

    Raises:
        NeedsTorchError: the module is not installed.
        DependencyError: the module is installed, and its import fails.

    Example:
        >>> import_from_extra("json", "the example").loads("[1]")
        [1]
    """
    if not is_installed(module.partition(".")[0]):
        raise NeedsTorchError(reason)
    return import_optional(module, needed_for=reason, requirement="embedder-export[torch]")
