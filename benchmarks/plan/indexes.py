"""What indexes of many vectors take: memory, machines, hours to build, and the time of a query.

The figures are those that were measured with the most vectors, extrapolated by a law for each kind:

- bytes: each vector takes the same number, however many there are. IVF also has 4 * sqrt(n) centroids.
- exact kinds and bits: adding is proportional to n, and so is one query.
- HNSW: adding is n * log(n), and one query log(n). Malkov and Yashunin, "Efficient and robust approximate nearest
  neighbor search using Hierarchical Navigable Small World graphs", 2016, section 4.2. The measured times of adding grow
  faster than that, so it is a lower bound.
- IVF-PQ with 4 * sqrt(n) lists, each vector compared with each centroid. Adding is n * lists, which is n ** 1.5.
  Training with a fixed number of vectors for each list is lists * lists, which is n. One query looks at all centroids
  and at nprobe lists, and both grow as sqrt(n). All three are upper bounds: parts of the measured times grow more
  slowly. An HNSW graph over the centroids, which faiss' guidelines advise from a million vectors on, avoids most of the
  comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.plan.embedding import Prices
from benchmarks.plan.measured import IndexFigures


@dataclass(frozen=True)
class Law:
    """How adding n vectors, and one query, grow with n: functions up to a factor. Training grows as n."""

    add: Callable[[float], float]
    query: Callable[[float], float]


def _linear(n: float) -> float:
    return n


_LINEAR = Law(_linear, _linear)
LAWS = {
    "exact, float32": _LINEAR,
    "exact, int8": _LINEAR,
    "bits, rescored": _LINEAR,
    "HNSW32": Law(lambda n: n * math.log2(n), math.log2),
    "IVF-PQ48": Law(lambda n: n**1.5, math.sqrt),
}
# The bytes that one more dimension adds to a vector. The codes of PQ have the same size for all dimensions.
DIMENSION_BYTES = {"exact, float32": 4.0, "exact, int8": 1.0, "bits, rescored": 1.125, "HNSW32": 4.0, "IVF-PQ48": 0.0}


@dataclass(frozen=True)
class IndexPlan:
    """An index of a corpus, cut into equal parts where it does not fit one machine.

    Attributes:
        kind: its name.
        memory_bytes: of all parts, in memory.
        disk_bytes: of the files.
        machines: how many hold it.
        build_core_hours: of all parts together.
        build_usd: what they cost.
        query_s: seconds of one query over all parts, one after the other, on the machine that was measured.
    """

    kind: str
    memory_bytes: float
    disk_bytes: float
    machines: int
    build_core_hours: float
    build_usd: float
    query_s: float


def of_dimension(figures: IndexFigures, dimension: int) -> IndexFigures:
    """Return the figures for vectors of another dimension. All times are taken to be proportional to it.

    Example:
        >>> figures = IndexFigures("exact, int8", 1000, 0.0, 2.0, bytes_per_vector=396.0, query_ms=5.0, dimension=384)
        >>> found = of_dimension(figures, 768)
        >>> found.bytes_per_vector, found.add_core_s, found.query_ms
        (780.0, 4.0, 10.0)
    """
    factor = dimension / figures.dimension
    more_bytes = (dimension - figures.dimension) * DIMENSION_BYTES[figures.kind]
    return replace(
        figures,
        train_core_s=figures.train_core_s * factor,
        add_core_s=figures.add_core_s * factor,
        query_ms=figures.query_ms * factor,
        bytes_per_vector=figures.bytes_per_vector + more_bytes,
        dimension=dimension,
    )


def file_bytes(figures: IndexFigures, vectors: float) -> float:
    """Return the bytes of a vector in the file of an index of so many vectors.

    Example:
        >>> figures = IndexFigures("IVF-PQ48", 10**4, 0.0, 0.0, bytes_per_vector=120.0, query_ms=1.0, dimension=384)
        >>> file_bytes(figures, 10**4), round(file_bytes(figures, 10**8), 2)
        (120.0, 59.17)
    """
    if figures.kind != "IVF-PQ48":
        return figures.bytes_per_vector
    centroids, measured_centroids = (16 * figures.dimension / math.sqrt(n) for n in (vectors, figures.vectors))
    return figures.bytes_per_vector + centroids - measured_centroids


def resident_bytes(figures: IndexFigures, vectors: float) -> float:
    """Return the bytes of a vector that must be in memory, if a file that is mapped from a disk has the others.

    Bits find the candidates. Their int8 codes are read for a few vectors of each query.

    Example:
        >>> resident_bytes(IndexFigures("bits, rescored", 1000, 0.0, 0.0, 444.0, 1.0, dimension=384), 10**9)
        48.0
    """
    return figures.dimension / 8 if figures.kind == "bits, rescored" else file_bytes(figures, vectors)


def grown(figures: IndexFigures, vectors: float) -> tuple[float, float]:
    """Return the core seconds of a build of so many vectors, and the seconds of a query, by the law of the kind.

    Example:
        >>> figures = IndexFigures("exact, int8", 1000, 1.0, add_core_s=2.0, bytes_per_vector=1.0, query_ms=5.0)
        >>> grown(figures, 3000)
        (9.0, 0.015)
    """
    law = LAWS[figures.kind]
    factor = vectors / figures.vectors
    add, query = (grow(vectors) / grow(figures.vectors) for grow in (law.add, law.query))
    return figures.train_core_s * factor + figures.add_core_s * add, figures.query_ms / 1000 * query


def plan_index(figures: IndexFigures, vectors: int, memory_bytes: float, prices: Prices) -> IndexPlan:
    """Return what an index of `vectors` takes.

    Args:
        figures: what was measured.
        vectors: how many.
        memory_bytes: for vectors, in one machine.
        prices: of an hour of a core.

    Example:
        >>> figures = IndexFigures("exact, int8", 1000, 0.0, add_core_s=3.6, bytes_per_vector=400.0, query_ms=1.0)
        >>> plan = plan_index(figures, 10**9, 2e11, Prices())
        >>> plan.machines, round(plan.build_core_hours, 6), plan.query_s
        (2, 1000.0, 1000.0)
    """
    resident = resident_bytes(figures, vectors) * vectors
    machines = max(1, math.ceil(resident / memory_bytes))
    build_s, query_s = grown(figures, vectors / machines)
    hours = machines * build_s / 3600
    return IndexPlan(
        figures.kind,
        resident,
        file_bytes(figures, vectors) * vectors,
        machines,
        hours,
        hours * prices.core_hour_usd,
        machines * query_s,
    )
