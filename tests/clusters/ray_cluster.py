"""A cluster of Ray on this machine, whose processes can be killed."""

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORES = 2
OBJECT_STORE_BYTES = 80 << 20
SYSTEM_CONFIG = {
    # A node that was killed is found within seconds, and not after half a minute.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
    # By default, other programs of the machine go before the processes of Ray.
    "worker_niceness": 0,
}


class RayCluster:
    """Two nodes with a cache each, as if they were two machines. This process is connected to the first one.

    Attributes:
        address: what `ray.init` takes.
    """

    def __init__(self, directory: Path) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._directory = directory
        self._replaced = 0
        # The paths of sockets must be short. Other programs look for a cluster in the usual place: not here.
        self._session = tempfile.mkdtemp(prefix="ray-")
        os.environ["RAY_TMPDIR"] = self._session
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **self._options("head"),
                "include_dashboard": False,
                "_system_config": SYSTEM_CONFIG,
            },
        )
        self._node = self._cluster.add_node(**self._options("node-0"))
        self.address = self._cluster.address
        ray.init(address=self.address, logging_level="ERROR", log_to_driver=False)

    def caches(self) -> list[str]:
        """Return the directories of the caches of both nodes."""
        return [str(self._directory / "head"), str(self._directory / f"node-{self._replaced}")]

    def each_node(self) -> list[object]:
        """Return what puts a task on a node, for each node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]

    def replace_node(self) -> None:
        """Kill the processes of the second node, and start another one."""
        self._cluster.remove_node(self._node, allow_graceful=False)
        self._replaced += 1
        self._node = self._cluster.add_node(**self._options(f"node-{self._replaced}"))

    def _options(self, name: str) -> dict[str, object]:
        cache = self._directory / name
        cache.mkdir()
        environment = {
            "XDG_CACHE_HOME": str(cache),
            "EMBEDDER_HOME": str(cache / "models"),
            "EMBEDDER_PREPACK": "0",
            "PYTHONPATH": str(ROOT),  # the packages of this checkout, and not those that are installed
        }
        return {"num_cpus": CORES, "object_store_memory": OBJECT_STORE_BYTES, "env_vars": environment}

    def actors(self) -> list[int]:
        """Return the ids of the processes of this cluster that run actors of Ray Data."""
        raylets = {
            info.process.pid for node in self._cluster.list_all_nodes() for info in node.all_processes.get("raylet", [])
        }
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                command = (path / "cmdline").read_bytes()
            except OSError:  # the process has ended
                continue
            if parent in raylets and command.startswith(b"ray::MapWorker"):
                found.append(int(path.name))
        return sorted(found)

    def stop(self) -> None:
        """End all processes, and remove what they have written."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()
        del os.environ["RAY_TMPDIR"]
        shutil.rmtree(self._session, ignore_errors=True)


def kill(process: int) -> None:
    """Kill a process. It may have ended already."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
