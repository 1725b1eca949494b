"""Find packages of the extra [torch]. They may be missing."""

from importlib.util import find_spec


def is_installed(*packages: str) -> bool:
    """Return whether all `packages` are installed. None of them is imported.

    Example:
        >>> is_installed("json", "math")
        True
    """
    return all(find_spec(package) is not None for package in packages)
