"""What the plan is made for, with defaults: corpora, fleets, prices. measured.py reads what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.plan.embedding import Corpus, NodeKind, Prices
from benchmarks.plan.fleet import Fleet, Work, best_shard_s
from benchmarks.plan.limits import Bounds
from benchmarks.plan.measured import cpu_speed, gpu_name, gpu_speed, read_scaling

# The leading digits that a shard's number of rows may have.
ROUND_DIGITS = (1, 2, 5)


@dataclass(frozen=True)
class Step:
    """A corpus of so many passages, with the number of nodes of each kind that embed it."""

    passages: int
    cpu_nodes: int
    gpu_nodes: int


STEPS = (
    Step(10**6, cpu_nodes=1, gpu_nodes=1),
    Step(10**8, cpu_nodes=100, gpu_nodes=1),
    Step(10**9, cpu_nodes=1000, gpu_nodes=8),
    Step(10**10, cpu_nodes=4000, gpu_nodes=64),
)


@dataclass(frozen=True)
class Settings:
    """Everything that the plan depends on, besides the measured figures.

    Attributes:
        steps: the corpora and their fleets.
        corpus: the length of a passage and the dimension of a vector.
        dtype: the graph on the CPU: "fp32" or "int8". The GPU runs fp16.
        cores: cores of a CPU node.
        prices: in US dollars.
        lost_per_hour: the share of nodes that are lost in an hour.
        shard_rows: rows of a shard. None takes about the best number for each fleet.
        runs: how often a fleet is simulated. Less often if it has very many shards.
        bounds: what machines and drivers can take.
    """

    steps: tuple[Step, ...] = STEPS
    corpus: Corpus = field(default_factory=lambda: Corpus(passages=1))
    dtype: str = "int8"
    cores: int = 2
    prices: Prices = field(default_factory=Prices)
    lost_per_hour: float = 0.05
    shard_rows: int | None = None
    runs: int = 20
    bounds: Bounds = field(default_factory=Bounds)

    def cpu(self, dtype: str | None = None) -> NodeKind:
        """Return a node with `cores` cores."""
        measured_cores, found = read_scaling()
        dtype = dtype or self.dtype
        speed = cpu_speed(found, measured_cores, dtype, self.cores)
        return NodeKind(f"{self.cores} cores, {dtype}", speed, self.cores * self.prices.core_hour_usd)

    def gpu(self) -> NodeKind:
        """Return a node with the GPU that was measured."""
        return NodeKind(gpu_name().replace("NVIDIA ", "").split()[0], gpu_speed(), self.prices.gpu_hour_usd)

    def corpus_of(self, passages: int) -> Corpus:
        """Return a corpus of so many passages."""
        return replace(self.corpus, passages=passages)

    def job(self, kind: NodeKind, nodes: int, passages: int, lost_per_hour: float | None = None) -> tuple[Fleet, Work]:
        """Return the fleet and the shards of a job."""
        share = self.lost_per_hour if lost_per_hour is None else lost_per_hour
        fleet = Fleet(nodes, kind.speed.texts_per_s(self.corpus.tokens), lost_per_hour=share)
        work = Work(rows=passages)
        rows = self.shard_rows or round_rows(best_shard_s(fleet, work) * fleet.rows_per_s)
        return fleet, replace(work, shard_rows=min(passages, rows))


def round_rows(rows: float) -> int:
    """Return the number 1, 2 or 5 times a power of ten that is next to `rows` from below.

    Example:
        >>> round_rows(9_700)
        5000
    """
    power = 10 ** (len(str(int(rows))) - 1)
    return max(digit * power for digit in ROUND_DIGITS if digit * power <= max(1, int(rows)))
