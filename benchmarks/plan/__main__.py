"""Plan the embedding of a large corpus: hours, cost, bytes, indexes, and what breaks first. Prints tables.

Usage: python -m benchmarks.plan [OPTION ...]

It needs no packages. `make plan` writes the tables to docs/plan.md and the plots to benchmarks/results.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.pages import with_tables
from benchmarks.plan import charts, tables
from benchmarks.plan.embedding import Corpus, Prices
from benchmarks.plan.settings import Settings, Step
from benchmarks.plan.tables import Sweeps

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plan.md"
RESULTS = ROOT / "benchmarks/results"
TABLES = ("embedding", "bytes", "shards", "losses", "resume", "indexes", "limits")


def main(words: list[str] | None = None) -> None:
    """Print the tables that the options ask for, and write the page if they ask for it."""
    parser = make_parser()
    options = parser.parse_args(words)
    settings = settings_of(options, parser)
    if not options.write:
        print("\n\n".join(make(settings, options.tables).values()))
        return
    sweeps = tables.all_sweeps(settings)
    made = make(settings, TABLES, sweeps)
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    for name, chart in make_charts(settings, sweeps).items():
        (RESULTS / name).write_text(chart, encoding="utf-8")
    print("\n\n".join(made.values()))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tables", nargs="+", choices=TABLES, default=("embedding", "bytes"), metavar="TABLE", help=", ".join(TABLES))
    add("--passages", nargs="+", type=whole, help="numbers of passages, such as 1e9")
    add("--cpu-nodes", nargs="+", type=whole, default=[1], help="CPU nodes for each number of passages, or for all")
    add("--gpu-nodes", nargs="+", type=whole, default=[1], help="GPUs for each number of passages, or for all")
    add("--tokens", type=float, default=defaults.corpus.tokens, help="mean tokens of a passage")
    add("--text-bytes", type=float, default=defaults.corpus.text_bytes, help="mean bytes of a passage")
    add("--dimension", type=whole, default=defaults.corpus.dimension, help="numbers of a vector")
    add("--dtype", choices=("fp32", "int8"), default=defaults.dtype, help="the graph on the CPU")
    add("--cores", type=whole, default=defaults.cores, help="cores of a CPU node")
    add(
        "--lost-per-hour",
        type=share,
        default=defaults.lost_per_hour,
        help="share of nodes lost in an hour, such as 0.05",
    )
    add("--shard-rows", type=whole, help="rows of a shard; about the best number if it is not given")
    add("--core-hour", type=float, default=defaults.prices.core_hour_usd, help="USD for an hour of a core; an example")
    add("--gpu-hour", type=float, default=defaults.prices.gpu_hour_usd, help="USD for an hour of a GPU; an example")
    add(
        "--runs",
        type=whole,
        default=defaults.runs,
        help="how often a fleet is simulated; less often if it has very many shards",
    )
    add("--write", action="store_true", help="write docs/plan.md and the plots")
    return parser


def whole(word: str) -> int:
    """Return a whole number above 0, which may be written as 1e9."""
    value = float(word)
    if value < 1 or value != int(value):
        raise argparse.ArgumentTypeError(f"{word} is not a whole number above 0")
    return int(value)


def share(word: str) -> float:
    """Return a number from 0 to below 1."""
    value = float(word)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not a share: give a number from 0 to below 1, such as 0.05")
    return value


def settings_of(options: argparse.Namespace, parser: argparse.ArgumentParser) -> Settings:
    """Return the settings that the options describe."""
    defaults = Settings()
    steps = defaults.steps
    if options.passages:
        nodes = {}
        for name in ("cpu_nodes", "gpu_nodes"):
            given = getattr(options, name)
            if len(given) not in (1, len(options.passages)):
                parser.error(f"--{name.replace('_', '-')} needs one number, or one for each number of passages")
            nodes[name] = given * len(options.passages) if len(given) == 1 else given
        steps = tuple(map(Step, options.passages, nodes["cpu_nodes"], nodes["gpu_nodes"]))
    return replace(
        defaults,
        steps=steps,
        corpus=Corpus(1, options.tokens, options.text_bytes, options.dimension),
        dtype=options.dtype,
        cores=options.cores,
        prices=replace(Prices(), core_hour_usd=options.core_hour, gpu_hour_usd=options.gpu_hour),
        lost_per_hour=options.lost_per_hour,
        shard_rows=options.shard_rows,
        runs=options.runs,
    )


def make(settings: Settings, names: Sequence[str], sweeps: Sweeps | None = None) -> dict[str, str]:
    """Return the tables with these names. `sweeps` are needed for "shards"; None simulates them."""
    makers = {
        "embedding": tables.embedding_table,
        "bytes": tables.bytes_table,
        "shards": lambda settings: tables.shard_table(settings, sweeps or tables.all_sweeps(settings)),
        "losses": tables.loss_table,
        "resume": tables.resume_table,
        "indexes": tables.index_table,
        "limits": tables.limit_table,
    }
    return {name: makers[name](settings) for name in names}


def page_with(page: str, made: dict[str, str]) -> str:
    """Return the page with the tables between their marks."""
    for name, table in made.items():
        page = with_tables(page, table, (f"<!-- {name} -->", f"<!-- /{name} -->"))
    return page


def make_charts(settings: Settings, sweeps: Sweeps) -> dict[str, str]:
    """Return the plots by the names of their files."""
    return {
        "plan-size.svg": charts.size_chart(settings),
        "plan-shards.svg": charts.shard_chart(settings, sweeps),
    }


if __name__ == "__main__":
    main()
