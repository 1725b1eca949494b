"""Simulate a fleet of nodes that encodes the shards of a corpus: a discrete-event simulation.

A driver hands out shards. A node has one shard at a time. Nodes differ in speed, a few are very slow, and some are
lost. A lost node takes its shard with it: the shard starts from its first row on another node, and a new node comes
after a while. With speculation, as in Spark, an idle node may start a second copy of a shard that runs for long. The
first copy to finish wins. Ray has no speculation.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, replace
from random import Random
from statistics import median

# What an event is about.
_READY, _DONE, _LOST, _RETURNED, _CHECK = range(5)


@dataclass(frozen=True)
class Fleet:
    """Nodes that encode.

    Attributes:
        nodes: how many there are.
        rows_per_s: rows per second of the median node.
        speed_sigma: the standard deviation of the logarithm of the nodes' speed. 0.1 means that two thirds of the nodes
            are within 10 % of the median.
        slow_share: the share of nodes that are slower than that, such as those with a noisy neighbour.
        slow_factor: how many times slower they are.
        lost_per_hour: the share of nodes that are lost in an hour, such as 0.05 for spot machines.
        start_s: seconds from the request for a node to its first shard: boot, fetch the image and the model, load it.
        detection_s: seconds until the driver notices that a node is lost.
    """

    nodes: int
    rows_per_s: float
    speed_sigma: float = 0.1
    slow_share: float = 0.01
    slow_factor: float = 4.0
    lost_per_hour: float = 0.0
    start_s: float = 300.0
    detection_s: float = 60.0

    @property
    def losses_per_node_s(self) -> float:
        """The rate of losses of one node, per second. The share that is left after an hour is exp(-3600 * rate)."""
        return -math.log1p(-self.lost_per_hour) / 3600


@dataclass(frozen=True)
class Work:
    """What the fleet does.

    Attributes:
        rows: the rows of the corpus.
        shard_rows: the rows of a shard, which is the piece that is retried.
        shard_overhead_s: seconds that a node needs for a shard besides encoding: open, read, write, commit.
        dispatch_s: seconds of the driver for each shard. It handles one at a time.
    """

    rows: int
    shard_rows: int = 100_000
    shard_overhead_s: float = 2.0
    dispatch_s: float = 0.002

    @property
    def shards(self) -> int:
        """The number of shards. The last one may be smaller."""
        return -(-self.rows // self.shard_rows)


@dataclass(frozen=True)
class Speculation:
    """When a second copy of a shard starts, in Spark's terms.

    Attributes:
        quantile: the share of shards that must be done before.
        multiplier: how many times as long as the median a shard must have been running.
    """

    quantile: float
    multiplier: float


# The defaults of Spark, by "Upgrading from Core 3.5 to 4.0" in
# https://spark.apache.org/docs/latest/core-migration-guide.html. Speculation itself is off by default
# (spark.speculation).
SPARK_4 = Speculation(quantile=0.9, multiplier=3.0)
SPARK_3 = Speculation(quantile=0.75, multiplier=1.5)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finish_s: seconds from the request for the nodes to the end of the last shard.
        node_hours: hours of all nodes, which are held and paid until the end.
        lost_nodes: how many nodes were lost while they had a shard.
        wasted_rows: rows that were encoded in vain: by nodes that were lost, and by the slower one of two copies.
        copies: second copies that were started.
        done_shards: shards that were done at the end. Fewer than all if the run was stopped.
    """

    finish_s: float
    node_hours: float
    lost_nodes: int
    wasted_rows: float
    copies: int
    done_shards: int


class _Node:
    __slots__ = ("attempt", "lost_at_s", "rows_per_s", "shard", "start_s")

    def __init__(self) -> None:
        self.rows_per_s = self.lost_at_s = self.start_s = 0.0
        # The number of the attempt that runs. An event of an older attempt is void.
        self.attempt = 0
        self.shard = -1


def simulate(
    fleet: Fleet, work: Work, seed: int, speculation: Speculation | None = None, *, stop_at_s: float = math.inf
) -> Outcome:
    """Run a fleet once.

    Args:
        fleet: the nodes.
        work: the shards.
        seed: of the random numbers. The same seed gives the same outcome.
        speculation: when second copies start. None starts none.
        stop_at_s: the driver is lost at this time. What was not done by then is lost.

    Returns:
        How it ended.

    Example:
        >>> fleet = Fleet(nodes=2, rows_per_s=100, speed_sigma=0, slow_share=0, start_s=0)
        >>> simulate(fleet, Work(rows=4000, shard_rows=1000, shard_overhead_s=0, dispatch_s=0), seed=0).finish_s
        20.0
    """
    return _Simulation(fleet, work, Random(seed), speculation).run(stop_at_s)


class _Simulation:
    def __init__(self, fleet: Fleet, work: Work, random: Random, speculation: Speculation | None) -> None:
        self._fleet, self._work, self._random, self._speculation = fleet, work, random, speculation
        self._loss_rate = fleet.losses_per_node_s
        self._nodes = [_Node() for _ in range(fleet.nodes)]
        # Events are (second, what, node, attempt or shard). Equal times are in this order, so a run can be repeated.
        self._events: list[tuple[float, int, int, int]] = []
        self._waiting = deque(range(work.shards))
        self._idle: list[int] = []
        self._is_done = bytearray(work.shards)
        # The nodes that run each shard that runs.
        self._running: dict[int, list[int]] = {}
        self._driver_free_s = 0.0
        self._durations_s: list[float] = []
        self._slow_after_s: float | None = None
        self._done = self._lost_nodes = self._copies = 0
        self._wasted_rows = 0.0

    def run(self, stop_at_s: float) -> Outcome:
        for node in range(len(self._nodes)):
            self._renew(node, self._fleet.start_s)
        handlers = (self._assign, self._complete, self._lose, self._take_back, self._check)
        now_s, shards, events = 0.0, self._work.shards, self._events
        while self._done < shards:
            now_s, what, node, detail = heapq.heappop(events)
            if now_s >= stop_at_s:
                now_s = stop_at_s
                break
            handlers[what](node, detail, now_s)
        hours = now_s * self._fleet.nodes / 3600
        return Outcome(now_s, hours, self._lost_nodes, self._wasted_rows, self._copies, self._done)

    def _renew(self, node: int, ready_s: float) -> None:
        """Put a new machine in the place of a node. It is ready at `ready_s`."""
        fleet, random, state = self._fleet, self._random, self._nodes[node]
        slow = fleet.slow_factor if random.random() < fleet.slow_share else 1.0
        state.rows_per_s = fleet.rows_per_s * math.exp(random.gauss(0.0, fleet.speed_sigma)) / slow
        state.lost_at_s = ready_s + random.expovariate(self._loss_rate) if self._loss_rate else math.inf
        heapq.heappush(self._events, (ready_s, _READY, node, 0))

    def _rows(self, shard: int) -> int:
        return min(self._work.shard_rows, self._work.rows - shard * self._work.shard_rows)

    def _assign(self, node: int, _: int, now_s: float) -> None:
        """Give a node that has nothing to do its next shard, if one waits."""
        if self._waiting:
            self._start(node, self._waiting.popleft(), now_s)
        else:
            self._nodes[node].shard = -1
            self._idle.append(node)

    def _start(self, node: int, shard: int, now_s: float) -> None:
        state, work = self._nodes[node], self._work
        self._driver_free_s = start_s = max(now_s, self._driver_free_s) + work.dispatch_s
        end_s = start_s + work.shard_overhead_s + self._rows(shard) / state.rows_per_s
        state.attempt += 1
        state.shard, state.start_s = shard, start_s
        self._running.setdefault(shard, []).append(node)
        if end_s <= state.lost_at_s:
            heapq.heappush(self._events, (end_s, _DONE, node, state.attempt))
        else:  # a node that was lost while it was idle is noticed now
            heapq.heappush(self._events, (max(start_s, state.lost_at_s), _LOST, node, state.attempt))

    def _complete(self, node: int, attempt: int, now_s: float) -> None:
        state = self._nodes[node]
        if attempt != state.attempt:
            return
        shard = state.shard
        self._is_done[shard] = 1
        self._done += 1
        free = self._running.pop(shard)
        for other in free:
            if other != node:  # the driver stops the slower copy
                self._waste(other, now_s)
                self._nodes[other].attempt += 1
        if self._speculation:
            self._watch(now_s, now_s - state.start_s)
        for each in free:
            self._assign(each, 0, now_s)

    def _waste(self, node: int, now_s: float) -> None:
        state = self._nodes[node]
        encoding_s = max(0.0, now_s - state.start_s - self._work.shard_overhead_s)
        self._wasted_rows += min(self._rows(state.shard), encoding_s * state.rows_per_s)

    def _lose(self, node: int, attempt: int, now_s: float) -> None:
        state = self._nodes[node]
        if attempt != state.attempt:
            return
        shard = state.shard
        self._lost_nodes += 1
        self._waste(node, now_s)
        state.attempt += 1
        state.shard = -1
        noticed_s = now_s + self._fleet.detection_s
        self._running[shard].remove(node)
        if not self._running[shard]:
            del self._running[shard]
            heapq.heappush(self._events, (noticed_s, _RETURNED, 0, shard))
        self._renew(node, noticed_s + self._fleet.start_s)

    def _take_back(self, _: int, shard: int, now_s: float) -> None:
        """Put a shard of a lost node first in the queue. It has waited longest."""
        self._waiting.appendleft(shard)
        if self._idle:
            self._assign(self._idle.pop(), 0, now_s)

    def _watch(self, now_s: float, duration_s: float) -> None:
        """Begin to look for slow shards once enough shards are done."""
        if self._slow_after_s is not None or self._speculation is None:
            return
        self._durations_s.append(duration_s)
        if self._done >= self._speculation.quantile * self._work.shards:
            self._slow_after_s = self._speculation.multiplier * median(self._durations_s)
            heapq.heappush(self._events, (now_s, _CHECK, 0, 0))

    def _check(self, _: int, __: int, now_s: float) -> None:
        """Start second copies of slow shards on idle nodes. Look again soon: Spark looks ten times a second."""
        slow_after_s = self._slow_after_s
        if slow_after_s is None:
            return
        if self._idle:
            alone = [
                (self._nodes[nodes[0]].start_s, shard) for shard, nodes in self._running.items() if len(nodes) == 1
            ]
            for start_s, shard in sorted(alone):
                if not self._idle or now_s - start_s <= slow_after_s:
                    break
                self._copies += 1
                self._start(self._idle.pop(), shard, now_s)
        heapq.heappush(self._events, (now_s + max(0.1, slow_after_s / 100), _CHECK, 0, 0))


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of some outcomes: the median, and the 5th and 95th percentile."""

    low: float
    middle: float
    high: float


def spread(values: list[float]) -> Spread:
    """Return the 5th percentile, the median and the 95th percentile, by the nearest rank.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        Spread(low=1.0, middle=2.0, high=3.0)
    """
    ordered = sorted(values)
    last = len(ordered) - 1
    return Spread(ordered[round(0.05 * last)], median(ordered), ordered[round(0.95 * last)])


def simulate_many(fleet: Fleet, work: Work, runs: int, speculation: Speculation | None = None) -> list[Outcome]:
    """Run a fleet `runs` times, with the seeds 0, 1, 2 ...

    Example:
        >>> len(simulate_many(Fleet(nodes=2, rows_per_s=100), Work(rows=4000, shard_rows=1000), runs=3))
        3
    """
    return [simulate(fleet, work, seed, speculation) for seed in range(runs)]


def simulate_resumed(
    fleet: Fleet, work: Work, seed: int, driver_lost_at_s: float, *, keeps_shards: bool = True
) -> Outcome:
    """Run a job whose driver is lost once. A second run with new nodes does the rest.

    Args:
        fleet: the nodes.
        work: the shards.
        seed: of the random numbers.
        driver_lost_at_s: when the driver is lost.
        keeps_shards: shards that are done stay done. Otherwise the second run does everything again, as where the
            output is committed at the end of the job alone.

    Returns:
        The outcome of both runs together.

    Example:
        >>> fleet = Fleet(nodes=1, rows_per_s=100, speed_sigma=0, slow_share=0, start_s=0)
        >>> work = Work(rows=4000, shard_rows=1000, shard_overhead_s=0, dispatch_s=0)
        >>> simulate_resumed(fleet, work, 0, driver_lost_at_s=25).finish_s
        45.0
    """
    first = simulate(fleet, work, seed, stop_at_s=driver_lost_at_s)
    if first.done_shards == work.shards:
        return first
    kept = first.done_shards if keeps_shards else 0
    second = simulate(fleet, replace(work, rows=work.rows - kept * work.shard_rows), seed + 1_000_000)
    return Outcome(
        first.finish_s + second.finish_s,
        first.node_hours + second.node_hours,
        first.lost_nodes + second.lost_nodes,
        first.wasted_rows + second.wasted_rows,
        first.copies + second.copies,
        kept + second.done_shards,
    )


def expected_shard_s(shard_s: float, losses_per_s: float, again_s: float) -> float:
    """Return the mean seconds until a shard is done, if losses begin it from its first row.

    The formula is (exp(rate * shard_s) - 1) * (1 / rate + again_s): M. Bougeret and others, "Checkpointing strategies
    for parallel jobs", 2011, https://doi.org/10.1145/2063384.2063428, with a checkpoint at the end of the shard alone.

    Args:
        shard_s: seconds of the shard without a loss.
        losses_per_s: the rate of losses of its node.
        again_s: seconds from a loss to the next start of the shard.

    Example:
        >>> round(expected_shard_s(500, 1 / 70_000, 60), 1)
        502.2
    """
    return math.expm1(losses_per_s * shard_s) * (1 / losses_per_s + again_s) if losses_per_s else shard_s


def best_shard_s(fleet: Fleet, work: Work) -> float:
    """Return about how many seconds of encoding a shard should have.

    It minimises the sum of three costs of a node: the overhead of its shards, the rows that are lost with it, and the
    wait for the last shard, which the slowest node has: W * (1 + overhead / s + rate * s / 2) + slow_factor * s. Here W
    is the seconds that each node encodes. The terms in brackets come from J. W. Young, "A first order approximation to
    the optimum checkpoint interval", 1974, https://doi.org/10.1145/361147.361115.

    Example:
        >>> round(best_shard_s(Fleet(nodes=1000, rows_per_s=200), Work(rows=10**9)))
        50
    """
    node_s = work.rows / fleet.nodes / fleet.rows_per_s
    tail = fleet.slow_factor if fleet.slow_share else 1.0
    return math.sqrt(work.shard_overhead_s * node_s / (fleet.losses_per_node_s * node_s / 2 + tail))
