"""Import packages that may not be installed."""

from __future__ import annotations

import importlib
from typing import Any

from embedder.errors import DependencyError


def import_optional(module: str, *, needed_for: str, requirement: str) -> Any:
    """Import and return `module`.

    Args:
        module: full name of the module.
        needed_for: what needs the module; the message begins with it.
        requirement: what pip installs, such as "embedder-onnx[image]".

    Raises:
        DependencyError: the module is not installed, or its import fails. The message has the command that installs it.

    Example:
        >>> import_optional("math", needed_for="the example", requirement="python").pi
        3.141592653589793
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name in (module, package)
        problem = f"{package}, which is not installed" if missing else f"{package}, and its import failed ({error})"
        raise DependencyError(f'{needed_for} needs {problem}. Run: pip install "{requirement}"') from error
