"""The plots of the plan."""

from __future__ import annotations

import math

from benchmarks.line_plot import Axis, Line, Panel, line_plot
from benchmarks.plan.embedding import embed, store
from benchmarks.plan.fleet import simulate_many
from benchmarks.plan.settings import Settings
from benchmarks.plan.tables import SHARD_ROWS, Sweeps, big_step, count, hours, kinds, short

PASSAGES = tuple(10**power for power in range(6, 11))
# Runs of a fleet for a point of the plot.
RUNS = 1
# The digits of the marks of an axis that covers less than some powers of ten.
ROUND_DIGITS = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8)


def size_chart(settings: Settings) -> str:
    """Return the plot of hours and of costs against passages."""
    x = Axis("passages", tuple((passages, count(passages)) for passages in PASSAGES))
    fleets = [
        (settings.cpu(), 1),
        (settings.cpu(), 1000),
        (settings.gpu(), 1),
        (settings.gpu(), 64),
    ]
    time_lines = []
    for kind, nodes in fleets:
        points = []
        for passages in PASSAGES:
            fleet, work = settings.job(kind, nodes, passages)
            points.append((passages, hours(simulate_many(fleet, work, RUNS)).middle))
        time_lines.append(Line(f"{nodes:,} x {kind.name}", tuple(points)))
    cost_lines = [
        Line(
            f"embedding, {kind.name}",
            tuple((passages, embed(settings.corpus_of(passages), kind).usd) for passages in PASSAGES),
        )
        for kind in kinds(settings)
    ]
    stored = [store(settings.corpus_of(passages), settings.prices, "int8", SHARD_ROWS) for passages in PASSAGES]
    months = tuple((passages, each.month_usd) for passages, each in zip(PASSAGES, stored, strict=True))
    cost_lines.append(Line("a month of int8 vectors", months))
    tokens = f"{settings.corpus.tokens:g} tokens each"
    lost = f"{100 * settings.lost_per_hour:g} % of the nodes lost an hour"
    return line_plot(
        f"Embedding passages of {tokens}; {lost}; prices are examples of {settings.prices.noted_on}",
        [
            Panel("Time", x, powers("hours, simulated", time_lines), tuple(time_lines)),
            Panel("Cost", x, powers("USD, if nothing goes wrong", cost_lines), tuple(cost_lines)),
        ],
    )


def shard_chart(settings: Settings, sweeps: Sweeps) -> str:
    """Return the plot of the finishing time against the size of a shard."""
    passages, cpu_nodes, gpu_nodes = big_step(settings)
    panels = []
    for name, kind, nodes in (("cpu", settings.cpu(), cpu_nodes), ("gpu", settings.gpu(), gpu_nodes)):
        lines = []
        for label, found in sweeps[name].items():
            spreads = {rows: hours(outcomes) for rows, outcomes in found.items()}
            points = tuple((rows, each.middle) for rows, each in spreads.items())
            lines.append(Line(label, points, tuple((each.low, each.high) for each in spreads.values())))
        sizes = next(iter(sweeps[name].values()))
        x = Axis(f"rows of a shard, {nodes:,} x {kind.name}", tuple((rows, f"{rows:,}") for rows in sizes))
        panels.append(Panel(name.upper(), x, steps("hours", lines), tuple(lines)))
    return line_plot(f"{count(passages)} passages: finishing time (median, 5 to 95 %) by the size of a shard", panels)


def powers(title: str, lines: list[Line]) -> Axis:
    """Return an axis with the powers of ten around all points."""
    values = [y for line in lines for _, y in line.points]
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return Axis(title, tuple((10.0**power, short(10.0**power)) for power in range(first, last + 1)))


def steps(title: str, lines: list[Line]) -> Axis:
    """Return an axis with round marks around all points and bands."""
    values = [y for line in lines for bounds in (line.band or ()) for y in bounds]
    marks = [digit * 10.0**power for power in range(-3, 6) for digit in ROUND_DIGITS]
    first = max(index for index, mark in enumerate(marks) if mark <= min(values))
    last = min(index for index, mark in enumerate(marks) if mark >= max(values))
    return Axis(title, tuple((mark, short(mark)) for mark in marks[first : max(last, first + 1) + 1]))
