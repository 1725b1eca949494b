"""Count the usable cores, on systems that are imitated by files."""

import os

import pytest

from embedder.common import control_groups, cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine of 8 cores with 16 hardware threads: a function that writes the files of its control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(cores, "_TOPOLOGY", str(tmp_path / "cpu{}"))
    monkeypatch.setattr(cores, "_CPUINFO", tmp_path / "cpuinfo")
    for number in range(16):
        (tmp_path / f"cpu{number}").write_text(f"{number % 8},{number % 8 + 8}\n")

    def write(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


def test_hardware_threads_of_a_core_count_once(system):
    assert cores.usable_cores() == 8


def test_cores_that_the_process_may_not_use_do_not_count(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 8, 3})
    assert cores.usable_cores() == 2


def test_system_without_topology_and_control_groups(system, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "_TOPOLOGY", str(tmp_path / "nowhere{}"))
    assert cores.usable_cores() == 16


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("400000 100000", 4), ("1000 100000", 1), ("9900000 100000", 8)],
)
def test_quota_of_a_control_group(system, quota, expected):
    system(membership="0::/a/b\n", cgroup__a__b__cpu_DOT_max=f"{quota}\n")
    assert cores.usable_cores() == expected


def test_group_above_may_grant_less(system):
    system(membership="0::/a/b\n", cgroup__a__b__cpu_DOT_max="max 100000", cgroup__a__cpu_DOT_max="200000 100000")
    assert cores.usable_cores() == 2


def test_control_groups_of_a_container_are_at_the_root(system):
    system(membership="0::/of/the/host\n", cgroup__cpu_DOT_max="300000 100000\n")
    assert cores.usable_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 8), ("", 8), ("nonsense", 8)])
def test_quota_of_a_control_group_of_version_1(system, quota, expected):
    system(
        membership="5:memory:/x\n4:cpu,cpuacct:/x\n",
        **{
            "cgroup__cpu,cpuacct__x__cpu_DOT_cfs_quota_us": quota,
            "cgroup__cpu,cpuacct__x__cpu_DOT_cfs_period_us": "100000",
        },
    )
    assert cores.usable_cores() == expected


def test_system_without_affinity_counts_all_cores(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "nowhere")
    assert cores.usable_cores() == 6


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [("flags\t: sse avx\n", False), ("flags\t: sse avx2 fma\n", True), ("Features: fp\n", True)],
)
def test_integers_are_fast_if_the_cpu_has_avx2_or_does_not_tell(system, cpuinfo, expected):
    system(cpuinfo=cpuinfo)
    assert cores.has_fast_integers() is expected


def test_usable_cores_of_this_machine():
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)
