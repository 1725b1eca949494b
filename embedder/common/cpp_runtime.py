"""Keep compiled packages that bring copies of the C++ runtime from crashing each other on Linux.

usearch has its own copy of libstdc++ in its compiled module and exports the symbols. Some of them, such as the ids of
the facets of `std::locale`, are unique in a process (STB_GNU_UNIQUE in the ELF format). The copy that initialises its
locale first numbers the facets. If that is usearch's copy, packages that use the system's libstdc++ (faiss,
onnxruntime) crash in `std::locale` later. If the system's libstdc++ comes first, all of them work.
"""

import ctypes
import sys
from pathlib import PurePath

from embedder.errors import DependencyError

_LIBRARY = "libstdc++.so.6"
# The mangled name of std::locale::classic(), which initialises the facets.
_INITIALISE = "_ZNSt6locale7classicEv"


def initialise_cpp_runtime() -> None:
    """Initialise the system's libstdc++. Call it before usearch is imported."""
    if sys.platform != "linux":
        return
    try:
        initialise = getattr(ctypes.CDLL(_LIBRARY), _INITIALISE)
    except (OSError, AttributeError):  # no such library: nothing uses it
        return
    initialise.restype = ctypes.c_void_p
    initialise()


def check_cpp_runtime(package: str) -> None:
    """Refuse to use `package` if it would crash because usearch was imported first.

    Raises:
        DependencyError: usearch's copy of the C++ runtime was loaded before the system's.
    """
    if sys.platform != "linux" or "usearch.compiled" not in sys.modules:
        return
    for path in _loaded_libraries():
        if path.name.startswith("libstdc++.so"):
            return
        if path.parent.name == "usearch":
            break
    else:
        return
    raise DependencyError(
        f"{package} would crash this process, because usearch was imported before it, and usearch brings another C++ "
        f"runtime. Import {package} or embedder.UsearchIndex before usearch, in a new process"
    )


class _LibraryInfo(ctypes.Structure):
    """The beginning of `struct dl_phdr_info`."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


def _loaded_libraries() -> list[PurePath]:
    """Return the paths of the shared libraries of this process, in the order in which they were loaded."""
    paths: list[PurePath] = []
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LibraryInfo), ctypes.c_size_t, ctypes.c_void_p)

    def collect(info: "ctypes._Pointer[_LibraryInfo]", size: int, data: object) -> int:
        paths.append(PurePath((info.contents.name or b"").decode(errors="replace")))
        return 0

    try:
        ctypes.CDLL(None).dl_iterate_phdr(callback(collect), None)
    except (OSError, AttributeError):
        return []
    return paths
