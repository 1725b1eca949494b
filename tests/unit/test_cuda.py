"""How a GPU is found, and what is said where none works. The driver and the libraries are imitated."""

import os
import sys

import onnxruntime
import pytest

import embedder.backends
from embedder import Embedder, pool
from embedder.backends import cuda, cuda_libraries, select_device, worker_providers
from embedder.backends.cuda import CudaDevice
from embedder.backends.cuda_libraries import driver_problem, free_memory_bytes, load_libraries
from embedder.cli import main as cli
from embedder.compat import SentenceTransformer, process_pool
from embedder.compat.loading import Loading
from embedder.errors import ArtifactError, InputError, ProviderError
from embedder.options import LoadSettings
from embedder.serve.loading import load_models
from embedder.serve.metrics import Metrics
from embedder.serve.settings import ServerSettings
from tests.pages import code_blocks
from tests.processes import ROOT

GPU = 'pip install "embedder-onnx[gpu]"'
MISSING = "{}: cannot open shared object file: No such file or directory"
OF_13 = (
    *("libcudart.so.13", "libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"),
    *("libcufft.so.12", "libcudnn.so.9"),
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other names of libraries there")


class FakeDriver:
    """The functions of libcuda.so.1 that embedder calls. They return an error, and write to where a pointer points."""

    def __init__(self, init=0, version=13000, count=1, free=5_000_000_000):
        self.init, self.version, self.count, self.free = init, version, count, free

    def cuInit(self, flags):  # noqa: N802
        return self.init

    def cuDriverGetVersion(self, version):  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuGetErrorString(self, error, text):  # noqa: N802
        text._obj.value = b"system has unsupported display driver / cuda driver combination"
        return 0

    def cuDeviceGet(self, device, index):  # noqa: N802
        return 0 if index < self.count else 101

    def cuMemGetInfo_v2(self, free, total):  # noqa: N802
        free._obj.value = self.free
        return 0

    def cuDevicePrimaryCtxRetain(self, *rest):  # noqa: N802
        return 0

    cuCtxPushCurrent_v2 = cuCtxPopCurrent_v2 = cuDevicePrimaryCtxRetain  # noqa: N815


class Linker:
    """Imitate the linker: `there` is what it finds by its name, `damaged` the message of what it cannot load."""

    def __init__(self, driver, there=OF_13, damaged=None, provider=None):
        self.driver, self.there, self.damaged, self.provider = driver, set(there), damaged or {}, provider
        self.loaded = set()

    def open(self, name, mode=0):
        file = os.path.basename(name)
        if file == "libcuda.so.1" and self.driver is not None:
            return self.driver
        if file in self.damaged:
            raise OSError(self.damaged[file])
        if file.startswith("libonnxruntime"):
            if file.endswith("cuda.so") and self.provider:
                raise OSError(self.provider)
            return None
        if mode == os.RTLD_NOLOAD and name not in self.loaded:
            raise OSError(MISSING.format(name))
        if name not in self.there and not os.path.isabs(name):
            raise OSError(MISSING.format(name))
        self.loaded.add(file)
        return None


@pytest.fixture
def link(monkeypatch, tmp_path):
    """A function that replaces the linker, the folders of pip's packages, and the sessions of onnxruntime."""

    def replace(driver, **options):
        linker = Linker(driver, **options)
        monkeypatch.setattr(cuda_libraries, "_open_library", linker.open)
        monkeypatch.setattr(cuda_libraries, "_folders", lambda: sorted(tmp_path.glob("*/*/lib")))
        return linker

    start, names = onnxruntime.InferenceSession, ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def open_on_cpu(graph, options, providers, **rest):
        session = start(graph, options, providers=["CPUExecutionProvider"])
        asked = providers[0] if isinstance(providers[0], str) else providers[0][0]
        monkeypatch.setattr(session, "get_providers", lambda: [asked])
        return session

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_on_cpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(cuda, "_probed", set())
    monkeypatch.setattr(cuda_libraries, "_started", set())
    monkeypatch.setattr(embedder.backends, "_told", set())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return replace


def test_a_gpu_that_works_is_taken(tiny, link):
    linker = link(FakeDriver(count=2))
    assert Embedder(tiny).device == "cuda"
    assert Embedder(tiny, provider="cuda:0").device == "cuda"
    assert Embedder(tiny, provider="cuda:1").device == "cuda:1"
    assert linker.loaded == set(OF_13)


DRIVERS = [
    (None, "the NVIDIA driver is not installed (libcuda.so.1: cannot open shared object file: No such file"),
    (
        FakeDriver(version=12040),
        "the NVIDIA driver is too old: it knows CUDA 12.4, and onnxruntime needs CUDA 13. Update it to version 580 or "
        'later, or install an onnxruntime-gpu for CUDA 12: pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
    ),
    (
        FakeDriver(version=11040),
        "the NVIDIA driver is too old: it knows CUDA 11.4, and onnxruntime needs CUDA 13. Update it to version 580 or "
        "later",
    ),
    (FakeDriver(init=100), "the NVIDIA driver finds no GPU. The command `nvidia-smi` should list it"),
    (FakeDriver(count=0), "the NVIDIA driver finds no GPU. The command `nvidia-smi` should list it"),
    (
        FakeDriver(init=803),
        "the NVIDIA driver does not start: system has unsupported display driver / cuda driver combination (error 803)."
        " Check it with the command `nvidia-smi`",
    ),
    (
        FakeDriver(init=3),
        "this process was forked from one that uses the GPU, and CUDA does not work after a fork. Start processes with "
        'multiprocessing.get_context("spawn")',
    ),
]


@pytest.mark.parametrize(("driver", "message"), DRIVERS, ids=[message[:40] for _, message in DRIVERS])
def test_a_driver_that_does_not_work(tiny, link, driver, message):
    link(driver)
    with pytest.raises(ProviderError) as raised:
        Embedder(tiny, provider="cuda")
    assert str(raised.value).startswith(f"provider 'cuda' does not work here: {message}")
    with pytest.warns(RuntimeWarning) as warned:
        assert Embedder(tiny).device == "cpu"
    assert str(warned[0].message).startswith(
        f"'cpu' is used (with provider='cpu' this warning does not come): {raised.value}"
    )
    assert warned[0].filename == __file__
    assert Embedder(tiny).device == "cpu"  # without a second warning


def test_after_a_fork(tiny, link, monkeypatch):
    link(FakeDriver())
    assert Embedder(tiny).device == "cuda"
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ProviderError, match="this process was forked from one that uses the GPU"):
        Embedder(tiny, provider="cuda")


def test_hidden_gpus(tiny, link, monkeypatch):
    link(FakeDriver(init=100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        ProviderError, match=r"CUDA_VISIBLE_DEVICES is '', which leaves no GPU\. Unset it, or list GPUs"
    ):
        Embedder(tiny, provider="cuda")


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1, "provider 'cuda:9' does not work here: there is 1 GPU. Choose 'cuda:0'"),
        (2, "provider 'cuda:9' does not work here: there are 2 GPUs. Choose 'cuda:0' or 'cuda:1'"),
        (8, "provider 'cuda:9' does not work here: there are 8 GPUs. Choose one of 'cuda:0' to 'cuda:7'"),
    ],
)
def test_a_number_that_no_gpu_has(tiny, link, monkeypatch, count, message):
    link(FakeDriver(count=count))
    with pytest.raises(ProviderError) as raised:
        Embedder(tiny, provider="cuda:9")
    assert str(raised.value) == message
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(ProviderError, match=r"\(CUDA_VISIBLE_DEVICES is '0,1,2', which hides others\)"):
        Embedder(tiny, provider="cuda:9")


NAMES = r"'cpu', 'cuda'\. A number chooses one of several, such as 'cuda:1'$"


@pytest.mark.parametrize("provider", ["cpu:0", "cpu:1", "cuda:", "cuda:x", "cuda:-1", "cuda:99999", "cuda:1:1", ""])
def test_names_that_no_device_has(tiny, provider):
    with pytest.raises(ProviderError, match=f"unknown provider '{provider}': choose from {NAMES}"):
        Embedder(tiny, provider=provider)


def test_a_missing_library_is_named_with_its_package(tiny, link, tmp_path):
    there = [file for file in OF_13 if file != "libcublas.so.13"]
    link(FakeDriver(), there=there, provider=MISSING.format("libcublas.so.13"))
    message = rf"libcublas.so.13 is missing\. Run: pip install nvidia-cublas, or {GPU}$".replace("[", r"\[")
    with pytest.raises(ProviderError, match=message):
        Embedder(tiny, provider="cuda")
    (tmp_path / "nvidia/cublas/lib").mkdir(parents=True)
    (tmp_path / "nvidia/cublas/lib/libcublas.so.12").touch()
    with pytest.raises(
        ProviderError, match=r"libcublas.so.13 is missing, and libcublas.so.12 that is installed is of "
    ):
        Embedder(tiny, provider="cuda")
    link(FakeDriver(), provider=MISSING.format("libnuma.so.1"))
    with pytest.raises(ProviderError, match=r"libnuma.so.1 is missing\. Install it with the system's package manager"):
        Embedder(tiny, provider="cuda")


def test_cudnn_is_needed_although_onnxruntime_loads_it_later(tiny, link):
    link(FakeDriver(), there=OF_13[:-1])
    with pytest.raises(ProviderError, match=r"libcudnn.so.9 is missing\. Run: pip install nvidia-cudnn-cu13, or pip"):
        Embedder(tiny, provider="cuda")


def test_cudnn_for_another_cuda_has_the_same_file_name(tiny, link, tmp_path):
    link(FakeDriver())
    (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
    (tmp_path / "nvidia/cudnn/lib/libcudnn.so.9").touch()
    (tmp_path / "nvidia_cudnn_cu12-9.28.0.42.dist-info").mkdir()
    with pytest.raises(ProviderError) as raised:
        Embedder(tiny, provider="cuda")
    assert str(raised.value).endswith(
        "nvidia-cudnn-cu12 is for another version of CUDA. Run: pip uninstall -y nvidia-cudnn-cu12 && pip install "
        "nvidia-cudnn-cu13"
    )
    (tmp_path / "nvidia_cudnn_cu13-9.28.1.4.dist-info").mkdir()
    assert Embedder(tiny, provider="cuda").device == "cuda"


def test_a_damaged_library(tiny, link):
    damage = "/env/lib/libcublas.so.13: file too short"
    link(FakeDriver(), damaged={"libcublas.so.13": damage}, provider=MISSING.format("libcublas.so.13"))
    with pytest.raises(ProviderError, match=rf"{damage}\. Run: pip install --force-reinstall --no-deps nvidia-cublas$"):
        Embedder(tiny, provider="cuda")


def test_a_missing_library_of_onnxruntime_itself(tiny, link):
    file = "libonnxruntime_providers_shared.so"
    link(FakeDriver(), damaged={file: MISSING.format(f"/env/{file}")})
    message = rf"{file} is missing\. Run: pip install --force-reinstall --no-deps onnxruntime-gpu$"
    with pytest.raises(ProviderError, match=message):
        Embedder(tiny, provider="cuda")


def test_libraries_that_do_not_fit_onnxruntime(tiny, link):
    link(FakeDriver(), provider="/env/libonnxruntime_providers_cuda.so: undefined symbol: cublasLtMatmul")
    message = (
        r"a library of CUDA does not fit onnxruntime \(.*undefined symbol: cublasLtMatmul\)\. Run: pip install "
        "--force-reinstall --no-deps nvidia-cuda-runtime nvidia-cuda-nvrtc nvidia-cublas nvidia-curand nvidia-cufft "
        "nvidia-cudnn-cu13$"
    )
    with pytest.raises(ProviderError, match=message):
        Embedder(tiny, provider="cuda")


def test_builds_for_cuda_12_need_other_packages(link, tmp_path):
    link(FakeDriver(version=12020), there=(), provider=MISSING.format("libcufft.so.11"))
    assert driver_problem(12) is None
    assert load_libraries(tmp_path / "libonnxruntime_providers_cuda.so", 12).startswith(
        "libcufft.so.11 is missing. Run: pip install nvidia-cufft-cu12"
    )


def test_what_pip_installed_is_loaded_by_its_path(link, tmp_path):
    linker = link(FakeDriver(), there=())
    for file in OF_13:
        folder = tmp_path / "nvidia" / ("cudnn" if "cudnn" in file else "cu13") / "lib"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    assert load_libraries(tmp_path / "libonnxruntime_providers_cuda.so", 13) is None
    assert linker.loaded == set(OF_13)


def test_folders_of_packages(monkeypatch, tmp_path):
    for folder in ("nvidia/cu13/lib", "nvidia/cudnn/lib", "torch/lib"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "torch/__init__.py").write_text("raise SystemExit('torch should not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("nvidia", "torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    folders = [str(folder.relative_to(tmp_path)) for folder in cuda_libraries._folders() if tmp_path in folder.parents]
    assert folders == ["nvidia/cu13/lib", "nvidia/cudnn/lib", "torch/lib"]


# What onnxruntime 1.31 raises.
FAILURES = [
    (
        "cuda_call.cc:154 CudaCall CUDA failure 2: out of memory ; GPU=0 ; hostname=vm ; file=x.cc",
        "the GPU has no free memory. The command `nvidia-smi` lists the processes that use it; end one of them",
    ),
    (
        "bfc_arena.cc:402 Failed to allocate memory for requested buffer of size 4",
        "the GPU has no free memory. The command `nvidia-smi` lists the processes that use it; end one of them",
    ),
    (
        "bfc_arena.cc:360 AllocateRawInternal Available memory of 0 is smaller than requested bytes of 256",
        "provider_options limits its memory too far: {}",
    ),
    (
        "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",
        "this onnxruntime has no kernels for this GPU, which is too old or too new for it",
    ),
    (
        "cuda_call.cc:154 void CudaCall [with ERRTYPE = cudaError] CUDA failure 36: API call is not supported in the "
        "installed CUDA driver ; GPU=-1 ; hostname=vm",
        "CUDA failure 36: API call is not supported in the installed CUDA driver",
    ),
]


@pytest.mark.parametrize(("failure", "message"), FAILURES, ids=[failure[:40] for failure, _ in FAILURES])
def test_a_gpu_that_does_not_start(tiny, link, monkeypatch, failure, message):
    link(FakeDriver())

    def fail(*rest, **options):
        raise ArtifactError(f"onnxruntime 1.31.1 cannot load a graph: {failure}")

    monkeypatch.setattr(cuda, "open_session", fail)
    with pytest.raises(ProviderError) as raised:
        Embedder(tiny, provider="cuda")
    assert str(raised.value) == f"provider 'cuda' did not start: {message}"


def test_options_reach_onnxruntime(tiny, link, monkeypatch):
    link(FakeDriver(count=2))
    asked, start = [], onnxruntime.InferenceSession

    def note(graph, options, providers, **rest):
        asked.append(providers)
        return start(graph, options, providers, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    options = {"gpu_mem_limit": 4_000_000_000, "use_tf32": False}
    model = Embedder(tiny, provider="cuda:1", provider_options=options)
    name, given = asked[0][0]
    assert name == "CUDAExecutionProvider"
    assert given == {"gpu_mem_limit": "4000000000", "use_tf32": "False", "device_id": "1"}
    assert given.items() <= dict(asked[-1][0][1]).items()
    assert model._load_options()["provider_options"] == options
    asked.clear()
    Embedder(tiny, provider_options={"use_tf32": 0})
    assert asked[0] == [("CUDAExecutionProvider", {"use_tf32": "0"})]


def test_options_of_the_command_line_and_of_the_server(tiny, link, capsys):
    link(FakeDriver())
    command = ["similarity", "cat", "dog", "-m", str(tiny), "--provider", "cuda", "--provider-options"]
    assert cli.main([*command, "gpu_mem_limit=4000000000, use_tf32=0"]) == 0
    assert cli.main([*command, "colour=1"]) == 1
    assert "provider_options has no 'colour'" in capsys.readouterr().err
    settings = ServerSettings(models=(str(tiny),), provider="cuda", provider_options="colour=1")
    with pytest.raises(InputError, match="provider_options has no 'colour'"):
        load_models(settings, Metrics())


def test_wrong_options(tiny, link, monkeypatch):
    link(FakeDriver())
    for provider in ("cuda", None):
        with pytest.raises(
            InputError, match=r"provider_options has no 'colour': known are arena_extend_strategy, .*, use"
        ):
            Embedder(tiny, provider=provider, provider_options={"colour": 1})
    with pytest.raises(InputError, match="provider_options has no 'device_id': give provider='cuda:1' for the second"):
        Embedder(tiny, provider="cuda", provider_options={"device_id": 1})
    with pytest.raises(
        InputError, match=r"'cpu' takes no provider_options \(here 'use_tf32'\)\. threads= sets its thr"
    ):
        Embedder(tiny, provider="cpu", provider_options={"use_tf32": 1})
    with pytest.raises(
        InputError, match=r"provider_options should be a dict such as \{'gpu_mem_limit': 4000000000\}, not 3"
    ):
        LoadSettings(provider_options=3)
    with pytest.raises(
        InputError, match=r"provider_options\['use_tf32'\] should be a string or a whole number, not None"
    ):
        LoadSettings(provider_options={"use_tf32": None})

    def fail(*rest, **options):
        raise ArtifactError('provider_options_utils.h:187 Parse Failed to parse provider option "gpu_mem_limit": parse')

    monkeypatch.setattr(cuda, "open_session", fail)
    with pytest.raises(
        InputError, match=r"provider_options\['gpu_mem_limit'\] is 'much', which this version of onnxru"
    ):
        Embedder(tiny, provider="cuda", provider_options={"gpu_mem_limit": "much"})


def test_options_need_a_gpu_even_if_no_provider_is_named(tiny, link):
    """The CPU would ignore them."""
    link(None)
    with pytest.raises(ProviderError, match="the NVIDIA driver is not installed"):
        Embedder(tiny, provider_options={"use_tf32": 1})


def test_free_memory(link):
    link(FakeDriver(count=1))
    assert free_memory_bytes(0) == 5_000_000_000
    assert free_memory_bytes(1) is None
    link(FakeDriver(init=100))
    assert free_memory_bytes(0) is None
    link(None)
    assert free_memory_bytes(0) is None


def test_a_pool_takes_all_gpus(link, monkeypatch):
    link(FakeDriver(count=3))
    assert worker_providers(None) == worker_providers("cuda") == ("cuda", "cuda:1", "cuda:2")
    assert worker_providers("cuda:1") == ("cuda:1",)
    link(None)
    with pytest.warns(RuntimeWarning, match="'cpu' is used .* the NVIDIA driver is not installed"):
        assert set(worker_providers(None)) == {"cpu"}
    assert worker_providers(None) == worker_providers("cpu")
    with pytest.raises(ProviderError, match="the NVIDIA driver is not installed"):
        worker_providers("cuda")


@pytest.mark.parametrize(
    ("workers", "providers", "chosen"),
    [
        (None, None, ["cuda", "cuda:1"]),
        (None, "cuda", ["cuda", "cuda:1"]),
        (3, None, ["cuda", "cuda:1", "cuda"]),
        (1, "cuda", ["cuda"]),
        (2, "cuda:1", ["cuda:1", "cuda:1"]),
        (None, ("cuda:1", None, "cpu"), ["cuda:1", None, "cpu"]),
        (3, "cpu", ["cpu"] * 3),
    ],
)
def test_providers_of_the_workers_of_a_pool(link, workers, providers, chosen):
    link(FakeDriver(count=2))
    assert pool._providers(workers, providers) == chosen


@pytest.mark.parametrize(
    ("devices", "on", "options"),
    [
        (None, "cpu", {"providers": None, "workers": 4}),
        (None, "cuda:1", {"providers": "cuda"}),
        (["cuda:0", "cuda:1"], "cpu", {"providers": ["cuda", "cuda:1"]}),
    ],
)
def test_pools_of_sentence_transformers(monkeypatch, devices, on, options):
    class Pool:
        processes = ()

        def __init__(self, model, **given):
            assert given == options

    monkeypatch.setattr(process_pool, "EncoderPool", Pool)
    process_pool.start_pool(Loading("tiny", {"provider": None}), devices, on)


def test_devices_of_sentence_transformers(tiny, link):
    link(FakeDriver(count=2))
    model = SentenceTransformer(str(tiny), device="cuda:1", model_kwargs={"provider_options": {"use_tf32": "0"}})
    assert (str(model.device), model.device.type, model.device.index) == ("cuda:1", "cuda", 1)  # also torch's own
    assert model.embedder._load_options()["provider_options"] == {"use_tf32": "0"}
    assert model.to("cuda:0").device.type == "cuda"
    with pytest.raises(ProviderError, match="there are 2 GPUs"):
        model.to("cuda:2")
    assert model.cuda().device.type == "cuda"


def test_info_says_which_device_runs_a_model_and_why(tiny, link, capsys):
    def shown():
        assert cli.main(["info", str(tiny)]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("auto ", "device "))]

    link(FakeDriver())
    assert shown() == ["auto            fp32 on cuda", "device          cuda"]
    link(FakeDriver(count=0))
    assert shown()[1] == (
        "device          cpu; provider 'cuda' does not work here: the NVIDIA driver finds no GPU. The command "
        "`nvidia-smi` should list it"
    )


def test_info_of_the_package_for_cpus(tiny, capsys, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert cli.main(["info", str(tiny)]) == 0
    assert "\ndevice          cpu; the onnxruntime installed here has no other\n" in capsys.readouterr().out


def test_a_gpu_is_probed_once(link, monkeypatch):
    link(FakeDriver())
    opened, start = [], cuda.open_session
    monkeypatch.setattr(cuda, "open_session", lambda *rest, **options: opened.append(1) or start(*rest, **options))
    assert select_device("cuda") == select_device() == CudaDevice()
    assert len(opened) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for block in code_blocks(ROOT / "docs/gpu.md") if block.language == "python"], ids=str
)
def test_examples_on_the_page(minilm, link, monkeypatch, capsys, block):
    link(FakeDriver())
    monkeypatch.chdir(minilm.parents[1])
    exec(block.code, {})
    assert capsys.readouterr().out == block.output
