"""A GPU, and a graph on it: one session of onnxruntime. `cuda.py` finds out whether the GPU works."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import field, replace
from typing import Any, NoReturn

from embedder.backends.backend import Backend, Device, Feeds, GraphFiles, Outputs
from embedder.backends.cuda_libraries import free_memory_bytes
from embedder.backends.sessions import check_outputs, open_session, run_session, session_options
from embedder.common.records import frozen
from embedder.errors import ArtifactError, DeviceMemoryError, ProviderError

KIND = "cuda"
EXECUTION_PROVIDER = "CUDAExecutionProvider"
# A GPU needs far more work in a call than a CPU.
_TOKEN_BUDGET = 16384
# What onnxruntime says when the GPU has too little memory, or when a tensor has more numbers than its kernels count.
OUT_OF_MEMORY = re.compile(
    "out of memory|failed to allocate memory|available memory of [0-9]+ is smaller|alloc_failed|fast_divmod",
    re.IGNORECASE,
)
# What it says when the GPU itself has failed. The rest of its message names its own files.
_FAILURE = re.compile(r"(?:CUDA|CUBLAS|CUDNN) failure \d+: [^;]*[^; ]", re.IGNORECASE)

# A token takes at most about this many bytes of the GPU's memory in a call of a model with vectors of 1,024 numbers.
_BYTES_PER_TOKEN = 64 * 1024
# The share of the free memory that all calls together may take. Other models and programs need some too.
_MEMORY_SHARE = 0.5
# A GPU that has hardly any memory left runs batches of this many tokens, or halves them.
_MIN_TOKEN_BUDGET = 512

# The defaults of embedder. Options that the user gives come first.
_DEFAULT_OPTIONS = {
    # onnxruntime rounds the numbers of fp32 graphs to 10 bits by default. Whoever wants speed takes fp16.
    "use_tf32": "0",
    # By default cuDNN tries all its kernels for each new number of images. Images have one convolution.
    "cudnn_conv_algo_search": "HEURISTIC",
}
_MEMORY_LIMIT = "gpu_mem_limit"


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
    threads: int = 3  # one batch computes while another one is copied and a third one is made
    preparing_threads: int = 2
    preferred_dtypes: tuple[str, ...] = ("fp16", "fp32", "int8")

    @property
    def name(self) -> str:
        """The name for `provider=`."""
        return f"{KIND}:{self.index}" if self.index else KIND

    def open(self, files: GraphFiles) -> Backend:
        """Load a graph; see `Device.open`."""
        return CudaBackend(files, self, EXECUTION_PROVIDER, self.provider_options)

    @property
    def provider_options(self) -> dict[str, str]:
        """The options of onnxruntime's provider."""
        # The first GPU is the default. Of a session that names one, onnxruntime warns in its log.
        return {**self.options, "device_id": str(self.index)} if self.index else dict(self.options)


class CudaBackend:
    """A graph on a GPU. Safe to call from many threads.

    At most `device.threads` calls run at a time. onnxruntime gives each of them a stream of its own, so that one call
    computes while another one copies. It takes memory from an arena, which keeps what a call has used for the next one.
    """

    def __init__(
        self, files: GraphFiles, device: CudaDevice, execution_provider: str, provider_options: Mapping[str, str]
    ) -> None:
        """Load the graph of `files`.

        Args:
            files: the graph.
            device: the device that runs it.
            execution_provider: onnxruntime's name of the provider.
            provider_options: the number of the device, and the options that the user gave.

        Raises:
            ArtifactError: onnxruntime cannot load the graph, or its outputs are not those of the manifest.
            DeviceMemoryError: the GPU has too little memory for the weights.
        """
        self._files = files
        self._provider = execution_provider
        self._options = {**_DEFAULT_OPTIONS, **provider_options}
        self._output_names = [output.name for output in files.graph.outputs]
        self._process = os.getpid()
        files.opening()
        try:
            self._session = self._open()
        except ArtifactError as error:
            if not OUT_OF_MEMORY.search(str(error)):
                raise
            raise DeviceMemoryError(
                f"the device {device.name!r} has too little free memory to load {files.path}, whose weights have "
                f"{files.graph.weights.size / 1e6:,.0f} MB. Release other models, or end other programs that use the "
                "device"
            ) from error
        check_outputs(self._session, files.path, files.graph)
        free = free_memory_bytes(device.index)
        self.device: Device = replace(device, token_budget=_token_budget(device, free, provider_options))
        self._slots = threading.Semaphore(device.threads)
        self._takes_all_slots = threading.Lock()

    def run(self, feeds: Feeds, *, single_batch: bool = False) -> Outputs:
        """Run the graph; see `Backend.run`.

        Raises:
            ArtifactError, DeviceMemoryError: as in `Backend.run`.
            ProviderError: the GPU has failed, or this process was forked from the one that loaded the graph.
        """
        if os.getpid() != self._process:
            raise ProviderError(
                "a forked process cannot use the GPU of its parent. Load the model in the process that uses it, or "
                'start processes by multiprocessing.get_context("spawn")'
            )
        try:
            with self._slots:
                return self._run(feeds)
        except DeviceMemoryError:
            if len(next(iter(feeds.values()))) > 1:
                raise
        return self._run_alone(feeds)  # perhaps the other calls had taken the memory

    def _run_alone(self, feeds: Feeds) -> Outputs:
        """Run the graph while no other call runs."""
        with self._takes_all_slots, ExitStack() as taken:  # which gives them back even if the wait is interrupted
            for _ in range(self.device.threads):
                taken.enter_context(self._slots)
            return self._run(feeds)

    def _run(self, feeds: Feeds) -> Outputs:
        try:
            return run_session(self._session, feeds, self._output_names)
        except ArtifactError as error:
            self._raise(error)

    def _raise(self, error: ArtifactError) -> NoReturn:
        """Raise what onnxruntime's message means."""
        message = str(error)
        if OUT_OF_MEMORY.search(message):
            raise DeviceMemoryError(f"the device {self.device.name!r} has too little free memory") from error
        failure = _FAILURE.search(message)
        if failure is not None:
            raise ProviderError(
                f"the device {self.device.name!r} has failed ({failure[0]}). This process cannot use it any more: "
                "start the program again. If it fails again, `nvidia-smi -q` and the log of the system say more"
            ) from error
        raise error

    def _open(self) -> Any:
        options = session_options(1)
        if _MEMORY_LIMIT not in self._options:
            # The arena would double its size until the weights fit. A limit of the user includes the weights.
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        return open_session(self._files.path, self._provider, options, provider_options=self._options)


def _token_budget(device: CudaDevice, free: int | None, provider_options: Mapping[str, str]) -> int:
    """Return how many tokens a call may have, so that all calls fit into the memory that is free after loading."""
    limit = provider_options.get(_MEMORY_LIMIT)
    known = [number for number in (free, None if limit is None else int(limit)) if number is not None]
    if not known:
        return device.token_budget
    tokens = int(_MEMORY_SHARE * min(known)) // (_BYTES_PER_TOKEN * device.threads)
    return min(device.token_budget, max(tokens, _MIN_TOKEN_BUDGET))
