"""NVIDIA's driver and libraries: load them, or say what is missing. Nothing here needs onnxruntime.

onnxruntime says what is missing only in its log, and then runs on the CPU. So each thing that it needs is tried here
first, in the order in which a user would mend it: the driver, a GPU, the libraries.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedder.common.records import frozen

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
# Errors of the driver that have an advice of their own. The driver describes all others.
_NOT_INITIALIZED, _NO_DEVICE = 3, 100
# The oldest driver for each version of CUDA.
_DRIVERS = {12: "525", 13: "580"}
# The last versions of onnxruntime-gpu that were built with CUDA 12.
_WITH_CUDA_12 = 'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"'
_CUDNN = "libcudnn.so.9"
# The processes, this one or those it was forked from, in which the driver was started.
_started: set[int] = set()
_MISSING = re.compile(r"(lib[^\s/]+\.so[.\d]*): cannot open shared object file")


def gpu_count() -> int:
    """Return the number of GPUs that this process can use.

    Example:
        >>> gpu_count()  # doctest: +SKIP
        2
    """
    driver, count = _started_driver(), ctypes.c_int()
    return 0 if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value


def free_memory_bytes(index: int) -> int | None:
    """Return the free memory of a GPU, or None if the driver does not tell.

    Creates the context of CUDA on that GPU, which every session of onnxruntime needs too.

    Args:
        index: the number of the GPU, from 0 on, as CUDA counts them.

    Example:
        >>> free_memory_bytes(0)  # doctest: +SKIP
        84340047872
    """
    driver = _started_driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    # The context is the one that all libraries of CUDA share. It is kept: onnxruntime opens it in any case.
    if (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(device), index)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxPushCurrent_v2(context)
    ):
        return None
    try:
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
    return None if failed else free.value


def _started_driver() -> Any:
    """Return the driver's library, or None if the driver does not start."""
    try:
        driver = _open_library(_DRIVER)
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def driver_problem(cuda_major: int) -> str | None:
    """Return why the driver cannot be used, and what to do about it; None if it works and has a GPU.

    Args:
        cuda_major: the version of CUDA that onnxruntime was built with.

    Example:
        >>> driver_problem(13)  # doctest: +SKIP
        'the NVIDIA driver is not installed (libcuda.so.1: cannot open shared object file: ...). Install it, so ...'
    """
    try:
        driver = _open_library(_DRIVER)
    except OSError as error:
        return (
            f"the NVIDIA driver is not installed ({error}). Install it, so that the command `nvidia-smi` lists the "
            "GPU. A container needs to be started with access to the GPU, such as docker run --gpus all"
        )
    version = ctypes.c_int()
    if not driver.cuDriverGetVersion(ctypes.byref(version)) and version.value < cuda_major * 1000:
        return _old_driver(version.value, cuda_major)
    forked = _started and os.getpid() not in _started
    failure = _NOT_INITIALIZED if forked else driver.cuInit(0)
    if failure == _NO_DEVICE or (failure == 0 and gpu_count() == 0):
        return _no_gpu()
    if failure == _NOT_INITIALIZED:
        return (
            "this process was forked from one that uses the GPU, and CUDA does not work after a fork. Start processes "
            'with multiprocessing.get_context("spawn")'
        )
    if failure:
        return f"the NVIDIA driver does not start: {_describe(driver, failure)}. Check it with the command `nvidia-smi`"
    _started.add(os.getpid())
    return None


def index_problem(index: int, kind: str) -> str | None:
    """Return what is wrong with the number of a GPU, or None if there is such a GPU. `kind` is the word before it.

    Example:
        >>> index_problem(5, "cuda")  # doctest: +SKIP
        "there are 2 GPUs. Choose 'cuda:0' or 'cuda:1'"
    """
    count = gpu_count()
    if index < count:
        return None
    known = {
        1: f"there is 1 GPU. Choose '{kind}:0'",
        2: f"there are 2 GPUs. Choose '{kind}:0' or '{kind}:1'",
    }.get(count, f"there are {count} GPUs. Choose one of '{kind}:0' to '{kind}:{count - 1}'")
    visible = os.environ.get(_VISIBLE)
    return known if visible is None else f"{known} ({_VISIBLE} is {visible!r}, which hides others)"


def _no_gpu() -> str:
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        return f"{_VISIBLE} is {visible!r}, which leaves no GPU. Unset it, or list GPUs in it, such as {_VISIBLE}=0"
    return "the NVIDIA driver finds no GPU. The command `nvidia-smi` should list it"


def _old_driver(version: int, cuda_major: int) -> str:
    newest = f"CUDA {version // 1000}.{version % 1000 // 10}"
    wanted = f" to version {_DRIVERS[cuda_major]} or later" if cuda_major in _DRIVERS else ""
    old = f"the NVIDIA driver is too old: it knows {newest}, and onnxruntime needs CUDA {cuda_major}. Update it{wanted}"
    if version >= 12_000 and cuda_major > 12:
        return f"{old}, or install an onnxruntime-gpu for CUDA 12: {_WITH_CUDA_12}"
    return old


def _describe(driver: Any, failure: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorString(failure, ctypes.byref(text)) or text.value is None:
        return f"error {failure}"
    return f"{text.value.decode(errors='replace')} (error {failure})"


@frozen
class _Library:
    """A library of CUDA. Its name without the version, its version, and the package of pip that has it."""

    name: str
    version: int
    package: str

    @property
    def file(self) -> str:
        return f"{self.name}.so.{self.version}"


def load_libraries(provider: Path, cuda_major: int) -> str | None:
    """Load the libraries of CUDA and cuDNN. Return what is missing and what to do about it, or None.

    Takes those that the process has loaded already; then those of pip's packages, which torch needs too; then those of
    the system. The linker does not look into pip's packages, but takes a library of the same name that is loaded.

    Args:
        provider: onnxruntime's library for CUDA. Loading it shows whether anything is missing.
        cuda_major: the version of CUDA that onnxruntime was built with.

    Example:
        >>> load_libraries(Path("libonnxruntime_providers_cuda.so"), 13)  # doctest: +SKIP
        'libcublas.so.13 is missing. Run: pip install nvidia-cublas'
    """
    libraries = _libraries(cuda_major)
    failures = {library.file: _load(library) for library in libraries}
    # onnxruntime loads cuDNN when a kernel first needs it.
    missing = None if failures[_CUDNN] is None else _CUDNN
    try:
        # onnxruntime's library looks for names in this one.
        _open_library(str(provider.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
        _open_library(str(provider))
    except OSError as error:
        found = _MISSING.search(str(error))
        if found is None:
            return f"a library of CUDA does not fit onnxruntime ({error}). Run: {_reinstall(libraries)}"
        missing = found[1]
    if missing is None:
        return _wrong_cudnn(cuda_major)
    library = next((library for library in libraries if library.file == missing), None)
    return _missing(missing, library, failures.get(missing))


def _libraries(cuda_major: int) -> list[_Library]:
    """Return the libraries that onnxruntime needs, each after those that it needs itself."""
    suffix = "" if cuda_major >= 13 else f"-cu{cuda_major}"
    versions = {
        "cudart": ("cuda-runtime", cuda_major),
        "nvrtc": ("cuda-nvrtc", cuda_major),
        "cublasLt": ("cublas", cuda_major),
        "cublas": ("cublas", cuda_major),
        "curand": ("curand", 10),
        "cufft": ("cufft", cuda_major - 1),
    }
    libraries = [
        _Library(f"lib{name}", version, f"nvidia-{package}{suffix}") for name, (package, version) in versions.items()
    ]
    return [*libraries, _Library("libcudnn", 9, f"nvidia-cudnn-cu{cuda_major}")]


def _reinstall(libraries: list[_Library]) -> str:
    packages = dict.fromkeys(library.package for library in libraries)
    return f"pip install --force-reinstall --no-deps {' '.join(packages)}"


def _load(library: _Library) -> str | None:
    """Load a library. Return why that failed, "" if it was not found, or None if it is loaded."""
    try:
        _open_library(library.file, os.RTLD_NOLOAD)
        return None
    except OSError:
        pass
    for path in _files(library.file):
        try:
            _open_library(str(path))
            return None
        except OSError as error:
            return str(error)
    try:
        _open_library(library.file)
        return None
    except OSError as error:
        return "" if _MISSING.search(str(error)) else str(error)


def _open_library(name: str, mode: int = 0) -> Any:
    return ctypes.CDLL(name, mode=mode)


def _files(pattern: str) -> Iterator[Path]:
    """Yield the libraries in the packages of NVIDIA and of torch whose names fit `pattern`."""
    for folder in _folders():
        yield from folder.glob(pattern)


def _folders() -> Iterator[Path]:
    """Yield the folders of libraries in the packages of NVIDIA and of torch. torch is not imported."""
    for package, pattern in (("nvidia", "*/lib"), ("torch", "lib")):
        try:
            spec = find_spec(package)
        except (ImportError, ValueError):  # a module without a specification is in sys.modules
            continue
        for place in list(spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob(pattern))


def _missing(file: str, library: _Library | None, failure: str | None) -> str:
    if library is None and file.startswith("libonnxruntime"):
        return f"{file} is missing. Run: pip install --force-reinstall --no-deps onnxruntime-gpu"
    if library is None:
        return f"{file} is missing. Install it with the system's package manager"
    if failure and file in failure and not _MISSING.search(failure):
        return f"{failure}. Run: pip install --force-reinstall --no-deps {library.package}"
    others = sorted(path.name for path in _files(f"{library.name}.so.*") if path.name != file)
    beside = f", and {others[0]} that is installed is of another version" if others else ""
    return f'{file} is missing{beside}. Run: pip install {library.package}, or pip install "embedder-onnx[gpu]"'


def _wrong_cudnn(cuda_major: int) -> str | None:
    """Return what to do if cuDNN is for another version of CUDA: its file has the same name for all of them."""
    for path in _files(_CUDNN):
        packages = {entry.name.partition("-")[0] for entry in path.parents[3].glob("nvidia_cudnn_cu*.dist-info")}
        names = sorted(name.replace("_", "-") for name in packages)
        wanted = f"nvidia-cudnn-cu{cuda_major}"
        if names and wanted not in names:
            return (
                f"{names[0]} is for another version of CUDA. Run: pip uninstall -y {names[0]} && pip install {wanted}"
            )
    return None
