"""Compare `CrossEncoder` with other programs that re-rank, on this machine, in one run. Writes tables.

Usage: `make bench-rerankers`. It makes the environments and the artifact, and then runs this file.

As in compare.py, each measurement runs in its own process, in the environment of its program, and in each round every
program does every task once. The model is a trained cross-encoder; fetch_reranker.py says which.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from compare import (
    FASTEMBED,
    LEAN,
    ONNX,
    OPENVINO,
    PAGE,
    ROOT,
    TORCH,
    Program,
    cell,
    figures,
    is_installed,
    machine,
    make_models,
    run,
    table,
    versions,
    with_tables,
    write_inputs,
)
from quality import DATA, lines, spearman
from workloads import described, repository_texts, spread

NAME = "ms-marco-MiniLM-L12-v2-rounded"
CHECKPOINT = ROOT / "checkpoints" / NAME
ARTIFACT = ROOT / "artifacts" / NAME
PEERS = ROOT / "checkpoints/peers" / NAME
FLASHRANK = ROOT / ".venv/flashrank"
RESULT = ROOT / "benchmarks/results/rerankers.md"
# The page shows the table of speeds between these two lines.
PAGE_MARKS = ("<!-- rerankers -->", "<!-- /rerankers -->")

PROGRAMS = {
    "embedder": Program("embedder", "fp32", LEAN, ARTIFACT),
    "embedder-int8": Program("embedder, int8", "int8", LEAN, ARTIFACT),
    "torch": Program("sentence-transformers, torch", "fp32", TORCH, CHECKPOINT),
    "onnx": Program("sentence-transformers, ONNX", "fp32", ONNX, PEERS / "onnx", ONNX),
    "onnx-qint8": Program("sentence-transformers, ONNX, qint8", "int8", ONNX, PEERS / "onnx-qint8", ONNX),
    "openvino": Program("sentence-transformers, OpenVINO", "default", OPENVINO, PEERS / "openvino", OPENVINO),
    "openvino-fp32": Program("sentence-transformers, OpenVINO, fp32", "fp32", OPENVINO, PEERS / "openvino", OPENVINO),
    "openvino-qint8": Program(
        "sentence-transformers, OpenVINO, qint8", "int8", OPENVINO, PEERS / "openvino-qint8", OPENVINO
    ),
    "fastembed": Program("fastembed", "fp32", FASTEMBED, PEERS / "plain", ONNX),
    "flashrank": Program("FlashRank", "fp32", FLASHRANK, PEERS / "plain", ONNX),
    "flashrank-qint8": Program("FlashRank, qint8", "int8", FLASHRANK, PEERS / "plain-qint8", ONNX),
}
REFERENCE = "torch"
# The largest difference from the reference's scores that an fp32 program may have, as a share of their range. The
# optimisations O3 of the ONNX graph approximate GELU.
MAX_DIFFERENCE = 0.01
TASKS = ("cold", "short", "long", "mixed", "rank")
# Queries, and the passages of each. With these, a round of all programs takes 10 to 25 minutes on two cores.
SIZES = {"short": (100, 10), "long": (8, 5), "mixed": (100, 10), "rank": (1, 100)}
COMPARED_QUERIES = 24
CALIBRATION_PAIRS = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--rounds", type=int, default=3, help="how often each program does each task")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    options = parser.parse_args()

    names = [name for name in PROGRAMS if name in options.programs and is_installed(PROGRAMS[name])]
    queries, passages = all_texts()
    pairs = {task: make_pairs(queries, passages[task], *size) for task, size in SIZES.items()}
    compared = real_pairs() or make_pairs(queries, passages["mixed"], COMPARED_QUERIES, 5)
    with tempfile.TemporaryDirectory() as scratch:
        calibration = make_pairs(queries, passages["mixed"][1:], CALIBRATION_PAIRS, 1)
        make_models([PROGRAMS[name] for name in names], CHECKPOINT, calibration, Path(scratch))
        agreements = agreement(names, compared, Path(scratch))
        results = rounds(names, pairs, options.rounds, Path(scratch))
    speeds = "\n".join(speed_table(results))
    text = "\n".join([speeds, "", *other_table(results, agreements), "", notes(results, pairs, compared)])
    options.output.write_text(text + "\n", encoding="utf-8")
    if options.output == RESULT:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), speeds, PAGE_MARKS), encoding="utf-8")
    print(text)


def all_texts():
    """Return queries, and the passages of each workload as {workload: texts}."""
    if not (DATA / "text_mixed_en.jsonl").exists():
        texts = repository_texts()
        return texts["queries"], texts | {"rank": texts["long"]}
    scifact, xquad = DATA / "retrieval/scifact", DATA / "retrieval/xquad/en"
    abstracts = list(map(json.loads, lines(scifact / "corpus.jsonl")))
    return [json.loads(line)["text"] for line in lines(scifact / "queries.jsonl")], {
        "short": [abstract["title"] for abstract in abstracts],
        "long": [f"{abstract['title']} {abstract['text']}".strip() for abstract in abstracts],
        "mixed": [json.loads(line)["text"] for line in lines(DATA / "text_mixed_en.jsonl")],
        "rank": [json.loads(line)["text"] for line in lines(xquad / "corpus.jsonl")],
    }


def make_pairs(queries, passages, query_count, passage_count):
    """Return pairs of `query_count` queries with `passage_count` passages each."""
    found = iter(spread(passages, query_count * passage_count))
    return [(query, next(found)) for query in spread(queries, query_count) for _ in range(passage_count)]


def real_pairs():
    """Return questions, each with its own paragraph and the four around it. They are about the same subject."""
    directory = DATA / "retrieval/xquad/en"
    if not directory.exists():
        return []
    paragraphs = [json.loads(line) for line in lines(directory / "corpus.jsonl")]
    places = {paragraph["_id"]: place for place, paragraph in enumerate(paragraphs)}
    questions = {query["_id"]: query["text"] for query in map(json.loads, lines(directory / "queries.jsonl"))}
    judged = [line.split("\t")[:2] for line in lines(directory / "qrels.tsv")[1:]]
    return [
        (questions[query], paragraph["text"])
        for query, own in spread(judged, COMPARED_QUERIES)
        for paragraph in paragraphs[max(0, places[own] - 2) : places[own] + 3]
    ]


def agreement(names, pairs, scratch):
    """Return how close each program's scores are to the reference's, as {program: (difference, correlation)}.

    The difference is the largest one, as a share of the range of the reference's scores. The correlation is Spearman's.

    Raises:
        SystemExit: the scores of an fp32 program differ from the reference's.
    """
    found, reference = {}, None
    for name in [REFERENCE, *(name for name in names if name != REFERENCE)]:
        work(name, "predict", pairs, scratch, "mixed")
        scores = np.load(scratch / "scores.npy")
        reference = scores if reference is None else reference
        difference = np.abs(scores - reference).max() / np.ptp(reference)
        found[name] = difference, spearman(scores, reference)
        print(f"agreement over {len(pairs)} pairs: {name}: {difference:.2%}, {found[name][1]:.5f}", flush=True)
        if PROGRAMS[name].dtype == "fp32" and not difference <= MAX_DIFFERENCE:
            raise SystemExit(f"the scores of {name} differ from {REFERENCE}'s. Their speeds cannot be compared")
    return found


def rounds(names, pairs, count, scratch):
    """Return the results of all rounds, as {program: {task: [result, ...]}}."""
    results = {name: {task: [] for task in TASKS} for name in names}
    for number, task, name in [(number, task, name) for number in range(count) for task in TASKS for name in names]:
        kind = task if task in ("cold", "rank") else "predict"
        result = work(name, kind, pairs.get(task), scratch, task)
        results[name][task].append(result)
        shown = ", ".join(f"{figure} {value:,.2f}" for figure, value in result.items())
        print(f"{number + 1}/{count} {task}: {name}: {shown}", flush=True)
    return results


def work(name, kind, pairs, scratch, workload):
    """Run reranker_worker.py, and return its result."""
    program = PROGRAMS[name]
    words = [program.environment / "bin/python", ROOT / "benchmarks/reranker_worker.py", name, program.model, kind]
    if kind != "cold":
        words.append(write_inputs(pairs, scratch))
    if kind == "predict":
        words += [scratch / "scores.npy", workload]
    return json.loads(run(words).splitlines()[-1])


def speed_table(results):
    columns = [
        ("short (pairs/s)", "short", "pairs_per_second", 0),
        ("long (pairs/s)", "long", "pairs_per_second", 1),
        ("mixed (pairs/s)", "mixed", "pairs_per_second", 0),
        (f"a query with {SIZES['rank'][1]} passages (ms)", "rank", "p50_ms", 0),
        ("cold start (s)", "cold", "seconds", 2),
    ]
    rows = {PROGRAMS[name].label: [cell(results, name, *column) for _, *column in columns] for name in results}
    return table(f"{NAME}, CPU", [title for title, *_ in columns], rows.items())


def other_table(results, agreements):
    titles = [*(f"peak, {task}" for task in ("first score", "short", "long", "mixed", "a query"))]
    titles += ["largest difference", "Spearman"]
    rows = {}
    for name in results:
        cells = [f"{median(figures(results, name, task, 'peak_mb')):,.0f}" for task in TASKS]
        difference, correlation = agreements[name]
        rows[PROGRAMS[name].label] = [*cells, f"{difference:.3%}", f"{correlation:.5f}"]
    return table("memory (MB); agreement", titles, rows.items())


def notes(results, pairs, compared):
    sizes = "; ".join(f"{task}: {described([query + passage for query, passage in pairs[task]])}" for task in pairs)
    lines = [
        f"- Machine: {machine()}.",
        "- Figures: medians of the rounds, with the range in brackets. Without brackets, they are of one round. All "
        "programs take turns. Each measurement runs in its own process.",
        "- Model: 12 layers of 384 numbers. Its weights are those of ms-marco-MiniLM-L12-v2, rounded to 8 bits (see "
        "benchmarks/fetch_reranker.py). int8 may lose less here than with other weights.",
        f"- Pairs: {sizes}. Every program cuts pairs at 512 tokens.",
        f"- A query with {SIZES['rank'][1]} passages: one call of `rank`, or of its counterpart.",
        "- Cold start: a new process, from its first import to its first score. Memory: the peak of the process.",
        "- Agreement: the largest difference from the scores of sentence-transformers with torch, as a share of their "
        f"range, and Spearman's correlation with them, over {len(compared)} pairs of a question and a paragraph.",
        "- Batches: 32 short, 8 long or 16 mixed pairs, sorted by length; 16 passages of one query. fastembed does not "
        "sort: 16, 4 and 1; 16. FlashRank scores all passages of a query in one call. embedder fills its own batches.",
        "- ONNX graph: the programs that use it share the one of sentence-transformers, with its optimisations O3. "
        "qint8 follows its documentation for this CPU.",
        "- OpenVINO: without fp32 it takes bfloat16, if the CPU has it. Its qint8 is calibrated with "
        f"{CALIBRATION_PAIRS} mixed pairs.",
        f"- Versions: {versions(PROGRAMS[name].environment for name in results)}.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
