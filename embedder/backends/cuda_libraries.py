"""NVIDIA's driver and libraries: what of them is here, and what is missing. Nothing here needs onnxruntime."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def free_memory_bytes(index: int) -> int | None:
    """Return the free memory of a GPU, or None if the driver does not tell.

    Creates the context of CUDA on that GPU, which every session of onnxruntime needs too.

    Args:
        index: the number of the GPU, from 0 on, as CUDA counts them.

    Example:
        >>> free_memory_bytes(0)  # doctest: +SKIP
        84340047872
    """
    try:
        driver: Any = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    # The context is the one that all libraries of CUDA share. It is kept: onnxruntime opens it in any case.
    if (
        driver.cuInit(0)
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
