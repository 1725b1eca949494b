"""`embedder map`: the page, its data, and how hostile texts stay texts."""

import base64
import hashlib
import html
import io
import json
import re
import sys
import types

import numpy as np
import pytest

import embedder
from embedder.cli import map as map_command
from embedder.cli.main import main

HOSTILE = [
    "</script><script>hacked()</script>",
    "<!-- <script> & &lt; \"'` ]]>",
    "line\u2028paragraph\u2029 NUL \x00 \x1b[31m \x9b31m \u202e",
    "__DATA____TITLE__",
    "字 é 🦄",
]


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """A function that runs `embedder map` in an empty directory, and returns its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["map", "--model", str(tiny), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def page_of(path):
    """Return the page, and the value of its data."""
    page = path.read_text(encoding="utf-8")
    return page, json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def test_page_has_the_texts_with_their_places_and_clusters(run, tmp_path, tiny):
    texts = ["the cat", "the cat sat", "cat the", "1 2 3", "1 2 3 1", "3 2 1", *["query : document"] * 2]
    write_jsonl(tmp_path / "in.jsonl", texts)
    status, out, err = run("in.jsonl", "--threshold", "0.9", "--layout", "neighbours")
    assert (status, out) == (0, "map.html\n")
    assert err == "embedder: 8 texts: 6 in 2 clusters, 2 in none (threshold 0.9)\n"
    _, data = page_of(tmp_path / "map.html")
    assert (data["title"], data["count"], data["texts"]) == ("in.jsonl", "8 texts", texts)
    assert data["places"] == [f"in.jsonl:{line}" for line in range(1, 9)]
    assert sorted({*data["cluster"][:3]}) != sorted({*data["cluster"][3:6]})
    assert data["cluster"][6:] == [-1, -1]
    assert [cluster["size"] for cluster in data["clusters"]] == [3, 3]
    assert data["clusters"][0]["title"] in texts
    assert all(0 <= x <= data["width"] and 0 <= y <= data["height"] for x, y in zip(data["x"], data["y"], strict=True))
    assert max(data["width"], data["height"]) == 1
    assert "Layout: each text is near the 10 texts that are most like it" in data["notes"][0]
    assert data["notes"][1] == "Clusters: 8 texts: 6 in 2 clusters, 2 in none (threshold 0.9)."


def test_hostile_texts_stay_texts(run, tmp_path):
    write_jsonl(tmp_path / "<b>.jsonl", HOSTILE)
    assert run("<b>.jsonl", "-o", "page.html")[0] == 0
    page, data = page_of(tmp_path / "page.html")
    assert data["texts"] == HOSTILE
    assert page.count("<script") == 2
    assert "hacked()</script>" not in page
    assert "<title>&lt;b&gt;.jsonl</title>" in page
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", page)


def test_policy_allows_the_script_and_the_style_of_the_page_alone(run, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ["a"])
    run("in.jsonl")
    page, _ = page_of(tmp_path / "map.html")
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    digests = {
        kind: base64.b64encode(
            hashlib.sha256(re.search(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)[1].encode()).digest()
        )
        for kind in ("script", "style")
    }
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digests['script'].decode()}'; "
        f"style-src 'sha256-{digests['style'].decode()}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"\s(src|href|style|on\w+)=[\"']", page)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval|Function\(|https?:", page)


def test_title_is_the_name_of_the_collection(run, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("the cat", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "notes")
    run(".", "-o", "../map.html")
    assert page_of(tmp_path / "map.html")[1]["title"] == "notes"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a dog")))
    run("-", "-o", "../map.html")
    assert page_of(tmp_path / "map.html")[1]["title"] == "stdin"


def test_long_texts_are_cut_and_the_page_says_so(run, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ["cat " * 400, "dog"])
    assert run("in.jsonl")[0] == 0
    _, data = page_of(tmp_path / "map.html")
    assert data["texts"][0] == ("cat " * 400)[:1000] + "…"
    assert "The page has the first 1,000 characters of each text. 1 text had more." in data["notes"]


def test_points_as_lines_of_json(run, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ["a", "b", "1"])
    points = [json.loads(line) for line in run("in.jsonl", "--json", "--threshold", "1")[1].splitlines()]
    assert [(point["id"], point["text"], point["cluster"]) for point in points] == [
        ("in.jsonl:1", "a", None), ("in.jsonl:2", "b", None), ("in.jsonl:3", "1", None)
    ]  # fmt: skip
    assert len({(point["x"], point["y"]) for point in points}) == 3


def test_pca_names_its_share_of_the_variance(run, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ["a", "b", "1", "2", "cat", "dog", "mat", "é", "字"])
    run("in.jsonl", "--layout", "pca")
    _, data = page_of(tmp_path / "map.html")
    assert re.fullmatch(
        r"Layout: the two directions in which the texts differ most \(PCA\), with \d\d % of their variance.",
        data["notes"][0],
    )


@pytest.fixture
def umap(monkeypatch):
    """A module that stands for umap-learn. Its `calls` have the options that it was called with."""
    module = types.ModuleType("umap")
    module.calls = []

    class Umap:
        def __init__(self, **options):
            module.calls.append(options)

        def fit_transform(self, vectors):
            return vectors[:, :2]

    module.UMAP = Umap
    monkeypatch.setitem(sys.modules, "umap", module)
    return module


def test_umap(run, tmp_path, umap):
    write_jsonl(tmp_path / "in.jsonl", ["a", "b", "1", "2", "cat", "dog", "mat", "é", "字"])
    assert run("in.jsonl", "--layout", "umap")[0] == 0
    assert umap.calls == [{"n_neighbors": 8, "metric": "cosine", "random_state": 0, "verbose": False}]
    _, data = page_of(tmp_path / "map.html")
    assert data["notes"][0] == "Layout: UMAP. Distances between far groups mean little."


def test_automatic_layout_is_umap_where_it_is_installed(run, tmp_path, umap, monkeypatch):
    write_jsonl(tmp_path / "in.jsonl", ["a"] * 8)
    for installed, count in ((object(), 1), (None, 0)):
        umap.calls.clear()
        monkeypatch.setattr(map_command, "find_spec", lambda name, installed=installed: installed)
        assert run("in.jsonl")[0] == 0
        assert len(umap.calls) == count


def test_umap_that_is_not_installed(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    write_jsonl(tmp_path / "in.jsonl", ["a"] * 8)
    status, _, err = run("in.jsonl", "--layout", "umap")
    assert status == 1
    assert 'layout umap needs umap, which is not installed. Run: pip install "embedder-onnx[map]"' in err
    assert not (tmp_path / "map.html").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("in.jsonl", "-o names the collection itself. Choose another name for the page, such as map.html"),
        ("no/map.html", "is not a directory"),
        (".", ". cannot be written: it is a directory"),
    ],
)
def test_page_that_cannot_be_written(run, tmp_path, output, message):
    write_jsonl(tmp_path / "in.jsonl", ["a"])
    before = (tmp_path / "in.jsonl").read_bytes()
    status, out, err = run("in.jsonl", "-o", output)
    assert (status, out) == (1, "")
    assert message in err
    assert (tmp_path / "in.jsonl").read_bytes() == before


def test_map_of_an_index_needs_no_model(run, tmp_path):
    index = embedder.VectorIndex(4)
    index.add(np.eye(4), ids=["a", "b", "c", "d"], texts=["one", "two", "three", "\ufffd"])
    index.save(tmp_path / "own.index")
    assert main(["map", "own.index"]) == 0
    assert page_of(tmp_path / "map.html")[1]["places"] == ["a", "b", "c", "d"]


def test_page_is_drawn_as_soon_as_it_has_a_size(run, tmp_path):
    write_jsonl(tmp_path / "in.jsonl", ["a"])
    run("in.jsonl")
    page, _ = page_of(tmp_path / "map.html")
    resize = re.search(r"\nfunction resize\(\) \{(.*?)\n\}", page, re.DOTALL)[1]
    assert re.search(r"\n  draw\(\);[^\n]*$", resize)  # a planned frame would leave the emptied canvas blank until then
