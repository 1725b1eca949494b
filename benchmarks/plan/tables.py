"""The tables of the plan, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from benchmarks.plan.embedding import NodeKind, embed, puts_of, store
from benchmarks.plan.fleet import (
    SPARK_3,
    SPARK_4,
    Fleet,
    Outcome,
    Spread,
    Work,
    simulate_many,
    simulate_resumed,
    spread,
)
from benchmarks.plan.indexes import of_dimension, plan_index
from benchmarks.plan.limits import limits
from benchmarks.plan.measured import IndexFigures, read_indexes
from benchmarks.plan.settings import Settings

# The rows of a shard in the tables about losses. `embedder encode` writes shards of this size.
SHARD_ROWS = 100_000
SHARD_SIZES = {
    "cpu": (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000),
    "gpu": (100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000),
}
SHARES_LOST = (0.0, 0.01, 0.05, 0.2)
SPECULATIONS = {"none, as in Ray": None, "Spark 4": SPARK_4, "Spark 3": SPARK_3}
# {"cpu" or "gpu": {label of a line: {rows of a shard: outcomes}}}
Sweeps = dict[str, dict[str, dict[int, list[Outcome]]]]
# A fleet is simulated less often where it has many shards: so many shards in all its runs, but so many runs at least.
MAX_SIMULATED_SHARDS, MIN_RUNS = 200_000, 5


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table. Its first column is text, the others are numbers."""
    titles = list(titles)
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def short(value: float) -> str:
    """Return a number with three digits, or all digits before the point.

    Example:
        >>> short(1234.5), short(12.34), short(0.01234)
        ('1,234', '12.3', '0.0123')
    """
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def count(passages: float) -> str:
    """Return a number of passages in words.

    Example:
        >>> count(10**9), count(2_500_000)
        ('1 billion', '2.5 million')
    """
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if passages >= size:
            return f"{passages / size:.3g} {name}"
    return f"{passages:,.0f}"


def size(number_of_bytes: float) -> str:
    """Return bytes with a unit of powers of ten.

    Example:
        >>> size(1.536e9), size(48e6)
        ('1.54 GB', '48 MB')
    """
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number_of_bytes >= unit:
            scaled = number_of_bytes / unit
            return f"{scaled:,.0f} {name}" if scaled >= 100 else f"{scaled:.3g} {name}"
    return f"{number_of_bytes:.0f} bytes"


def ranged(values: Spread) -> str:
    """Return a median with its range."""
    return f"{short(values.middle)} ({short(values.low)}-{short(values.high)})"


def hours(outcomes: list[Outcome]) -> Spread:
    """Return the hours of some runs."""
    return spread([outcome.finish_s / 3600 for outcome in outcomes])


def embedding_table(settings: Settings) -> str:
    """Return the table of hours and costs: a line for each step and kind of node."""

    def rows() -> Iterator[list[str]]:
        for step in settings.steps:
            for kind, nodes in ((settings.cpu(), step.cpu_nodes), (settings.gpu(), step.gpu_nodes)):
                ideal = embed(settings.corpus_of(step.passages), kind)
                fleet, work = settings.job(kind, nodes, step.passages)
                outcomes = simulate_many(fleet, work, runs_of(settings, work))
                usd = spread([outcome.node_hours * kind.hour_usd for outcome in outcomes])
                wasted = spread([outcome.wasted_rows for outcome in outcomes]).middle / step.passages
                yield [
                    count(step.passages),
                    f"{nodes:,} x {kind.name}",
                    short(ideal.node_hours),
                    short(ideal.hours(nodes)),
                    ranged(hours(outcomes)),
                    f"{work.shard_rows:,}",
                    f"{100 * wasted:.2f} %",
                    short(ideal.usd),
                    short(usd.middle),
                ]

    titles = [
        "passages",
        "nodes",
        "node hours",
        "hours at best",
        "hours, simulated",
        "rows of a shard",
        "encoded in vain",
    ]
    return table([*titles, "USD at best", "USD, simulated"], rows())


def bytes_table(settings: Settings) -> str:
    """Return the table of bytes, files and requests."""

    def rows() -> Iterator[list[str]]:
        for step in settings.steps:
            corpus = settings.corpus_of(step.passages)
            stored = store(corpus, settings.prices, "float32", SHARD_ROWS)
            yield [
                count(step.passages),
                size(corpus.all_text_bytes),
                *(size(corpus.vector_bytes(precision)) for precision in ("float32", "float16", "int8", "binary")),
                f"{stored.shards:,}",
                size(stored.shard_bytes),
                f"{stored.puts:,}",
                short(stored.puts_usd),
                short(stored.month_usd),
            ]

    titles = [
        "passages",
        "texts",
        "float32",
        "float16",
        "int8",
        "bits",
        f"files of {SHARD_ROWS:,} rows",
        "float32 file",
    ]
    return table([*titles, "writes", "USD for the writes", "USD a month"], rows())


def runs_of(settings: Settings, work: Work) -> int:
    """Return how often a fleet with so many shards is simulated."""
    return min(settings.runs, max(MIN_RUNS, MAX_SIMULATED_SHARDS // work.shards))


def big_step(settings: Settings) -> tuple[int, int, int]:
    """Return the passages and the numbers of nodes of the step that the tables on shards and losses show."""
    step = settings.steps[min(2, len(settings.steps) - 1)]
    return step.passages, step.cpu_nodes, step.gpu_nodes


def sweep(settings: Settings, name: str, lost_per_hour: float, speculation: str) -> dict[int, list[Outcome]]:
    """Return the outcomes for each shard size, on the CPU nodes ("cpu") or the GPUs ("gpu")."""
    passages, cpu_nodes, gpu_nodes = big_step(settings)
    kind, nodes = (settings.cpu(), cpu_nodes) if name == "cpu" else (settings.gpu(), gpu_nodes)
    fleet, work = settings.job(kind, nodes, passages, lost_per_hour)
    works = [replace(work, shard_rows=rows) for rows in SHARD_SIZES[name] if rows <= passages]
    return {
        each.shard_rows: simulate_many(fleet, each, runs_of(settings, each), SPECULATIONS[speculation])
        for each in works
    }


def sweep_lines(settings: Settings) -> list[tuple[str, float, str]]:
    """Return the lines of the sweep: a label, the share of nodes that are lost in an hour, and the speculation."""
    share, none = settings.lost_per_hour, "none, as in Ray"
    lost = f"{100 * share:g} % lost an hour"
    return [("no node is lost", 0.0, none), (lost, share, none), (f"{lost}, speculation of Spark 4", share, "Spark 4")]


def all_sweeps(settings: Settings) -> Sweeps:
    """Return the outcomes of all sweeps."""
    return {
        name: {label: sweep(settings, name, lost, speculation) for label, lost, speculation in sweep_lines(settings)}
        for name in SHARD_SIZES
    }


def shard_table(settings: Settings, sweeps: Sweeps) -> str:
    """Return the table of shard sizes. The best of each column is bold."""
    _, cpu_nodes, gpu_nodes = big_step(settings)

    def rows() -> Iterator[list[str]]:
        for name, kind, nodes in (("cpu", settings.cpu(), cpu_nodes), ("gpu", settings.gpu(), gpu_nodes)):
            per_s = kind.speed.texts_per_s(settings.corpus.tokens)
            best = {
                label: min(hours(outcomes).middle for outcomes in found.values())
                for label, found in sweeps[name].items()
            }
            for size_rows in next(iter(sweeps[name].values())):
                cells = []
                for label, found in sweeps[name].items():
                    cell = ranged(hours(found[size_rows]))
                    cells.append(f"**{cell}**" if hours(found[size_rows]).middle == best[label] else cell)
                shards_per_s = nodes * per_s / size_rows
                puts_per_s = shards_per_s * puts_of(settings.corpus_of(size_rows).vector_bytes("float32"))
                yield [
                    f"{nodes:,} x {kind.name}",
                    f"{size_rows:,}",
                    short(size_rows / per_s),
                    *cells,
                    short(shards_per_s),
                    short(puts_per_s),
                ]

    labels = [f"hours, {label}" for label, *_ in sweep_lines(settings)]
    return table(["nodes", "rows of a shard", "seconds", *labels, "shards/s", "writes/s"], rows())


def loss_table(settings: Settings) -> str:
    """Return the table of lost nodes and of speculation, for shards of 100,000 rows on the CPU nodes."""
    passages, nodes, _ = big_step(settings)
    kind = settings.cpu()

    def rows() -> Iterator[list[str]]:
        for share in sorted({*SHARES_LOST, settings.lost_per_hour}):
            for label, speculation in SPECULATIONS.items():
                fleet, work = replace(settings, shard_rows=SHARD_ROWS).job(kind, nodes, passages, share)
                outcomes = simulate_many(fleet, work, runs_of(settings, work), speculation)
                yield [
                    f"{100 * share:g} %",
                    label,
                    ranged(hours(outcomes)),
                    short(spread([float(outcome.lost_nodes) for outcome in outcomes]).middle),
                    f"{100 * spread([outcome.wasted_rows for outcome in outcomes]).middle / passages:.2f} %",
                    short(spread([float(outcome.copies) for outcome in outcomes]).middle),
                    short(spread([outcome.node_hours * kind.hour_usd for outcome in outcomes]).middle),
                ]

    titles = ["lost an hour", "speculation", "hours", "lost nodes", "encoded in vain", "second copies", "USD"]
    return table(titles, rows())


def resume_table(settings: Settings) -> str:
    """Return what it costs when the driver is lost in the middle of the run, on the CPU nodes."""
    passages, nodes, _ = big_step(settings)
    kind = settings.cpu()

    def jobs() -> Iterator[tuple[Fleet, Work]]:
        for rows in dict.fromkeys((settings.job(kind, nodes, passages)[1].shard_rows, SHARD_ROWS)):
            yield replace(settings, shard_rows=rows).job(kind, nodes, passages)

    def rows() -> Iterator[list[str]]:
        for fleet, work in jobs():
            runs = runs_of(settings, work)
            half_s = hours(simulate_many(fleet, work, runs)).middle * 3600 / 2
            outcomes = {
                keeps: [simulate_resumed(fleet, work, seed, half_s, keeps_shards=keeps) for seed in range(runs)]
                for keeps in (True, False)
            }
            yield [
                f"{work.shard_rows:,}",
                short(2 * half_s / 3600),
                ranged(hours(outcomes[True])),
                ranged(hours(outcomes[False])),
                f"{100 * nodes * work.shard_rows / 2 / passages:.2g} %",
            ]

    titles = ["rows of a shard", "hours without a stop", "hours if shards are kept", "hours if nothing is kept"]
    return table([*titles, "encoded again, by the formula"], rows())


def index_figures(settings: Settings) -> dict[str, IndexFigures]:
    """Return the figures of each kind of index with the most vectors, for the dimension of the corpus."""
    dimension = settings.corpus.dimension
    return {kind: of_dimension(lines[-1], dimension) for kind, lines in read_indexes().items()}


def index_table(settings: Settings) -> str:
    """Return the table of indexes: a line for each step and kind."""
    largest = index_figures(settings)

    def rows() -> Iterator[list[str]]:
        for step in settings.steps:
            for figures in largest.values():
                plan = plan_index(figures, step.passages, settings.bounds.memory_bytes, settings.prices)
                yield [
                    count(step.passages),
                    plan.kind,
                    size(plan.memory_bytes),
                    size(plan.disk_bytes),
                    f"{plan.machines:,}",
                    short(plan.build_core_hours),
                    short(plan.build_usd),
                    short(1000 * plan.query_s),
                ]

    memory = f"machines of {settings.bounds.memory_bytes / 1e9:,.0f} GB"
    titles = ["vectors", "index", "memory", "files", memory, "core hours to build", "USD", "one query (ms)"]
    return table(titles, rows())


def limit_table(settings: Settings) -> str:
    """Return the table of what breaks, from the fewest passages on, with the step before which it breaks."""
    largest = index_figures(settings)
    found = limits(settings.corpus, settings.cpu(), settings.gpu(), largest, settings.bounds, SHARD_ROWS)
    steps = [step.passages for step in settings.steps]

    def rows() -> Iterator[list[str]]:
        for limit in found:
            after = next((count(passages) for passages in steps if passages >= limit.passages), "later")
            yield [count(limit.passages), after, limit.breaks, limit.instead]

    lines = table(["breaks from", "before", "what", "instead"], rows()).split("\n")
    return "\n".join([lines[0], "|---|---|---|---|", *lines[2:]])


def kinds(settings: Settings) -> list[NodeKind]:
    """Return the kinds of node whose costs the plot compares."""
    return [settings.cpu("fp32"), settings.cpu("int8"), settings.gpu()]
