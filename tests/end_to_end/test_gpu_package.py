"""The real onnxruntime-gpu on a machine without a GPU: what is said, and that nothing else is printed.

The linker's own messages are here. A stand-in for the driver is compiled where there is a compiler.
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.distributions import ROOT
from tests.tiny import write_tiny_artifact

pytestmark = pytest.mark.slow

DRIVER = """
#include <stdlib.h>
static int number(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return number("FAKE_INIT"); }
int cuDriverGetVersion(int *version) { *version = number("FAKE_VERSION"); return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_COUNT"); return 0; }
int cuGetErrorString(int error, const char **text) { *text = "unknown error"; return 0; }
"""
# Prints, for each line of its input, the error of a model that is loaded with this environment and this provider.
ASK = """
import json, os, sys
from embedder import Embedder
from embedder.errors import ProviderError
for line in sys.stdin:
    environment, provider = json.loads(line)
    os.environ.update(environment)
    try:
        print(Embedder(sys.argv[1], provider=provider).device, flush=True)
    except ProviderError as error:
        print(error, flush=True)
"""


@pytest.fixture
def ask(gpu_bin, tmp_path):
    """A function that loads a model in the environment of onnxruntime-gpu. It returns what is said, and stderr."""
    model = write_tiny_artifact(tmp_path / "tiny")
    site = tmp_path / "site"

    def run(*cases, driver=None):
        paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
        if driver is not None:
            paths["LD_LIBRARY_PATH"] = str(driver)
        lines = "".join(f"{json.dumps(case)}\n" for case in cases)
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        answer = subprocess.run(
            [gpu_bin / "python", "-c", ASK, model],
            input=lines,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment | paths,
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.splitlines(), answer.stderr

    run.site = site
    return run


@pytest.fixture
def driver(tmp_path):
    """A directory with a driver that says what the environment says."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    directory = tmp_path / "driver"
    directory.mkdir()
    (directory / "driver.c").write_text(DRIVER)
    command = [compiler, "-shared", "-fPIC", "-o", directory / "libcuda.so.1", directory / "driver.c"]
    subprocess.run(command, check=True, timeout=60)
    return directory


def test_no_driver(ask):
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    told, warned = ask(({}, "cuda"), ({}, None), ({}, None), ({}, "cpu"))
    missing = (
        "provider 'cuda' does not work here: the NVIDIA driver is not installed (libcuda.so.1: cannot open shared "
        "object file: No such file or directory). Install it, so that the command `nvidia-smi` lists the GPU. A "
        "container needs to be started with access to the GPU, such as docker run --gpus all"
    )
    assert told == [missing, "cpu", "cpu", "cpu"]
    assert warned == (
        "<string>:9: RuntimeWarning: 'cpu' is used (with provider='cpu' this warning does not come): " + missing + "\n"
    )


def test_failures_in_the_order_in_which_a_user_mends_them(ask, driver):
    told, warned = ask(
        ({"FAKE_VERSION": "12080", "FAKE_COUNT": "2"}, "cuda"),
        ({"FAKE_VERSION": "13000", "FAKE_INIT": "999"}, "cuda"),
        ({"FAKE_INIT": "100"}, "cuda"),
        ({"FAKE_INIT": "0"}, "cuda:2"),
        ({}, "cuda:1"),
        driver=driver,
    )
    start = "provider 'cuda' does not work here: "
    assert told == [
        f"{start}the NVIDIA driver is too old: it knows CUDA 12.8, and onnxruntime needs CUDA 13. Update it to version "
        '580 or later, or install an onnxruntime-gpu for CUDA 12: pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
        f"{start}the NVIDIA driver does not start: unknown error (error 999). Check it with the command `nvidia-smi`",
        f"{start}the NVIDIA driver finds no GPU. The command `nvidia-smi` should list it",
        "provider 'cuda:2' does not work here: there are 2 GPUs. Choose 'cuda:0' or 'cuda:1'",
        "provider 'cuda:1' does not work here: libcublasLt.so.13 is missing. Run: pip install nvidia-cublas, or "
        'pip install "embedder-onnx[gpu]"',
    ]
    assert warned == ""


def test_libraries_of_another_version_and_damaged_ones(ask, driver):
    """The files are no libraries, so the linker refuses them."""
    environment = {"FAKE_VERSION": "13000", "FAKE_COUNT": "1"}
    (ask.site / "nvidia/cublas/lib").mkdir(parents=True)
    (ask.site / "nvidia/cublas/lib/libcublasLt.so.12").write_text("not a library, but longer than the header of one")
    told, _ = ask((environment, "cuda"), driver=driver)
    assert (
        "libcublasLt.so.13 is missing, and libcublasLt.so.12 that is installed is of another version. Run: " in told[0]
    )
    (ask.site / "nvidia/cu13/lib").mkdir(parents=True)
    damaged = ask.site / "nvidia/cu13/lib/libcublasLt.so.13"
    damaged.write_text("not a library")
    told, warned = ask((environment, "cuda"), driver=driver)
    assert told == [
        f"provider 'cuda' does not work here: {damaged}: file too short. Run: pip install --force-reinstall --no-deps "
        "nvidia-cublas"
    ]
    assert warned == ""
