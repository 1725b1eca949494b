"""Import onnxruntime. If it is missing, damaged or there twice, say which command mends it.

Several distributions have the module `onnxruntime`: onnxruntime, onnxruntime-gpu, onnxruntime-openvino and others. pip
does not stop a user from installing two of them. The files of one then overwrite those of the other, and the mixture
may crash or lack a device.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedder.common.cpp_runtime import check_cpp_runtime
from embedder.errors import DependencyError

_MODULE = "onnxruntime"
_CPU, _GPU = "onnxruntime", "onnxruntime-gpu"
# What pip installs for these two. Any other is installed by its own name.
_REQUIREMENTS = {_CPU: '"embedder-onnx[cpu]"', _GPU: '"embedder-onnx[gpu]"'}
_NOT_INSTALLED = (
    f"onnxruntime is not installed. Run: pip install {_REQUIREMENTS[_CPU]} "
    f"(for an NVIDIA GPU instead: pip install {_REQUIREMENTS[_GPU]})"
)
# Earlier versions know Attention, but leave its number of tokens out of account. Padding would change the vectors.
_OLDEST_VERSION = (1, 25)
_METADATA_SUFFIX = ".dist-info"
# How the names of distributions begin that may have the module. Nightly builds have a name of their own.
_PREFIXES = (_MODULE, "ort-nightly", "ort_nightly")
# These have modules of other names, and need one of the others.
_ADD_ONS = ("onnxruntime-ep-", "onnxruntime-extensions", "onnxruntime-genai")


def import_onnxruntime() -> Any:
    """Import and return onnxruntime.

    Raises:
        DependencyError: it is not installed, its import fails, it is too old, or several distributions of it are
            installed. The message has the command that mends it.

    Example:
        >>> "CPUExecutionProvider" in import_onnxruntime().get_available_providers()
        True
    """
    check_cpp_runtime(_MODULE)
    # This comes before the import, because a mixture might crash the process.
    installed = installed_distributions()
    if len(installed) > 1:
        keep = _GPU if _GPU in installed else next(name for name in installed if name != _CPU)
        raise DependencyError(
            f"{' and '.join(installed)} are installed together, and overwrite each other's files. Run: "
            f"{install_command(keep, replacing=installed)}"
        )
    try:
        import onnxruntime
    except Exception as error:  # the import of a damaged package may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == _MODULE and not installed:
            raise DependencyError(_NOT_INSTALLED) from error
        raise _damaged(installed, f"its import failed ({error})") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # Python imports any folder, even one without files
        raise _damaged(installed, "files are missing") if installed else DependencyError(_NOT_INSTALLED)
    _check_version(installed[0] if installed else _CPU, str(getattr(onnxruntime, "__version__", "")))
    return onnxruntime


def is_before(version: str, other: tuple[int, int]) -> bool:
    """Return whether a version of onnxruntime is older than another one. False if it has no numbers.

    Example:
        >>> is_before("1.9.1", (1, 32))
        True
    """
    parts = re.match(r"(\d+)\.(\d+)", version)
    return parts is not None and (int(parts[1]), int(parts[2])) < other


def _check_version(name: str, version: str) -> None:
    if is_before(version, _OLDEST_VERSION):
        oldest = ".".join(map(str, _OLDEST_VERSION))
        raise DependencyError(
            f"{name} {version} is too old: embedder needs {oldest} or later. Run: pip install --upgrade {name}"
        )


def _damaged(installed: Sequence[str], problem: str) -> DependencyError:
    name = installed[0] if installed else _CPU
    # Only its own files are missing. Without --no-deps, pip would also install NumPy again.
    return DependencyError(f"{name} is damaged: {problem}. Run: pip install --force-reinstall --no-deps {name}")


def install_command(distribution: str, replacing: Sequence[str] = ()) -> str:
    """Return the command that installs a distribution of onnxruntime in the place of others.

    Args:
        distribution: its name, such as "onnxruntime-gpu".
        replacing: the distributions of onnxruntime that are installed.

    Example:
        >>> install_command("onnxruntime-gpu", replacing=["onnxruntime"])
        'pip uninstall -y onnxruntime && pip install "embedder-onnx[gpu]"'
    """
    install = f"pip install {_REQUIREMENTS.get(distribution, distribution)}"
    return f"pip uninstall -y {' '.join(replacing)} && {install}" if replacing else install


def installed_distributions() -> tuple[str, ...]:
    """Return the names of the installed distributions that have the module `onnxruntime`, sorted.

    Looks only at what lies beside the module. The result is empty if there is no metadata, for example in a zip file.

    Example:
        >>> installed_distributions()  # doctest: +SKIP
        ('onnxruntime',)
    """
    try:
        spec = find_spec(_MODULE)
    except (ImportError, ValueError):  # a module without a specification was put into sys.modules
        return ()
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return _distributions_in(os.path.dirname(folders[0])) if folders else ()


def shadowed_place(distribution: str) -> str | None:
    """Return the directory with another onnxruntime that Python does not import, because it finds one before it.

    Args:
        distribution: the name of the other one, such as "onnxruntime-gpu".

    Example:
        >>> shadowed_place("onnxruntime-gpu") is None
        True
    """
    if distribution in installed_distributions():
        return None
    return next((place for place in sys.path if distribution in _distributions_in(place or os.curdir)), None)


@cache
def _distributions_in(directory: str) -> tuple[str, ...]:
    """Return the names of the distributions in `directory` that have the module, sorted.

    Reads file names, because `importlib.metadata` takes milliseconds. Opens files only if there is more than one.
    """
    try:
        entries = os.listdir(directory)
    except OSError:  # the module is in a zip file
        return ()
    found = {}
    for entry in entries:
        if entry.endswith(_METADATA_SUFFIX) and entry.lower().startswith(_PREFIXES):
            name = re.sub(r"[-_.]+", "-", entry.removesuffix(_METADATA_SUFFIX).rpartition("-")[0]).lower()
            if not name.startswith(_ADD_ONS):
                found[name] = Path(directory, entry)
    if len(found) < 2:
        return tuple(found)
    return tuple(name for name in sorted(found) if _has_module(found[name]))


def _has_module(metadata: Path) -> bool:
    """Return whether the distribution of `metadata` has the module. One without a list of files is taken to have it."""
    try:
        record = (metadata / "RECORD").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return any(line.startswith(f"{_MODULE}/__init__.py,") for line in record.splitlines())
