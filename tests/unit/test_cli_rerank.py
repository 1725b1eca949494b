"""`embedder rerank`: its inputs, its output, its errors."""

import io
import json
import sys

import numpy as np
import pytest

import embedder
from embedder.cli.main import main
from tests.tiny import write_tiny_artifact, write_tiny_ranker

TEXTS = ["the cat sat on the mat", "a dog", "", "1 2 3 b", "the dog sat"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory, with a file of lines, and models under artifacts."""
    (tmp_path / "artifacts/cross-encoder").mkdir(parents=True)
    write_tiny_ranker(tmp_path / "artifacts/cross-encoder/ms-marco-MiniLM-L6-v2")
    write_tiny_ranker(tmp_path / "artifacts/labels", labels=3)
    write_tiny_artifact(tmp_path / "artifacts/tiny")
    (tmp_path / "notes.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place, capsys, monkeypatch):
    """A function that runs a command, and returns its status, stdout and stderr."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = main([*arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def rerank(run):
    """A function that runs `embedder rerank`."""
    return lambda *arguments, **options: run("rerank", *arguments, **options)


def ranked(query, texts):
    """Return (score, text) as `CrossEncoder.rank` has them."""
    with embedder.CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2") as model:
        return [(hit["score"], hit["text"]) for hit in model.rank(query, texts, return_documents=True)]


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def lines(*fields):
    return "".join(json.dumps(record) + "\n" for record in fields)


def test_lines_of_a_file_for_a_query(rerank):
    status, out, err = rerank("notes.txt", "a dog", "-k", "3")
    assert (status, err) == (0, "embedder: note: 1 empty text left out\n")
    best = ranked("a dog", [text for text in TEXTS if text])[:3]
    assert out.splitlines() == [f"{score:.4f}  notes.txt:{TEXTS.index(text) + 1}  {text}" for score, text in best]


def test_output_of_search_through_a_pipe(run, rerank):
    _, found, _ = run("search", "notes.txt", "a dog", "--json", "--model", "tiny")
    status, out, err = rerank("--json", stdin=found)
    assert (status, err) == (0, "")
    best = ranked("a dog", [text for text in TEXTS if text])
    assert records(out) == [
        {
            "query": "a dog",
            "score": round(score, 6),
            "id": f"notes.txt:{TEXTS.index(text) + 1}",
            "text": text,
            "metadata": {},
        }
        for score, text in best
    ]


def test_texts_of_many_queries_are_sorted_apart(rerank, place):
    content = lines(
        {"question": "a cat", "body": "1 2", "id": 7, "score": 5, "tag": "x"},
        {"question": "a dog", "body": "the cat"},
        {"question": "a cat", "body": "the cat", "id": None},
        {"question": "a dog", "body": "a dog"},
    )
    (place / "in.jsonl").write_text(content)
    options = ("in.jsonl", "--query-column", "question", "--column", "body")
    found = records(rerank(*options, "--json")[1])
    (score, _), *_ = ranked("a cat", ["1 2"])
    assert {
        "query": "a cat",
        "score": round(score, 6),
        "id": 7,
        "question": "a cat",
        "body": "1 2",
        "tag": "x",
    } in found
    texts = {"a cat": ["1 2", "the cat"], "a dog": ["the cat", "a dog"]}
    expected = [(query, text) for query in texts for _, text in ranked(query, texts[query])]
    assert [(record["question"], record["body"]) for record in found] == expected
    assert {record["id"] for record in found} == {7, "in.jsonl:2", "in.jsonl:3", "in.jsonl:4"}
    out = rerank(*options, "-k", "1")[1].splitlines()
    assert [out[0], out[2], out[3], len(out)] == ["a cat", "", "a dog", 5]


def test_query_of_the_command_line_holds_for_every_record(rerank):
    content = lines({"query": "old", "text": "a dog"})
    (found,) = records(rerank("-", "a cat", "--input-format", "jsonl", "--json", stdin=content)[1])
    assert (found["query"], found["id"]) == ("a cat", "stdin:1")
    assert rerank("-", "a cat", stdin="the cat\na dog\n")[1].count("stdin:") == 2


def test_equal_scores_keep_the_order_of_the_input(rerank):
    content = lines(*({"query": "a cat", "text": "a dog", "id": id} for id in (3, 1, 2)))
    assert [record["id"] for record in records(rerank("--json", stdin=content)[1])] == [3, 1, 2]


def test_what_is_finished_is_printed_before_an_interrupt(rerank, monkeypatch):
    def scores(model, pairs, **options):
        yield np.array([1, 2], np.float32)
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder.CrossEncoder, "predict_iter", scores)
    content = lines({"query": "a cat", "text": "a"}, {"query": "a dog", "text": "b"}, {"query": "a dog", "text": "c"})
    status, out, _ = rerank("--json", stdin=content)
    assert status == 130
    assert [record["query"] for record in records(out)] == ["a cat"]


def test_min_score(rerank):
    (best, text), (second, _), *_ = ranked("a dog", [text for text in TEXTS if text])
    assert best > second
    _, out, _ = rerank("notes.txt", "a dog", "--min-score", str((best + second) / 2))
    assert out == f"{best:.4f}  notes.txt:{TEXTS.index(text) + 1}  {text}\n"
    status, out, err = rerank("notes.txt", "a dog", "--min-score", "2")
    assert (status, out) == (0, "")
    assert "note: nothing has such a score. Try a lower --min-score" in err


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["who wrote it"], "", "there is no file 'who wrote it'. If this is the query, name the INPUT before it"),
        (["notes.txt", "a\udcff"], "", "the QUERY is not valid Unicode: it contains the lone surrogate U+DCFF at cha"),
        (["gone.txt", "q"], "", "gone.txt: No such file or directory"),
        (["artifacts", "q"], "", "artifacts is no file of texts. Search in it, and re-rank what is found: embed"),
        (["notes.index", "q"], "", "notes.index is no file of texts. Search in it"),
        (["notes.txt"], "", "notes.txt, line 1: the column 'query' is missing. The line has the column 'text'. Ch"),
        ([], '{"query": 1, "text": "a"}', "stdin, line 1: the column 'query' is not a string but 1"),
        ([], '{"query": "\\ud800", "text": "a"}', "the column 'query' is not valid Unicode: it contains the lone"),
        ([], '{"query": "a", "id": 1}', "stdin, line 1: the column 'query' is the query, and there is no other text"),
        ([], "a text", "column 1. Pipe `embedder search --json` here, or give a query: embedder rerank - QUERY"),
        ([], "", "there are no texts in stdin"),
        (["notes.txt", "q", "--top-k", "0"], "", "top_k should be a whole number, at least 1, not 0"),
        (["notes.txt", "q", "--min-score", "nan"], "", "min_score should be a number, not nan"),
        (["notes.txt", "q", "--model", "labels"], "", "labels gives each pair 3 scores, and a ranking needs one. Ch"),
        (["notes.txt", "q", "--model", "tiny"], "", "or `embedder search` on the command line"),
    ],
)  # fmt: skip
def test_errors(run, rerank, arguments, stdin, message):
    if "notes.index" in arguments:
        run("index", "notes.txt", "-o", "notes.index", "--model", "tiny")
    status, out, err = rerank(*arguments, stdin=stdin)
    assert (status, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["notes.txt", "who", "wrote", "it"], "give one INPUT, and one text in quotation marks as QUERY"),
        (["notes.txt", "q", "--query-column", "a"], "--query-column is for queries in the records"),
    ],
)
def test_wrong_usage(rerank, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        rerank(*arguments)
    assert f"embedder rerank: error: {message}" in capsys.readouterr().err


def test_a_ranker_is_no_model_for_search(run):
    status, _, err = run("search", "notes.txt", "q", "--model", "cross-encoder/ms-marco-MiniLM-L6-v2")
    assert status == 1
    assert "or `embedder rerank` on the command line" in err
