"""Read the measured figures that the plan starts from: the tables in benchmarks/results.

- scaling.md: texts per second of this machine by dtype, workload, processes and threads (`make bench-scaling`).
- gpu.md: texts per second of one GPU in fp16 (`make bench-gpu`).
- indexes.md: bytes, build time and search time of indexes (`make bench-indexes`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
MODEL = "all-MiniLM-L6-v2"
# The dimension of the vectors in indexes.md.
INDEX_DIMENSION = 384
# The workloads of gpu.md that consist of texts. Images have no tokens.
GPU_WORKLOADS = ("short", "mixed", "long")


@dataclass(frozen=True)
class Speed:
    """How fast a device encodes texts of a length.

    Attributes:
        points: pairs of the tokens of a text and of texts per second, by ascending tokens. At least one.
    """

    points: tuple[tuple[float, float], ...]

    def texts_per_s(self, tokens: float) -> float:
        """Return texts per second for texts of so many tokens.

        The seconds of a text grow linearly with its tokens between two measured lengths. Beyond the shortest and the
        longest one, they are proportional to the tokens.

        Example:
            >>> Speed(((20, 1000.0), (100, 200.0))).texts_per_s(60)
            333.3333333333333
        """
        known = [(length, 1 / rate) for length, rate in self.points]
        if tokens <= known[0][0]:
            return known[0][0] / known[0][1] / tokens
        for (left, left_s), (right, right_s) in pairwise(known):
            if tokens <= right:
                return 1 / (left_s + (right_s - left_s) * (tokens - left) / (right - left))
        return known[-1][0] / known[-1][1] / tokens


@dataclass(frozen=True)
class Throughput:
    """A line of scaling.md."""

    dtype: str
    workload: str
    processes: int
    threads: int
    texts_per_s: float
    tokens_per_s: float
    efficiency: float
    start_s: float

    @property
    def tokens_per_text(self) -> float:
        """The mean tokens of a text of the workload."""
        return self.tokens_per_s / self.texts_per_s


@dataclass(frozen=True)
class IndexFigures:
    """A line of indexes.md. `train_core_s` and `add_core_s` are the times of all cores together."""

    kind: str
    vectors: int
    train_core_s: float
    add_core_s: float
    bytes_per_vector: float
    query_ms: float
    dimension: int = INDEX_DIMENSION


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of each line of the tables in `text`, without a range in brackets after a figure."""
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    return [[re.sub(r" \(.*\)$", "", cell.strip()) for cell in line.strip("|").split("|")] for line in lines]


def number(cell: str) -> float:
    """Return the number of a cell such as "1,185"."""
    return float(cell.replace(",", ""))


def read_scaling(path: Path = RESULTS / "scaling.md") -> tuple[int, list[Throughput]]:
    """Return the number of cores of the machine that was measured, and the lines of the table."""
    text = path.read_text(encoding="utf-8")
    cores = re.search(r"(\d+) usable cores", text)
    if cores is None:
        raise ValueError(f"{path} does not say how many cores were usable. Write it again by `make bench-scaling`")
    found = []
    for dtype, workload, *cells, _ in table_rows(text)[1:]:
        processes, threads, texts, tokens, _, efficiency, start_s = map(number, cells)
        found.append(Throughput(dtype, workload, int(processes), int(threads), texts, tokens, efficiency, start_s))
    return int(cores[1]), found


def best_pair(found: list[Throughput], dtype: str, workload: str, cores: int) -> Throughput:
    """Return the fastest pair of processes and threads that needs no more than `cores` cores.

    Of equal ones, it is the first.
    """
    fitting = [
        line
        for line in found
        if (line.dtype, line.workload) == (dtype, workload) and line.processes * line.threads <= cores
    ]
    if not fitting:
        raise ValueError(f"nothing is measured for {dtype}, {workload} on {cores} cores")
    return max(fitting, key=lambda line: line.tokens_per_s)


def cpu_speed(found: list[Throughput], measured_cores: int, dtype: str, cores: int) -> Speed:
    """Return the speed of a machine with `cores` cores like those that were measured.

    More cores than were measured are taken to be as efficient together as all measured ones are.
    """
    points = []
    for workload in dict.fromkeys(line.workload for line in found):
        best = best_pair(found, dtype, workload, min(cores, measured_cores))
        extra = max(1.0, cores / measured_cores)
        points.append((best.tokens_per_text, best.texts_per_s * extra))
    return Speed(tuple(sorted(points)))


def gpu_speed(path: Path = RESULTS / "gpu.md", model: str = MODEL) -> Speed:
    """Return the speed of the GPU that was measured, in fp16."""
    points = []
    for cells in table_rows(path.read_text(encoding="utf-8")):
        if cells[0] == model and cells[1] in GPU_WORKLOADS:
            texts_per_s, tokens_per_s = number(cells[2]), number(cells[6])
            points.append((tokens_per_s / texts_per_s, texts_per_s))
    if not points:
        raise ValueError(f"{path} has no line of {model}")
    return Speed(tuple(sorted(points)))


def gpu_name(path: Path = RESULTS / "gpu.md") -> str:
    """Return the name of the card that was measured, such as "NVIDIA H100 80GB HBM3"."""
    return table_rows(path.read_text(encoding="utf-8"))[0][0]


def read_indexes(path: Path = RESULTS / "indexes.md") -> dict[str, list[IndexFigures]]:
    """Return the lines of each kind of index, by ascending number of vectors."""
    text = path.read_text(encoding="utf-8")
    cores = re.search(r"(\d+) cores at work", text)
    if cores is None:
        raise ValueError(f"{path} does not say how many cores were at work. Write it again by `make bench-indexes`")
    found: dict[str, list[IndexFigures]] = {}
    for kind, *cells in table_rows(text)[1:]:
        vectors, train_s, add_s, _, bytes_per_vector, query_ms, _ = map(number, cells)
        all_cores = int(cores[1])
        figures = IndexFigures(kind, int(vectors), train_s * all_cores, add_s * all_cores, bytes_per_vector, query_ms)
        found.setdefault(kind, []).append(figures)
    return {kind: sorted(lines, key=lambda line: line.vectors) for kind, lines in found.items()}
