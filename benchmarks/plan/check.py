"""Predict how long 100,000 short texts take on this machine, encode them, and compare.

Usage: `make check-plan`, after `make bench-scaling`. EMBEDDER_TEST_DATA is the directory with the texts.

The texts are sentences of abstracts, passages, questions and requests, each of them once. They are longer than the
short texts of `make bench-scaling`, so the law must interpolate. There are two runs: `embedder encode` to a file, and
an `EncoderPool` with a process for each core.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pages import with_tables
from benchmarks.plan.measured import Speed, Throughput, read_scaling
from benchmarks.plan.tables import table

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
from compare import ARTIFACT, NAME, VARIABLES, machine  # noqa: E402
from quality import DATA, lines  # noqa: E402
from scaling import busy_seconds, child_seconds  # noqa: E402

RESULT = ROOT / "benchmarks/results/plan-check.md"
# The page with the table. It is between these two lines.
PAGE = ROOT / "docs/plan.md"
PAGE_MARKS = ("<!-- check -->", "<!-- /check -->")
TEXTS = 100_000
# The texts that are encoded first, to predict the time of all.
SAMPLE_TEXTS = 4000
# Where a sentence ends, and where a long sentence is cut if there are too few.
SENTENCE_END = re.compile(r"(?<=[.?!]) +")
CLAUSE_END = re.compile(r"(?<=[,;:]) +")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--dtype", choices=("fp32", "int8"), default="int8")
    options = parser.parse_args()

    texts = short_texts(options.texts)
    cores, found = read_scaling()
    tokens = tokens_per_text(texts)
    runs = {
        "`embedder encode`": ((1, cores), lambda path: encode_command(path, options.dtype)),
        f"`EncoderPool`, {cores} processes": ((cores, 1), lambda path: pool_command(path, options.dtype, cores)),
    }
    rows = []
    for label, (pair, command) in runs.items():
        from_table_s = predict(found, options.dtype, pair, tokens, len(texts))
        from_sample_s = predict_from_sample(command, texts)
        seconds, others = timed_run(command, texts)
        cells = [label, f"{seconds:.1f}"]
        for predicted_s in (from_table_s, from_sample_s):
            cells += [f"{predicted_s:.1f}", f"{100 * (predicted_s / seconds - 1):+.0f} %"]
        rows.append([*cells, f"{100 * others:.0f} %"])
        print(rows[-1], flush=True)
    titles = ["run", "measured (s)", "predicted from the table (s)", "error", "predicted from a sample (s)", "error"]
    titles.append("share of other programs")
    shown = "\n".join([table(titles, rows), "", *notes(options, texts, tokens)])
    options.output.write_text(shown + "\n", encoding="utf-8")
    if options.output == RESULT:
        page = with_tables(PAGE.read_text(encoding="utf-8"), table(titles, rows), PAGE_MARKS)
        PAGE.write_text(page, encoding="utf-8")
    print(shown)


def short_texts(count):
    """Return `count` different sentences of the test data. Raises SystemExit if there are not so many."""
    passages = [json.loads(line)["text"] for line in lines(DATA / "retrieval/scifact/corpus.jsonl")]
    passages += [json.loads(line)["text"] for line in lines(DATA / "retrieval/xquad/en/corpus.jsonl")]
    found = [json.loads(line)["text"] for path in sorted(DATA.rglob("queries.jsonl")) for line in lines(path)]
    found += [text for line in lines(DATA / "sts/stsb-en-dev.tsv")[1:] for text in line.split("\t")[1:3]]
    for name in ("banking77-train", "clinc150-val"):
        found += [line.split("\t")[-1] for line in lines(DATA / f"clustering/{name}.tsv")[1:]]
    sentences = [text for passage in passages for text in SENTENCE_END.split(passage)]
    clauses = [text for sentence in sentences for text in CLAUSE_END.split(sentence)]
    texts = list(dict.fromkeys(" ".join(text.split()) for text in found + sentences + clauses if text.strip()))
    if len(texts) < count:
        raise SystemExit(f"{DATA} has {len(texts):,} short texts. Give --texts {len(texts)} or less")
    return texts[:: len(texts) // count][:count]


def tokens_per_text(texts):
    """Return the mean tokens of a text, from a sample, as anybody would count them before a long run."""
    from embedder import Embedder

    sample = texts[:: max(1, len(texts) // 2000)]
    model = Embedder(ARTIFACT, dtype="int8")
    return sum(min(count, model.max_seq_length) for count in model.count_tokens(sample)) / len(sample)


def predict(found: list[Throughput], dtype: str, pair: tuple[int, int], tokens: float, texts: int) -> float:
    """Return the predicted seconds of a run of `texts` texts, its start included."""
    measured = [line for line in found if line.dtype == dtype and (line.processes, line.threads) == pair]
    speed = Speed(tuple(sorted((line.tokens_per_text, line.texts_per_s) for line in measured)))
    return min(line.start_s for line in measured) + texts / speed.texts_per_s(tokens)


def encode_command(path, dtype):
    program = Path(sys.executable).with_name("embedder")
    output = path.with_name("vectors.npy")
    return [program, "encode", path, "--output", output, "--model", ARTIFACT, "--dtype", dtype]


def pool_command(path, dtype, processes):
    return [sys.executable, __file__, "pool", path, dtype, processes]


def encode_in_pool(path, dtype, processes):
    from embedder import EncoderPool

    texts = Path(path).read_text(encoding="utf-8").splitlines()
    with EncoderPool(ARTIFACT, workers=int(processes), dtype=dtype) as pool:
        pool.encode(texts)


def predict_from_sample(command, texts):
    """Return the predicted seconds of all texts, from runs of one text and of some evenly taken texts."""
    sample = texts[:: max(1, len(texts) // SAMPLE_TEXTS)]
    start_s, _ = timed_run(command, sample[:1])
    seconds, _ = timed_run(command, sample)
    return start_s + (seconds - start_s) / (len(sample) - 1) * (len(texts) - 1)


def timed_run(command, texts):
    """Run a command with a file of texts. Return its seconds and the share of the cores that other programs took."""
    environment = os.environ | VARIABLES | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "texts.txt"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        words = list(map(str, command(path)))
        start, busy_s, own_s = time.perf_counter(), busy_seconds(), child_seconds()
        answer = subprocess.run(words, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if answer.returncode:
        raise SystemExit(f"{answer.stderr[-4000:]}\nfailed: {' '.join(words)}")
    others_s = busy_seconds() - busy_s - (child_seconds() - own_s)
    return seconds, max(0.0, others_s / seconds / os.cpu_count())


def notes(options, texts, tokens):
    lengths = sorted(map(len, texts))
    yield (
        f"- {len(texts):,} different sentences, {lengths[len(lengths) // 2]} characters in the median, {tokens:.1f} "
        f"tokens in the mean; {NAME} in {options.dtype} on {machine()}. One run each, with its start and its end."
    )
    yield (
        "- The first prediction knows benchmarks/results/scaling.md, the number of texts and their mean tokens. The "
        f"second one knows how long one text and {SAMPLE_TEXTS:,} evenly taken texts take."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["pool"]:
        encode_in_pool(*sys.argv[2:])
    else:
        main()
