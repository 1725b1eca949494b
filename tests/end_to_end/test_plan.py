"""The plan for many passages: its arithmetic, its simulation, and the page, which shows what the program prints."""

import doctest
import math
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from statistics import mean

import pytest

from benchmarks.line_plot import Axis, Line, Panel, line_plot
from benchmarks.plan import __main__ as program
from benchmarks.plan import measured, tables
from benchmarks.plan.embedding import Corpus, NodeKind, Prices, embed, store
from benchmarks.plan.fleet import (
    SPARK_3,
    SPARK_4,
    Fleet,
    Work,
    best_shard_s,
    expected_shard_s,
    simulate,
    simulate_many,
    simulate_resumed,
    spread,
)
from benchmarks.plan.indexes import LAWS, file_bytes, grown, plan_index
from benchmarks.plan.limits import limits
from benchmarks.plan.measured import IndexFigures, Speed, best_pair, cpu_speed, gpu_speed, read_indexes, read_scaling
from benchmarks.plan.settings import Settings
from tests.pages import code_blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/plan.md"
RESULTS = ROOT / "benchmarks/results"
MODULES = ("pages", *(f"plan.{name}" for name in ("embedding", "fleet", "indexes", "measured", "settings", "tables")))
# Nodes of the same speed, none of which is lost.
EVEN = Fleet(nodes=10, rows_per_s=100, speed_sigma=0, slow_share=0, start_s=0)
PLAIN = Work(rows=95_000, shard_rows=1000, shard_overhead_s=0, dispatch_s=0)


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    module = import_module(f"benchmarks.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_speed_goes_through_what_was_measured_and_slows_with_tokens():
    speed = Speed(((16, 2000.0), (90, 250.0), (240, 80.0)))
    assert [speed.texts_per_s(tokens) for tokens, _ in speed.points] == pytest.approx([2000, 250, 80])
    assert speed.texts_per_s(8) == pytest.approx(4000)
    assert speed.texts_per_s(480) == pytest.approx(40)
    rates = [speed.texts_per_s(tokens) for tokens in range(1, 600)]
    assert rates == sorted(rates, reverse=True)


def test_the_gpu_is_the_one_that_was_measured():
    text = (RESULTS / "gpu.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| all-MiniLM-L6-v2 \| (\w+) \| ([\d,]+) \|", text, re.MULTILINE))
    assert set(shown) == {"short", "mixed", "long"}
    points = gpu_speed().points
    assert sorted(rate for _, rate in points) == sorted(measured.number(cell) for cell in shown.values())
    inputs = re.search(r"- Inputs of all-MiniLM-L6-v2: .*", text)[0]
    tokens = [int(found) for found in re.findall(r"(\d+) tokens each", inputs)]
    assert [round(length) for length, _ in points] == sorted(tokens)
    assert measured.gpu_name() == "NVIDIA H100 80GB HBM3"


def test_the_cpu_is_the_fastest_pair_that_was_measured():
    cores, found = read_scaling()
    for dtype in ("fp32", "int8"):
        for workload in ("short", "mixed"):
            best = best_pair(found, dtype, workload, cores)
            others = [line for line in found if (line.dtype, line.workload) == (dtype, workload)]
            fitting = [line for line in others if line.processes * line.threads <= cores]
            assert best.tokens_per_s == max(line.tokens_per_s for line in fitting)
            assert any(line.processes * line.threads > cores for line in others)
    one, doubled = (cpu_speed(found, cores, "int8", count).texts_per_s(100) for count in (cores, 2 * cores))
    assert doubled == pytest.approx(2 * one)
    with pytest.raises(ValueError, match="nothing is measured for fp16, short on 2 cores"):
        best_pair(found, "fp16", "short", 2)


def test_efficiency_is_the_speed_beside_that_of_one_thread():
    cores, found = read_scaling()
    for line in found:
        one = next(
            each.tokens_per_s
            for each in found
            if (each.dtype, each.workload, each.processes, each.threads) == (line.dtype, line.workload, 1, 1)
        )
        used = min(cores, line.processes * line.threads)
        assert line.efficiency == pytest.approx(line.tokens_per_s / one / used, abs=0.006)


def test_the_table_of_many_processes_is_the_result():
    shown = {row[0]: row[1:] for row in measured.table_rows((ROOT / "docs/deploy.md").read_text(encoding="utf-8"))}
    _, found = read_scaling()
    for dtype in ("fp32", "int8"):
        for workload in ("short", "mixed"):
            rates = {
                (line.processes, line.threads): line.texts_per_s
                for line in found
                if (line.dtype, line.workload) == (dtype, workload)
            }
            expected = [f"{rates[pair]:,.0f}" for pair in ((1, 1), (1, 2), (2, 1), (2, 2))]
            assert shown[f"{workload}, {dtype}"] == expected


@pytest.mark.parametrize("reader", [read_scaling, read_indexes, gpu_speed], ids=lambda reader: reader.__name__)
def test_a_result_that_lacks_its_figures_is_refused(reader, tmp_path):
    path = tmp_path / "table.md"
    path.write_text("| a | b |\n|---|---|\n| c | d |\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"table\.md (does not say|has no line)"):
        reader(path)


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 2), (2, 1), (2, 2)]),
        (6, [(1, 1), (1, 2), (1, 4), (1, 6), (2, 1), (2, 2), (4, 1), (6, 1), (2, 6)]),
    ],
)
def test_threads_and_processes_are_measured_by_powers_of_two(cores, expected, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from scaling import pairs

    assert pairs(cores) == expected


def test_hours_costs_and_bytes_are_proportional_to_passages():
    kind = NodeKind("a node", Speed(((100, 500.0),)), hour_usd=0.5)
    small, large = (embed(Corpus(passages=count), kind) for count in (10**6, 10**9))
    assert large.node_hours == pytest.approx(1000 * small.node_hours) == pytest.approx(10**9 / 500 / 3600)
    assert large.usd == pytest.approx(0.5 * large.node_hours)
    assert large.hours(nodes=100) == pytest.approx(large.node_hours / 100)
    stored = store(Corpus(passages=10**9 + 1, dimension=768), Prices(), "int8", shard_rows=100_000)
    assert (stored.shards, stored.lists) == (10_001, 11)
    assert stored.shard_bytes == pytest.approx(76_800_000)
    assert stored.puts == 10_001 * 10  # 8 parts, and 2 requests around them


def test_a_fleet_without_trouble_is_within_grahams_bounds():
    """R. L. Graham, "Bounds on multiprocessing timing anomalies", 1969: the even share and the longest shard."""
    for rows, shard_rows in ((95_000, 1000), (100_000, 7000), (5000, 1000)):
        outcome = simulate(EVEN, replace(PLAIN, rows=rows, shard_rows=shard_rows), seed=0)
        share_s = rows / EVEN.nodes / EVEN.rows_per_s
        assert share_s <= outcome.finish_s <= share_s + shard_rows / EVEN.rows_per_s
    assert simulate(EVEN, PLAIN, seed=0).finish_s == pytest.approx(100)
    assert simulate(EVEN, replace(PLAIN, shard_overhead_s=3), seed=0).finish_s == pytest.approx(130)
    assert simulate(replace(EVEN, start_s=60), PLAIN, seed=0).finish_s == pytest.approx(160)


def test_a_driver_hands_out_one_shard_at_a_time():
    outcome = simulate(EVEN, replace(PLAIN, dispatch_s=5), seed=0)
    assert outcome.finish_s == pytest.approx(95 * 5 + 10)


def test_lost_nodes_cost_what_the_formula_says():
    fleet = replace(EVEN, nodes=1, lost_per_hour=0.9, start_s=50, detection_s=10)
    work = Work(rows=20_000, shard_rows=20_000, shard_overhead_s=0, dispatch_s=0)
    found = mean(simulate(fleet, work, seed).finish_s - fleet.start_s for seed in range(4000))
    expected = expected_shard_s(200, fleet.losses_per_node_s, again_s=60)
    assert expected > 220
    assert found == pytest.approx(expected, rel=0.02)
    assert expected_shard_s(200, 0, again_s=60) == 200


@pytest.mark.parametrize("speculation", [None, SPARK_4, SPARK_3])
def test_every_shard_is_done_in_spite_of_lost_nodes_and_copies(speculation):
    fleet = Fleet(nodes=50, rows_per_s=100, slow_share=0.1, lost_per_hour=0.9)
    work = Work(rows=1_234_567, shard_rows=10_000)
    outcome = simulate(fleet, work, 3, speculation)
    assert outcome.done_shards == work.shards == 124
    assert outcome.lost_nodes > 10
    assert 0 < outcome.wasted_rows < (outcome.lost_nodes + outcome.copies) * work.shard_rows
    assert (outcome.copies > 0) == (speculation is not None)
    assert outcome.node_hours == pytest.approx(50 * outcome.finish_s / 3600)


def test_a_seed_gives_the_same_outcome_again():
    fleet, work = Fleet(nodes=20, rows_per_s=100, lost_per_hour=0.5), Work(rows=10**6, shard_rows=20_000)
    assert simulate_many(fleet, work, 5) == simulate_many(fleet, work, 5)
    assert len({outcome.finish_s for outcome in simulate_many(fleet, work, 5)}) == 5


def test_more_losses_take_longer():
    work = Work(rows=10**7, shard_rows=50_000)
    middles = [
        spread([outcome.finish_s for outcome in simulate_many(Fleet(50, 100.0, lost_per_hour=lost), work, 10)]).middle
        for lost in (0.0, 0.3, 0.8)
    ]
    assert middles == sorted(middles)
    assert middles[2] > 1.2 * middles[0]


def test_speculation_helps_where_a_few_nodes_are_very_slow():
    fleet, work = Fleet(nodes=100, rows_per_s=100, slow_share=0.05, slow_factor=10), Work(rows=10**7, shard_rows=20_000)
    middle = {
        speculation: spread([outcome.finish_s for outcome in simulate_many(fleet, work, 10, speculation)]).middle
        for speculation in (None, SPARK_4, SPARK_3)
    }
    assert middle[SPARK_3] < middle[SPARK_4] < 0.8 * middle[None]
    # Without slow nodes there is nothing to copy.
    assert simulate(EVEN, PLAIN, 0, SPARK_4) == simulate(EVEN, PLAIN, 0)


@pytest.mark.parametrize(("nodes", "per_s", "lost"), [(50, 200.0, 0.05), (8, 25_000.0, 0.05), (50, 200.0, 0.5)])
def test_the_formula_finds_a_shard_size_that_is_nearly_best(nodes, per_s, lost):
    fleet, work = Fleet(nodes, per_s, lost_per_hour=lost), Work(rows=int(nodes * per_s * 4500))
    middle = {}
    for factor in (1 / 8, 1 / 2, 1, 2, 8):
        shards = replace(work, shard_rows=int(best_shard_s(fleet, work) * per_s * factor))
        middle[factor] = spread([outcome.finish_s for outcome in simulate_many(fleet, shards, 7)]).middle
    assert middle[1] < 1.05 * min(middle.values())
    assert middle[1] < 0.9 * middle[1 / 8]


def test_a_driver_that_is_lost_costs_the_shards_that_ran():
    whole = simulate(EVEN, PLAIN, 0).finish_s
    kept = simulate_resumed(EVEN, PLAIN, 0, driver_lost_at_s=55)
    anew = simulate_resumed(EVEN, PLAIN, 0, driver_lost_at_s=55, keeps_shards=False)
    assert (whole, kept.finish_s, anew.finish_s) == pytest.approx((100, 55 + 50, 55 + 100))
    assert kept.done_shards == anew.done_shards == 95
    assert simulate_resumed(EVEN, PLAIN, 0, driver_lost_at_s=1000).finish_s == whole


def test_indexes_grow_by_their_laws():
    figures = {kind: lines[-1] for kind, lines in read_indexes().items()}
    assert set(figures) == set(LAWS)
    for kind, line in figures.items():
        assert grown(line, line.vectors) == pytest.approx((line.train_core_s + line.add_core_s, line.query_ms / 1000))
        small, large = (plan_index(line, count, 64e9, Prices()) for count in (10**6, 10**10))
        assert large.disk_bytes == pytest.approx(10**4 * small.disk_bytes, rel=0.15)
        assert large.machines == math.ceil(large.memory_bytes / 64e9)
        assert large.build_core_hours > 0, kind
    hnsw = IndexFigures("HNSW32", 2**10, 0.0, add_core_s=10.0, bytes_per_vector=1.0, query_ms=1.0)
    assert grown(hnsw, 2**20) == pytest.approx((10 * 2**10 * 2, 0.002))


def test_laws_hold_between_the_sizes_that_were_measured():
    for kind, lines in read_indexes().items():
        for line in lines:
            assert file_bytes(lines[-1], line.vectors) == pytest.approx(line.bytes_per_vector, rel=0.1), kind
    hnsw = read_indexes()["HNSW32"]
    predicted, _ = grown(hnsw[0], hnsw[-1].vectors)
    assert predicted == pytest.approx(hnsw[-1].add_core_s, rel=0.6)


@pytest.mark.slow
def test_the_benchmark_of_indexes_measures_each_kind_once(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    pytest.importorskip("sentence_transformers", reason="benchmarks/vectors.py needs it")
    import index_growth

    monkeypatch.setattr(index_growth, "CODE_BYTES", 2)  # the training of 48 takes half a minute
    found = dict(index_growth.measure(1000, 5, {("HNSW32", 1000): "a line of a run before"}))
    assert {name for name, _ in found} == set(LAWS) - {"HNSW32"}
    lines = measured.table_rows("\n".join(found.values()))
    assert {len(line) for line in lines} == {8}
    assert next(line for line in lines if line[0] == "exact, float32")[-1] == "1.000"
    assert not list(index_growth.measure(1000, 5, found | {("HNSW32", 1000): "a line"}))


def test_limits_are_sorted_and_follow_from_the_figures():
    settings = Settings()
    figures = {kind: lines[-1] for kind, lines in read_indexes().items()}
    found = limits(settings.corpus, settings.cpu(), settings.gpu(), figures, settings.bounds, 100_000)
    assert [limit.passages for limit in found] == sorted(limit.passages for limit in found)
    by_name = {limit.breaks.split(" ")[0] + limit.breaks.split(" ")[1]: limit for limit in found}
    assert by_name["Spark's`collect()`"].passages == pytest.approx(2**30 / 1536)
    assert by_name["Allfloat32"].passages == pytest.approx(64e9 / 1536)
    bounds = replace(settings.bounds, memory_bytes=128e9)
    larger = limits(settings.corpus, settings.cpu(), settings.gpu(), figures, bounds, 100_000)
    doubled = {limit.breaks.split(" 128 GB")[0]: limit.passages for limit in larger if " 128 GB" in limit.breaks}
    single = {limit.breaks.split(" 64 GB")[0]: limit.passages for limit in found if " 64 GB" in limit.breaks}
    assert len(single) == 6
    assert doubled == pytest.approx({name: 2 * passages for name, passages in single.items()}, rel=0.05)


def test_options_reach_the_tables(capsys):
    options = [
        "--passages",
        "1e6",
        "2e6",
        "--cpu-nodes",
        "3",
        "--gpu-nodes",
        "1",
        "2",
        "--runs",
        "3",
        "--core-hour",
        "1",
    ]
    program.main([*options, "--tables", "embedding", "bytes", "--dimension", "768", "--shard-rows", "50000"])
    printed = capsys.readouterr().out
    rows = measured.table_rows(printed)
    assert [row[:2] for row in rows[1:5]] == [
        ["1 million", "3 x 2 cores, int8"],
        ["1 million", "1 x H100"],
        ["2 million", "3 x 2 cores, int8"],
        ["2 million", "2 x H100"],
    ]
    assert {row[5] for row in rows[1:5]} == {"50,000"}
    assert float(rows[1][7]) == pytest.approx(2 * float(rows[1][2]), rel=0.01)
    assert rows[-1][:3] == ["2 million", "900 MB", "6.14 GB"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--passages", "0.5"], "0.5 is not a whole number above 0"),
        (["--passages", "many"], "invalid whole value: 'many'"),
        (["--lost-per-hour", "1"], "1 is not a share: give a number from 0 to below 1, such as 0.05"),
        (
            ["--passages", "1", "2", "3", "--cpu-nodes", "1", "2"],
            "--cpu-nodes needs one number, or one for each number of passages",
        ),
        (["--tables", "graphs"], "invalid choice: 'graphs'"),
    ],
)
def test_wrong_options_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        program.main(words)
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def made():
    """The tables and the plots, as `make plan` writes them."""
    settings = Settings()
    sweeps = tables.all_sweeps(settings)
    return program.make(settings, program.TABLES, sweeps), program.make_charts(settings, sweeps)


@pytest.mark.slow
def test_the_page_shows_what_the_program_prints(made):
    page = PAGE.read_text(encoding="utf-8")
    assert program.page_with(page, made[0]) == page, "run `make plan`"


@pytest.mark.slow
def test_the_plots_are_those_of_the_program(made):
    for name, chart in made[1].items():
        assert (RESULTS / name).read_text(encoding="utf-8") == chart, f"{name} is not current: run `make plan`"
        assert f"results/{name}" in PAGE.read_text(encoding="utf-8")


def test_the_page_shows_the_check_that_was_run():
    page = PAGE.read_text(encoding="utf-8")
    result = (RESULTS / "plan-check.md").read_text(encoding="utf-8").split("\n\n")[0]
    assert program.with_tables(page, result, ("<!-- check -->", "<!-- /check -->")) == page


def test_the_page_calls_its_prices_examples():
    page = PAGE.read_text(encoding="utf-8")
    prices = Prices()
    assert f"examples, written down on {prices.noted_on}" in page.replace("\n", " ")
    for value in (prices.core_hour_usd, prices.gpu_hour_usd, prices.storage_gb_month_usd, prices.put_1000_usd):
        assert f"| {value:g} |" in page


def test_commands_on_the_page_have_options_that_exist():
    commands = [block.code for block in code_blocks(PAGE) if block.language == "console"]
    assert any(command.startswith("python -m benchmarks.plan --") for command in commands)


def test_lines_are_drawn_where_their_values_are():
    axis = Axis("x", ((1, "1"), (10, "10"), (100, "100")))
    assert [axis.place(value, 0, 200) for value, _ in axis.marks] == pytest.approx([0, 100, 200])
    line = Line("a line <1>", ((1, 1), (10, 100)), band=((1, 2), (50, 100)))
    drawn = line_plot("a title", [Panel("a panel", axis, axis, (line,))])
    assert drawn == line_plot("a title", [Panel("a panel", axis, axis, (line,))])
    assert "a line &lt;1&gt;" in drawn
    assert drawn.count("<circle") == 2
    assert drawn.count("fill-opacity") == 1
