"""The commands for collections of texts: index, search, duplicates and clusters."""

import io
import json
import os
import re
import sys

import numpy as np
import pytest

import embedder
from embedder.cli.clusters import choose_threshold
from embedder.cli.keywords import keywords
from embedder.cli.main import main
from tests.tiny import add_int8_graph, write_tiny_artifact

TEXTS = ["the cat sat on the mat", "a dog", "", "the cat sat on the mat", "the dog sat on the mat", "1 2 3 b"]
HOSTILE = "cat \x1b]0;owned\x07\x9b31m\u202e dog"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory: a file of lines, and the model `tiny` under artifacts."""
    (tmp_path / "artifacts").mkdir()
    write_tiny_artifact(tmp_path / "artifacts/tiny")
    (tmp_path / "notes.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place, capsys):
    """A function that runs a command with the tiny model, and returns its status, stdout and stderr."""

    def run(*arguments, model="tiny"):
        words = [str(argument) for argument in arguments]
        status = main([*words, "--model", model] if model else words)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_search_in_a_file(run):
    status, out, err = run("search", "notes.txt", "--top-k", "2", "a dog")
    assert (status, err) == (0, "embedder: note: 1 empty text left out\n")
    model = embedder.Embedder("tiny")
    scores = model.similarity(model.encode("a dog"), model.encode(TEXTS))[0]
    assert out.splitlines()[0] == "1.0000  notes.txt:2  a dog"
    second = max(scores[[0, 3, 4, 5]])
    assert out.splitlines()[1].startswith(f"{second:.4f}  notes.txt:")


@pytest.mark.parametrize("arguments", [["--json", "notes.txt", "a dog"], ["notes.txt", "--json", "a dog"]])
def test_search_prints_lines_of_json(run, arguments):
    found = records(run("search", *arguments)[1])
    assert found[0] == {"query": "a dog", "score": 1.0, "id": "notes.txt:2", "text": "a dog", "metadata": {}}
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    assert {hit["id"] for hit in found} == {f"notes.txt:{line}" for line in (1, 2, 4, 5, 6)}


def test_search_leaves_out_lower_scores(run):
    assert run("search", "--min-score", "0.99", "notes.txt", "a dog")[1] == "1.0000  notes.txt:2  a dog\n"
    status, out, err = run("search", "--min-score", "2", "notes.txt", "a dog")
    assert (status, out) == (0, "")
    assert "note: nothing has such a score. Try a lower --min-score" in err


@pytest.mark.parametrize(
    ("name", "lines", "text"),
    [
        ("one.csv", ["review", "a dog"], "a dog"),
        ("one.tsv", ["review", "a; dog"], "a; dog"),
        ("two.csv", ["text;id", "a dog;7"], "a dog"),
        ("one.jsonl", ['{"id": 1, "body": "a dog", "tags": []}'], "a dog"),
        ("text.jsonl", ['{"body": "a cat", "text": "a dog"}'], "a dog"),
    ],
)
def test_column_is_the_only_one_or_text(run, place, name, lines, text):
    write(place / name, *lines)
    assert records(run("search", "--json", name, "dog")[1])[0]["text"] == text


def test_other_fields_of_a_record_are_its_metadata(run, place):
    write(place / "in.csv", "id,body,note", "1,a dog,x", "2,a cat")
    found = records(run("search", "--json", "--column", "body", "in.csv", "a dog")[1])
    assert [(hit["id"], hit["metadata"]) for hit in found] == [
        ("in.csv:2", {"id": "1", "note": "x"}),
        ("in.csv:3", {"id": "2", "note": None}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["search", "in.csv", "q"],
            "the column 'text' is missing. Split at ',', the header has the columns 'a', 'b'. Ch",
        ),
        (
            ["search", "in.jsonl", "q"],
            "line 1: the column 'text' is missing. The line has the columns 'a', 'b'. Choose",
        ),
        (["search", "gone.index", "q"], "gone.index: No such file or directory"),
        (["search", "in.xlsx", "q"], "the name 'in.xlsx' does not show the input format"),
        (["search", "gone.txt", "q"], "gone.txt: No such file or directory"),
        (["search", "blank.txt", "q"], "there are no texts in blank.txt"),
        (["search", "artifacts", "q"], "there are no text files in artifacts. Names of text files end in .adoc, "),
        (["search", "artifacts", "q", "--column", "a"], "--column cannot be used with a directory"),
        (["search", "notes.txt", "q", "--top-k", "0"], "top_k should be a whole number, at least 1, not 0"),
        (["search", "notes.txt", "q", "--min-score", "nan"], "min_score should be a number, not nan"),
        (["duplicates", "notes.txt", "--threshold", "nan"], "threshold should be a number, not nan"),
        (["clusters", "notes.txt", "--threshold", "nan"], "threshold should be a number, not nan"),
        (["clusters", "notes.txt", "--min-size", "0"], "min_size should be a whole number, at least 1, not 0"),
        (["index", "notes.txt", "-o", "no/such.index"], "no is not a directory"),
        (["index", "notes.txt", "-o", "artifacts"], "artifacts cannot be written: it is a directory"),
        (["index", "notes.txt", "-o", "in.csv"], "in.csv is there, and is not an index. Choose another FILE"),
        (["index", "nan.jsonl", "-o", "x.index"], "nan.jsonl:2['n'] is nan, which JSON does not have"),
    ],
)
def test_error_is_one_line_that_says_what_to_do(run, place, arguments, message):
    write(place / "in.csv", "a,b", "1,2")
    write(place / "in.jsonl", '{"a": "x", "b": "y"}')
    write(place / "nan.jsonl", '{"text": "x", "n": 1}', '{"text": "y", "n": NaN}')
    write(place / "blank.txt", "", "  ")
    write(place / "in.xlsx", "x")
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert not (place / "x.index").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["notes.txt"], "give a COLLECTION to search in, and one text in quotation marks to search for"),
        (["notes.txt", "when", "is"], "give a COLLECTION to search in, and one text in quotation marks"),
        (["notes.txt", "q", "--query-image", "x.png"], "--query-image needs --images DIR"),
        (["--images", "."], "--images takes one query: a text in quotation marks, or --query-image FILE"),
        (["--images", ".", "notes.txt", "q"], "--images takes one query"),
        (["--images", ".", "--query-image", "x.png", "q"], "--images takes one query"),
        (["--images", ".", "q", "--column", "a"], "--column is for texts. It cannot be used with --images"),
    ],
)
def test_wrong_usage_of_search(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run("search", *arguments)
    assert stop.value.code == 2
    assert f"embedder search: error: {message}" in capsys.readouterr().err


def test_texts_from_standard_input(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a cat\na dog\n")))
    assert run("search", "-k", "1", "-", "a dog")[1] == "1.0000  stdin:2  a dog\n"


def test_texts_that_are_cut_are_counted(run, place):
    write(place / "in.txt", "a dog", "cat " * 99)
    warning = "embedder: warning: the model reads 16 tokens of a text. 1 text cut there, the first at in.txt:2\n"
    assert run("search", "in.txt", "a dog")[2] == warning
    run("index", "notes.txt", "-o", "in.index")
    assert run("index", "in.txt", "-o", "in.index")[2] == warning


def test_numbers_that_json_does_not_have_are_null_in_output(run, place):
    write(place / "in.jsonl", '{"text": "a cat", "n": NaN, "m": [{"k": -Infinity}, 1.5], "o": 1e999}')
    fields = {"n": None, "m": [{"k": None}, 1.5], "o": None}
    assert records(run("search", "in.jsonl", "a cat", "--json")[1])[0]["metadata"] == fields


def test_a_file_in_another_encoding_is_named_with_a_hint(run, place):
    (place / "notes").mkdir()
    (place / "notes/a.md").write_bytes("für".encode("latin-1"))
    write(place / "notes/b.md", "a dog")
    assert (
        "notes/a.md: it is not UTF-8: invalid start byte at byte 1. Save it as UTF-8"
        in run("search", "notes", "a dog")[2]
    )


def test_a_few_texts_about_different_things_are_no_cluster():
    vectors = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], np.float32)
    assert choose_threshold(vectors, 3) == 0.26


def test_index_keeps_texts_places_and_metadata(run, place):
    write(place / "in.jsonl", '{"text": "a cat", "n": 1}', '{"text": "a dog", "n": [2, null]}')
    status, out, err = run("index", "in.jsonl", "-o", "in.index")
    assert (status, out, err) == (0, "in.index: 2 texts (2 new, 0 kept, 0 removed)\n", "")
    index = embedder.VectorIndex.load("in.index")
    entry = index.get("in.jsonl:2")
    assert (entry.text, entry.metadata) == ("a dog", {"n": [2, None]})
    np.testing.assert_allclose(entry.vector, embedder.Embedder("tiny").encode("a dog"), atol=1e-6)
    assert run("search", "-k", "1", "in.index", "a dog", model=None)[1] == "1.0000  in.jsonl:2  a dog\n"


def test_index_encodes_only_what_is_new(run, place, monkeypatch):
    run("index", "notes.txt", "-o", "notes.index")
    encoded = []
    encode = embedder.Embedder.encode_readable

    def watched(model, texts, **options):
        encoded.extend(texts)
        return encode(model, texts, **options)

    monkeypatch.setattr(embedder.Embedder, "encode_readable", watched)
    assert "(0 new, 5 kept, 0 removed)" in run("index", "notes.txt", "-o", "notes.index")[1]
    assert encoded == []
    changed = ["a mat", *TEXTS[1:], "a dog"]  # a new first line, one text fewer, and a copy
    write(place / "notes.txt", *changed)
    status, out, _ = run("index", "--json", "notes.txt", "-o", "notes.index", model=None)
    assert (status, records(out)) == (0, [{"index": "notes.index", "texts": 6, "new": 2, "kept": 4, "removed": 1}])
    assert encoded == ["a mat"]
    index, model = embedder.VectorIndex.load("notes.index"), embedder.Embedder("tiny")
    wanted = {f"notes.txt:{line}": text for line, text in enumerate(changed, 1) if text}
    assert {id: index.get(id).text for id in index.ids} == wanted
    for id, text in wanted.items():
        np.testing.assert_allclose(index.get(id).vector, model.encode(text), atol=1e-6)


@pytest.fixture
def folder(place):
    """A directory of text files, other files, and a text file that is not UTF-8."""
    (place / "texts/below").mkdir(parents=True)
    write(place / "texts/a.md", "\ufeffthe cat sat", "", "on a mat . " * 10)
    write(place / "texts/below/b.TXT", "a dog")
    write(place / "texts/c.py", "a dog")
    write(place / "texts/empty.rst", "  ")
    return place / "texts"


def test_directory_is_cut_into_pieces_with_their_places(run, folder):
    assert run("index", "texts", "-o", "texts.index")[0] == 0
    index = embedder.VectorIndex.load("texts.index")
    entries = [index.get(id) for id in index.ids]
    assert {entry.metadata["file"] for entry in entries} == {"texts/a.md", "texts/below/b.TXT"}
    assert len(entries) > 4
    for entry in entries:
        path, line, column = entry.id.rsplit(":", 2)
        content = (folder.parent / path).read_text(encoding="utf-8-sig")
        assert path == entry.metadata["file"]
        assert content[entry.metadata["start"] : entry.metadata["end"]] == entry.text
        assert content.split("\n")[int(line) - 1][int(column) - 1 :].startswith(entry.text.split("\n")[0])
    assert run("search", "-k", "1", "texts", "a dog")[1] == "1.0000  texts/below/b.TXT:1:1  a dog\n"


def test_hidden_directories_are_left_out(run, folder):
    (folder / ".venv/lib").mkdir(parents=True)
    write(folder / ".venv/lib/readme.md", "a dog")
    found = [hit["id"] for hit in records(run("search", "-k", "99", "texts", "a dog", "--json")[1])]
    assert found[0] == "texts/below/b.TXT:1:1"
    assert not any(".venv" in place for place in found)


def test_file_of_a_directory_that_cannot_be_read_is_reported(run, folder):
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "gone.md").symlink_to("nowhere")
    (folder / "pipe.txt").symlink_to("/dev/null")
    status, out, err = run("index", "texts", "-o", "texts.index")
    assert (status, "texts.index: " in out) == (1, True)
    assert err.splitlines() == [
        "embedder: warning: texts/gone.md: No such file or directory",
        "embedder: warning: texts/latin.txt: it is not UTF-8: unexpected end of data at byte 3. Save it as UTF-8",
        "embedder: error: 2 files cannot be read, see the warnings. The result is of the others",
    ]


def test_index_does_not_mix_vectors_of_two_dtypes(run, place):
    add_int8_graph(place / "artifacts/tiny")
    run("index", "notes.txt", "-o", "notes.index")
    before = (place / "notes.index").read_bytes()
    write(place / "notes.txt", "a mat")
    status, _, err = run("index", "notes.txt", "-o", "notes.index", "--dtype", "int8")
    assert (status, "notes.index has vectors of dtype fp32. Vectors of dtype int8 differ slightly" in err) == (1, True)
    assert (place / "notes.index").read_bytes() == before
    assert run("index", "notes.txt", "-o", "other.index", "--dtype", "int8")[0] == 0
    assert run("index", "notes.txt", "-o", "other.index")[0] == 0  # it stays with its dtype


def test_interrupted_index_leaves_the_file(run, place, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    run("index", "notes.txt", "-o", "notes.index")
    before = (place / "notes.index").read_bytes()
    write(place / "notes.txt", "a mat")
    monkeypatch.setattr(embedder.Embedder, "encode_readable", interrupt)
    assert run("index", "notes.txt", "-o", "notes.index")[0] == 130
    assert (place / "notes.index").read_bytes() == before
    assert run("index", "notes.txt", "-o", "other.index")[0] == 130
    assert sorted(os.listdir()) == ["artifacts", "notes.index", "notes.txt"]


def test_index_of_a_program_is_not_brought_up_to_date_but_searched(run):
    model = embedder.Embedder("tiny")
    index = embedder.VectorIndex(model=model)
    index.add(["a dog", "the cat"], ids=[7, 8])
    index.add(model.encode(["b"]))
    index.save("own.index")
    status, _, err = run("index", "notes.txt", "-o", "own.index")
    assert (status, "own.index was made by a program, not by `embedder index`. Choose another FILE" in err) == (1, True)
    assert run("search", "-k", "1", "own.index", "a dog")[1] == "1.0000  7  a dog\n"
    assert records(run("duplicates", "--json", "--threshold=-1", "own.index", model=None)[1])[0]["size"] == 2
    index.delete([7, 8])
    index.save("own.index")
    status, _, err = run("clusters", "own.index", model=None)
    assert (status, "own.index has no texts. Make it with `embedder index`" in err) == (1, True)


def test_index_of_another_model(run, place):
    run("index", "notes.txt", "-o", "notes.index")
    (place / "artifacts/tiny").rename(place / "elsewhere")
    status, _, err = run("search", "notes.index", "a dog", model=None)
    assert status == 1
    assert (
        "notes.index was made by the model 'tiny', which is not on this machine under this name. Add --model with a "
        "name or path of it" in err
    )
    assert run("search", "-k", "1", "notes.index", "a dog", model="./elsewhere")[1] == "1.0000  notes.txt:2  a dog\n"
    index = embedder.VectorIndex(8)
    index.add(np.eye(8), texts=["text"] * 8)
    index.save("unknown.index")
    status, _, err = run("search", "unknown.index", "a dog", model=None)
    assert (status, "does not say which model made its vectors. Add --model NAME" in err) == (1, True)


@pytest.mark.parametrize(
    ("command", "option"), [("search", "--column"), ("duplicates", "--column"), ("clusters", "--dtype")]
)
def test_options_that_an_index_does_not_take(run, command, option):
    run("index", "notes.txt", "-o", "notes.index")
    words = ["notes.index", "q"] if command == "search" else ["notes.index"]
    status, _, err = run(command, *words, option, "fp32", model=None)
    assert (status, f"embedder: error: {option} cannot be used with an index" in err) == (1, True)


def test_duplicates(run):
    status, out, err = run("duplicates", "notes.txt", "--threshold", "0.95")
    assert status == 0
    model = embedder.Embedder("tiny")
    cosine = model.similarity(model.encode(TEXTS[0]), model.encode(TEXTS[4])).item()
    assert out == (
        "        notes.txt:1  the cat sat on the mat\n"
        " equal  notes.txt:4\n"
        f"{cosine:.4f}  notes.txt:5  the dog sat on the mat\n"
    )
    assert err.endswith("embedder: 5 texts, 3 without the copies in 1 group\n")
    (group,) = records(run("duplicates", "notes.txt", "--threshold", "0.95", "--json")[1])
    assert group["size"] == 3
    assert [(text["id"], text["exact"]) for text in group["texts"]] == [
        ("notes.txt:1", False), ("notes.txt:4", True), ("notes.txt:5", False)
    ]  # fmt: skip
    assert [text["score"] for text in group["texts"]] == [1, 1, round(cosine, 6)]


def test_groups_with_exact_copies_come_first(run, place):
    write(place / "in.txt", "the cat", "the cat sat", "1 2 3", "1 2 3", "a", *["query : document"] * 2)
    out = run("duplicates", "in.txt", "--threshold", "0.95")[1]
    assert re.findall(r"in\.txt:(\d)", out) == ["3", "4", "6", "7", "1", "2"]
    assert out.count("\n\n") == 2
    assert run("duplicates", "notes.txt", "--threshold", "1.1")[1].splitlines() == [
        "       notes.txt:1  the cat sat on the mat", "equal  notes.txt:4"
    ]  # fmt: skip


def test_clusters(run, place):
    lines = ["the cat", "the cat sat", "cat the", "1 2 3", "1 2 3 1", "3 2 1", "query : document"]
    write(place / "in.txt", *lines)
    status, out, err = run("clusters", "in.txt", "--threshold", "0.9")
    assert (status, err) == (0, "embedder: 7 texts: 6 in 2 clusters, 1 in none (threshold 0.9)\n")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["3", "3"]
    first, second, rest = records(run("clusters", "in.txt", "--threshold", "0.9", "--json")[1])
    assert first["title"] == first["members"][0]["text"]
    assert {member["id"] for member in first["members"]} == {"in.txt:1", "in.txt:2", "in.txt:3"}
    assert {member["id"] for member in second["members"]} == {"in.txt:4", "in.txt:5", "in.txt:6"}
    assert first["members"][0]["score"] == 1
    assert min(member["score"] for member in first["members"]) >= 0.9
    assert (rest["title"], rest["size"], rest["members"][0]["id"]) == (None, 1, "in.txt:7")


def test_chosen_threshold_lets_three_quarters_of_the_texts_be_central():
    vectors = np.repeat(np.eye(4, dtype=np.float32), [3, 3, 3, 2], axis=0) + np.float32(0.1)
    assert choose_threshold(vectors, 3) == 1.0
    assert choose_threshold(vectors, 4) < 0.9
    assert choose_threshold(vectors[:2], 3) == 1.0


@pytest.mark.parametrize(
    ("arguments", "text_of"),
    [
        (["search", "in.txt", "dog"], lambda record: record["text"]),
        (["duplicates", "in.txt"], lambda record: record["texts"][0]["text"]),
        (["clusters", "in.txt"], lambda record: record["title"]),
    ],
)
def test_hostile_text_drives_no_terminal(run, place, arguments, text_of):
    write(place / "in.txt", HOSTILE, HOSTILE, HOSTILE)
    for words in (arguments, [*arguments, "--json"]):
        status, out, _ = run(*words)
        assert (status, bool(out)) == (0, True)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)
    assert text_of(records(out)[0]) == HOSTILE


def test_long_texts_are_cut_to_the_line(run, place):
    write(place / "in.txt", "字" * 200, "the  cat\tsat " * 20)
    for line in run("search", "in.txt", "字")[1].splitlines():
        assert line.endswith("…")
        assert 98 <= len(line) + line.count("字") <= 100


def test_keywords_are_typical_of_their_group():
    texts = ["Rivers flood towns", "rivers flood the fields", "the stars shine", "stars shine over the towns", "x"]
    assert keywords(texts, [[0, 1], [2, 3], [4]], 2) == [["flood", "rivers"], ["shine", "stars"], []]
