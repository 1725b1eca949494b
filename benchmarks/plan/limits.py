"""What breaks first as a corpus grows: each limit with the number of passages from which it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.plan.embedding import Corpus, NodeKind
from benchmarks.plan.indexes import LAWS, resident_bytes
from benchmarks.plan.measured import IndexFigures

DAY_S = 86_400


@dataclass(frozen=True)
class Bounds:
    """What one machine, one driver and one user can take.

    Attributes:
        memory_bytes: for vectors, in one machine.
        query_s: the longest time of one query that is still good.
        lost_per_hour: the share of nodes that are lost in an hour.
        driver_result_bytes: the most that Spark's driver collects: the default of spark.driver.maxResultSize, 1 GiB.
        driver_memory_bytes: of the driver.
        driver_bytes_per_task: what the driver keeps for a task or a block. An assumption: measure yours.
    """

    memory_bytes: float = 64e9
    query_s: float = 0.1
    lost_per_hour: float = 0.05
    driver_result_bytes: float = 2.0**30
    driver_memory_bytes: float = 4e9
    driver_bytes_per_task: float = 20e3


@dataclass(frozen=True)
class Limit:
    """Something that breaks.

    Attributes:
        passages: from how many passages on.
        breaks: what.
        instead: what to do then.
    """

    passages: float
    breaks: str
    instead: str


def limits(
    corpus: Corpus,
    cpu: NodeKind,
    gpu: NodeKind,
    indexes: dict[str, IndexFigures],
    bounds: Bounds,
    shard_rows: int,
) -> list[Limit]:
    """Return all limits by the number of passages from which they hold.

    Args:
        corpus: says the tokens of a passage and the dimension. Its number of passages is not used.
        cpu: a node without a GPU.
        gpu: a node with one.
        indexes: the measured figures of each kind of index with the most vectors.
        bounds: of machines, drivers and users.
        shard_rows: the rows of a file.
    """
    found = [
        *_machine_limits(corpus, cpu, gpu, bounds),
        *_job_limits(corpus, cpu, bounds, shard_rows),
        *_index_limits(indexes, bounds),
    ]
    return sorted(found, key=lambda limit: limit.passages)


def _vector_bytes(corpus: Corpus) -> float:
    return corpus.vector_bytes("float32") / corpus.passages


def _machine_limits(corpus: Corpus, cpu: NodeKind, gpu: NodeKind, bounds: Bounds) -> list[Limit]:
    memory = f"{bounds.memory_bytes / 1e9:,.0f} GB"
    return [
        Limit(
            cpu.speed.texts_per_s(corpus.tokens) * DAY_S,
            f"One day of one CPU node ({cpu.name})",
            "More nodes: Ray or Spark, or one run for each part of the input",
        ),
        Limit(
            gpu.speed.texts_per_s(corpus.tokens) * DAY_S,
            f"One day of one {gpu.name}",
            "More GPUs: one actor or executor for each",
        ),
        Limit(
            bounds.memory_bytes / _vector_bytes(corpus),
            f"All float32 vectors in one array of {memory}",
            "`encode_to_file`, in bounded memory; `precision` or `truncate_dim` for smaller vectors",
        ),
    ]


def _job_limits(corpus: Corpus, cpu: NodeKind, bounds: Bounds, shard_rows: int) -> list[Limit]:
    between_losses_s = -3600 / math.log1p(-bounds.lost_per_hour)
    return [
        Limit(
            bounds.driver_result_bytes / _vector_bytes(corpus),
            "Spark's `collect()` of float32 vectors: over 1 GiB, the default of `spark.driver.maxResultSize`",
            "Write Parquet from the executors. No vector passes through the driver",
        ),
        Limit(
            cpu.speed.texts_per_s(corpus.tokens) * between_losses_s,
            f"A run on CPU nodes without a lost one, at {100 * bounds.lost_per_hour:g} % an hour",
            "Retries by shard, and `--resume` or a job that skips the shards that are there",
        ),
        Limit(
            1000 * shard_rows,
            f"One request that lists all shards of {shard_rows:,} rows: it returns 1,000 names",
            "A list of the files in one manifest, or a directory for each thousand files",
        ),
        Limit(
            bounds.driver_memory_bytes / bounds.driver_bytes_per_task * shard_rows,
            f"{bounds.driver_memory_bytes / 1e9:g} GB of driver memory, at "
            f"{bounds.driver_bytes_per_task / 1e3:g} kB for each task of {shard_rows:,} rows",
            "Larger shards, or several jobs one after the other",
        ),
    ]


def _index_limits(indexes: dict[str, IndexFigures], bounds: Bounds) -> list[Limit]:
    memory, found = f"{bounds.memory_bytes / 1e9:,.0f} GB", []
    for kind, figures in indexes.items():
        resident = resident_bytes(figures, bounds.memory_bytes / figures.bytes_per_vector)
        found.append(
            Limit(
                bounds.memory_bytes / resident,
                f"An index ({kind}) in {memory}, at {resident:,.0f} bytes a vector",
                "Fewer bytes a vector, or parts on several machines",
            )
        )
        if LAWS[kind].query(4.0) == 4.0:  # a query looks at every vector
            found.append(
                Limit(
                    bounds.query_s / (figures.query_ms / 1000) * figures.vectors,
                    f"One query of {1000 * bounds.query_s:g} ms, with an index ({kind}) that looks at every vector",
                    "HNSW or IVF-PQ; parts on several machines",
                )
            )
    return found
