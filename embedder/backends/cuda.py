"""NVIDIA GPUs. Only the files whose names begin with "cuda" know this word."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embedder.backends.backend import Device
from embedder.backends.cuda_libraries import driver_problem, gpu_count, index_problem, load_libraries
from embedder.backends.cuda_session import EXECUTION_PROVIDER, KIND, OUT_OF_MEMORY, CudaDevice
from embedder.backends.onnxruntime_package import (
    import_onnxruntime,
    install_command,
    installed_distributions,
    shadowed_place,
)
from embedder.backends.sessions import LOG_ERRORS_ONLY, open_session, session_options
from embedder.errors import InputError, ProviderError

_PACKAGE = "onnxruntime-gpu"

# A serialised ONNX graph that adds its input, one float, to itself. A call of it shows whether the GPU computes.
_PROBE = bytes.fromhex(
    "08083a390a0e0a01780a01781201792203416464120570726f62655a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)
# What onnxruntime says of a failure. The rest of its message names its own files.
_FAILURE = re.compile(r"CUDA failure \d+: [^;]*[^; ]")
_BAD_OPTION = re.compile(r'(?:Failed to parse|Unknown) provider option:? "(\w+)"')
_OVER_LIMIT = "is smaller than requested bytes"
# The process, the GPU and the options of each probe that succeeded.
_probed: set[tuple[int, int, tuple[tuple[str, str], ...]]] = set()


class _CudaKind:
    name = KIND
    has_numbers = True
    option_names = (
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "do_copy_in_default_stream",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    )

    def is_installed(self) -> bool:
        return EXECUTION_PROVIDER in import_onnxruntime().get_available_providers()

    def workers(self) -> tuple[str, ...]:
        if not self.is_installed():
            raise ProviderError(self._not_installed())
        self._check(0)
        return tuple(CudaDevice(index).name for index in range(gpu_count()))

    def start(self, threads: int | None, index: int, options: Mapping[str, str]) -> Device:
        if not self.is_installed():
            raise ProviderError(self._not_installed())
        self._check(index)
        if index:
            # onnxruntime warns in its log of each session that names a GPU, although nothing is wrong.
            import_onnxruntime().set_default_logger_severity(LOG_ERRORS_ONLY)
        device = CudaDevice(index, options)
        problem = _probe(device)
        if problem is not None:
            raise ProviderError(f"provider {device.name!r} did not start: {problem}")
        return device

    def _check(self, index: int) -> None:
        """Raise ProviderError unless the driver, the GPU of this number and the libraries are here."""
        problem = _problem(index, self.name)
        if problem is not None:
            raise ProviderError(f"provider {CudaDevice(index).name!r} does not work here: {problem}")

    def _not_installed(self) -> str:
        onnxruntime = import_onnxruntime()
        place = shadowed_place(_PACKAGE)
        if place is not None:
            return (
                f"{_PACKAGE} is installed in {place}, but Python finds another onnxruntime first, in "
                f"{Path(onnxruntime.__file__).parents[1]}. Uninstall that one, or make an environment with {_PACKAGE} "
                "alone"
            )
        available = ", ".join(onnxruntime.get_available_providers())
        return (
            f"provider {self.name!r} is not in the onnxruntime installed here (it has {available}). Run: "
            f"{install_command(_PACKAGE, replacing=installed_distributions())}"
        )


CUDA = _CudaKind()


def _problem(index: int, kind: str) -> str | None:
    """Return what is missing on this machine, and what to do about it; or None."""
    onnxruntime = import_onnxruntime()
    major = int((getattr(onnxruntime, "cuda_version", "") or "13").partition(".")[0])
    if sys.platform != "linux":
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()
        return driver_problem(major) or index_problem(index, kind)
    provider = Path(onnxruntime.__file__).with_name("capi") / "libonnxruntime_providers_cuda.so"
    return driver_problem(major) or index_problem(index, kind) or load_libraries(provider, major)


def _probe(device: CudaDevice) -> str | None:
    """Compute a sum on the GPU. Return why that fails, and what to do about it; or None.

    Raises:
        InputError: onnxruntime does not take one of the options.
    """
    key = os.getpid(), device.index, tuple(sorted(device.options.items()))
    if key in _probed:
        return None
    try:
        options = device.provider_options
        session = open_session(_PROBE, EXECUTION_PROVIDER, session_options(1), provider_options=options)
        # onnxruntime may also use the CPU instead, and say so only in its log.
        if EXECUTION_PROVIDER not in session.get_providers():
            return "onnxruntime took the CPU instead. Its own message, on standard error, says why"
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime's errors share no base but Exception
        return _advice(str(error), device)
    _probed.add(key)
    return None


def _advice(message: str, device: CudaDevice) -> str:
    """Return a failure of onnxruntime, and what to do about it."""
    option = _BAD_OPTION.search(message)
    if option is not None and option[1] in device.options:
        value = device.options[option[1]]
        raise InputError(f"provider_options[{option[1]!r}] is {value!r}, which this version of onnxruntime refuses")
    if _OVER_LIMIT in message:
        return f"provider_options limits its memory too far: {dict(device.options)}"
    if OUT_OF_MEMORY.search(message):
        return "the GPU has no free memory. The command `nvidia-smi` lists the processes that use it; end one of them"
    if "no kernel image" in message:
        return "this onnxruntime has no kernels for this GPU, which is too old or too new for it"
    failure = _FAILURE.search(message)
    return failure[0] if failure else message
