"""The kind of CPU: equal where onnxruntime lays the weights out in the same way, different or unknown elsewhere."""

import ctypes
import platform
from itertools import combinations

import pytest

from embedder.backends import cpu_kind as module
from embedder.backends.cpu_kind import cpu_kind
from tests.cpus import CPUS


@pytest.fixture
def on(monkeypatch, tmp_path):
    """A function that lets this machine look like another one, and returns its kind."""

    def kind(machine, cpuinfo, *, system="Linux", tiles=True, convolutions=False):
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(module, "_CPUINFO", path)
        monkeypatch.setattr(module, "_may_use_tiles", lambda: tiles)
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(platform, "system", lambda: system)
        return cpu_kind(convolutions=convolutions)

    return kind


SAME = [
    ("Haswell", "Skylake-SP", "Cascade Lake", "Alder Lake", "Zen 3", "Zen 4"),
    ("Westmere", "Sandy Bridge"),
    ("Sapphire Rapids",),
    ("Sierra Forest",),
    ("Cortex-A72",),
    ("Neoverse N1", "Ampere Altra"),
    ("Neoverse V1",),
]


def test_cpus_of_the_same_layout_have_the_same_kind(on):
    kinds = [{on(*CPUS[name]) for name in names} for names in SAME]
    assert sorted(name for names in SAME for name in names) == sorted(CPUS)
    assert None not in set().union(*kinds)
    assert all(len(kind) == 1 for kind in kinds)
    assert all(one.isdisjoint(other) for one, other in combinations(kinds, 2))


def test_convolutions_depend_on_avx512(on):
    kinds = [on(*CPUS[name], convolutions=True) for name in ("Haswell", "Zen 3", "Skylake-SP", "Zen 4")]
    assert kinds[0] == kinds[1] != kinds[2] == kinds[3]


def test_tiles_that_the_system_refuses_do_not_count(on):
    assert on(*CPUS["Sapphire Rapids"], tiles=False) == on(*CPUS["Cascade Lake"])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64", "ppc64le", ""])
@pytest.mark.parametrize(
    "cpuinfo",
    [
        None,
        "",
        "processor\t: 0\n",
        "processor\t: 0\nisa\t\t: rv64imafdc\n",
        "flags\n",
        "flags\t:\n",
        "Features\t: half\n",
    ],
)
def test_a_machine_that_does_not_show_its_features_is_unknown(on, machine, cpuinfo):
    assert on(machine, cpuinfo) is None


def test_a_32_bit_program_on_a_64_bit_cpu_is_unknown(on):
    assert on("i686", CPUS["Haswell"][1]) is None
    assert on("armv7l", CPUS["Neoverse N1"][1]) is None


def test_other_systems_are_known_by_the_name_of_the_machine(on, monkeypatch):
    kinds = set()
    for name in ("studio", "laptop"):
        monkeypatch.setattr(platform, "node", lambda name=name: name)
        kinds.add(on("arm64", None, system="Darwin"))
    assert len(kinds) == 2
    assert all(kind.startswith("Darwin arm64 ") for kind in kinds)


def test_this_machine():
    assert cpu_kind() == cpu_kind()
    assert cpu_kind() is None or cpu_kind().startswith((platform.machine(), platform.system()))


def test_the_system_is_asked_for_the_tiles(monkeypatch):
    asked = []

    class Library:
        def __init__(self, name):
            assert name is None

        def syscall(self, *arguments):
            asked.append(arguments)
            return -1 if len(asked) == 2 else 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert module._may_use_tiles() is True
    assert module._may_use_tiles() is False
    assert asked[0] == (158, 0x1023, 18)
