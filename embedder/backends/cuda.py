"""NVIDIA GPUs. Only this file knows the name "cuda"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from embedder.backends.backend import Backend, Device, GraphFiles
from embedder.backends.cuda_session import CudaBackend
from embedder.backends.onnxruntime_package import (
    import_onnxruntime,
    install_command,
    installed_distributions,
)
from embedder.backends.sessions import open_session, session_options
from embedder.common.records import frozen
from embedder.errors import ArtifactError, ProviderError

EXECUTION_PROVIDER = "CUDAExecutionProvider"
_PACKAGE = "onnxruntime-gpu"
# A GPU needs far more work in a call than a CPU.
_TOKEN_BUDGET = 16384

# A serialised ONNX graph that returns its input, one float. Opening it shows whether CUDA starts.
_PROBE = bytes.fromhex(
    "08083a3b0a100a017812017922084964656e74697479120570726f62655a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)


@frozen
class CudaDevice:
    """An NVIDIA GPU. `Device` describes the attributes.

    Attributes:
        index: the number of the GPU, from 0 on, as CUDA counts them.
        options: the options of onnxruntime's provider that the user gave.

    Example:
        >>> CudaDevice(1).name
        'cuda:1'
    """

    index: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    token_budget: int = _TOKEN_BUDGET
    unpadded_from_tokens: int | None = None  # a batch of one length would be too small for a GPU
    threads: int = 1
    preferred_dtypes: tuple[str, ...] = ("fp16", "fp32", "int8")

    @property
    def name(self) -> str:
        """The name for `provider=`."""
        return f"{CUDA.name}:{self.index}" if self.index else CUDA.name

    def open(self, files: GraphFiles) -> Backend:
        """Load a graph; see `Device.open`."""
        return CudaBackend(files, self, EXECUTION_PROVIDER, {**self.options, "device_id": str(self.index)})


class _CudaKind:
    name = "cuda"

    def start(self, threads: int | None) -> Device:
        available = import_onnxruntime().get_available_providers()
        if EXECUTION_PROVIDER not in available:
            raise ProviderError(
                f"provider {self.name!r} is not in the onnxruntime installed here (it has {', '.join(available)}). "
                f"Run: {install_command(_PACKAGE, replacing=installed_distributions())}"
            )
        problem = f"provider {self.name!r} did not start: check the NVIDIA driver and the CUDA libraries"
        try:
            session = open_session(_PROBE, EXECUTION_PROVIDER, session_options(1))
        except ArtifactError as error:
            raise ProviderError(problem) from error
        # onnxruntime may also use the CPU instead, and say so only in its log.
        if EXECUTION_PROVIDER not in session.get_providers():
            raise ProviderError(problem)
        return CudaDevice()


CUDA = _CudaKind()
