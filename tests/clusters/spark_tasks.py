"""Functions that the tests of Spark run in its Python workers. The workers import this module."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark import TaskContext

from embedder.integrations.spark import SparkEncoder
from tests.clusters.in_workers import count_loads, threads_of_loads


@dataclass(frozen=True)
class Report:
    """`map_arrow` of an encoder. The column "report" says, as JSON, which process has encoded a row, and how."""

    encoder: SparkEncoder

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        count_loads()
        for batch in self.encoder.map_arrow(batches):
            report = json.dumps(
                {
                    "worker": os.getpid(),
                    "daemon": os.getppid(),
                    "threads_of_loads": threads_of_loads,
                    "onnxruntime_in_worker": _has_onnxruntime(os.getpid()),
                    "onnxruntime_in_daemon": _has_onnxruntime(os.getppid()),
                }
            )
            yield pa.record_batch([*batch.columns, pa.array([report] * len(batch))], [*batch.schema.names, "report"])


@dataclass(frozen=True)
class KillOnce:
    """`map_arrow` of an encoder. Once, after the first batch of a partition, it kills a process.

    Attributes:
        encoder: the encoder.
        marker: a file that says that the process was killed.
        victim: "worker" for the Python worker, "executor" for the JVM that has started it.
    """

    encoder: SparkEncoder
    marker: Path
    victim: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(self.encoder.map_arrow(batches)):
            if number == 1 and TaskContext.get().partitionId() == 2 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid() if self.victim == "worker" else _parent(os.getppid()), signal.SIGKILL)
            yield batch


def _has_onnxruntime(process: int) -> bool:
    return "onnxruntime" in Path(f"/proc/{process}/maps").read_text()


def _parent(process: int) -> int:
    # The name of the program stands in parentheses before the fields.
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
