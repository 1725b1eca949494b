"""Prevent crashes on Linux between compiled packages that have different copies of the C++ runtime.

The compiled module of usearch contains its own copy of libstdc++ and exports its symbols. Some symbols exist only once
in a process (STB_GNU_UNIQUE in the ELF format), such as the ids of the facets of `std::locale`. The first copy that
initialises its locale sets these ids. If that is the copy of usearch, the system's libstdc++ does not find its own
facets, and packages that use it (onnxruntime, faiss) crash. If the system's libstdc++ is first, all packages work.
"""

from __future__ import annotations

import ctypes
import sys

from embedder.errors import DependencyError

_LIBRARY = "libstdc++.so.6"
# The mangled names of std::locale::classic() and of std::has_facet<Facet>(locale) for some facets.
_CLASSIC_LOCALE = "_ZNSt6locale7classicEv"
_HAS_FACET = (
    "_ZSt9has_facetISt5ctypeIcEEbRKSt6locale",
    "_ZSt9has_facetISt8numpunctIcEEbRKSt6locale",
    "_ZSt9has_facetISt7num_putIcSt19ostreambuf_iteratorIcSt11char_traitsIcEEEEbRKSt6locale",
    "_ZSt9has_facetISt7num_getIcSt19istreambuf_iteratorIcSt11char_traitsIcEEEEbRKSt6locale",
)


def initialise_cpp_runtime() -> bool:
    """Initialise the system's libstdc++, and return whether it is usable. Call this before usearch is imported.

    If there is no such library, nothing uses it, and the result is True.

    Example:
        >>> initialise_cpp_runtime()
        True
    """
    if sys.platform != "linux":
        return True
    try:
        library = ctypes.CDLL(_LIBRARY)
        make_locale = library[_CLASSIC_LOCALE]
        checks = [library[name] for name in _HAS_FACET]
    except (OSError, AttributeError):
        return True
    make_locale.restype = ctypes.c_void_p
    locale = ctypes.c_void_p(make_locale())
    for check in checks:
        check.argtypes, check.restype = [ctypes.c_void_p], ctypes.c_bool
    return all(check(locale) for check in checks)


def check_cpp_runtime(package: str) -> None:
    """Raise DependencyError if `package`, which uses the system's libstdc++, would crash this process.

    Raises:
        DependencyError: usearch was imported before embedder.

    Example:
        >>> check_cpp_runtime("onnxruntime")
    """
    if "usearch.compiled" in sys.modules and not initialise_cpp_runtime():
        raise DependencyError(
            f"{package} would crash this process, because usearch was imported before it, and usearch brings another "
            "C++ runtime. Start a new process, and import embedder before usearch"
        )
