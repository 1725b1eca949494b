"""Prepacked weights on other CPUs, which QEMU emulates: the real model is packed and run there.

The emulator runs one program, such as Python, as if on another CPU. So onnxruntime chooses the kernels of that CPU.
`/proc/cpuinfo` is still that of this machine, so each test gives the program a recorded one.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
from embedder_export.write.prepacked import write_prepacked_artifact

from embedder.artifact.locate import open_artifact
from embedder.backends.cpu_kind import cpu_kind
from embedder.common.digests import sha256_of
from tests.cpus import CPUS
from tests.processes import ROOT

_QEMU = shutil.which("qemu-x86_64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_QEMU is None, reason="qemu-x86_64 is not installed (the package qemu-user)"),
    pytest.mark.skipif(cpu_kind() != "x86_64 avx2 fma", reason="compares with an ordinary CPU of x86-64 with AVX2"),
]

_START = """
import sys
from pathlib import Path
from embedder.backends import cpu_kind
cpu_kind._CPUINFO = Path(sys.argv[1])
"""
_PACK = """
from embedder.backends.prepacked import save_prepacked
save_prepacked(Path(sys.argv[2]), Path(sys.argv[3]))
"""
_RUN = """
import os
import numpy, onnxruntime, embedder
opened, start = [], onnxruntime.InferenceSession
def open_and_note(graph, *rest, **options):
    opened.append(Path(graph).name)
    return start(graph, *rest, **options)
onnxruntime.InferenceSession = open_and_note
texts = ["the cat sat on the mat", "", "a longer text of several words " * 9]
packed = embedder.Embedder(sys.argv[2], threads=1).encode(texts)
os.environ["EMBEDDER_PREPACK"] = "0"
plain = embedder.Embedder(sys.argv[3], threads=1, dtype=sys.argv[4]).encode(texts)
numpy.testing.assert_array_equal(packed, plain)
print(opened[0])
"""


@pytest.fixture
def emulated(tmp_path):
    """A function that runs Python code on an emulated CPU, and returns what it prints."""

    def run(cpu, code, *arguments):
        recorded = tmp_path / f"cpuinfo of {cpu}"
        recorded.write_text(CPUS[cpu][1])
        python = os.path.realpath(sys.executable)
        command = [_QEMU, "-cpu", cpu.replace(" ", ""), python, "-c", _START + code, recorded, *arguments]
        packages = (ROOT, Path(onnxruntime.__file__).parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "EMBEDDER_PREPACK": "1",
            "XDG_CACHE_HOME": str(recorded),  # no directory: only the artifact has forms
        }
        return subprocess.run(
            list(map(str, command)), env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=600
        ).stdout

    return run


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_avx2_and_this_cpu_pack_the_same_bytes(minilm, tmp_path, emulated, name):
    """Such as one with AVX-512 and VNNI. So their kernels share one layout, and they are of one kind."""
    from embedder.backends.prepacked import save_prepacked

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    save_prepacked(minilm / name, tmp_path / "here" / name)
    emulated("Haswell", _PACK, minilm / name, tmp_path / "there" / name)
    for file in (name, f"{name}.data"):
        assert sha256_of(tmp_path / "here" / file) == sha256_of(tmp_path / "there" / file)


@pytest.mark.parametrize(
    ("cpu", "opened"), [("Haswell", "model.int8.prepacked.onnx"), ("Sandy Bridge", "model.int8.onnx")]
)
def test_another_cpu_uses_the_form_of_this_one_only_if_it_has_the_same_layout(minilm, tmp_path, emulated, cpu, opened):
    """Its vectors are those that the original artifact gives there."""
    shared = write_prepacked_artifact(open_artifact(minilm), "int8", tmp_path / "shared")
    assert platform.machine() == CPUS[cpu][0]
    assert emulated(cpu, _RUN, shared, minilm, "int8").split() == [opened]
