"""Keep compiled packages that bring copies of the C++ runtime from crashing each other on Linux.

usearch has its own copy of libstdc++ in its compiled module and exports the symbols. Some of them, such as the ids of
the facets of `std::locale`, are unique in a process (STB_GNU_UNIQUE in the ELF format). The copy that initialises its
locale first numbers the facets. If that is usearch's copy, the system's libstdc++ does not find its own facets, and
packages that use it (onnxruntime, faiss) crash. If the system's libstdc++ comes first, all of them work.
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
    """Initialise the system's libstdc++, and return whether it is usable. Call it before usearch is imported.

    Where there is no such library, nothing uses it, and the result is True.
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
    """Refuse to use `package`, which uses the system's libstdc++, if it would crash.

    Raises:
        DependencyError: usearch was imported first.
    """
    if "usearch.compiled" in sys.modules and not initialise_cpp_runtime():
        raise DependencyError(
            f"{package} would crash this process, because usearch was imported before it, and usearch brings another "
            "C++ runtime. Start a new process, and import embedder before usearch"
        )
