"""The tables of the most used models are what the exporter says of their settings."""

import json

import pytest

from benchmarks.pages import with_tables
from benchmarks.popular_models import __main__ as popular
from benchmarks.popular_models.models import DEFAULT, TASKS, Model, fetch_model, read_models, write_model
from tests.hub_client import NOBODY, use_cache, use_hub
from tests.hub_server import serve

MODELS = read_models()
BERT = {"model_type": "bert", "architectures": ["BertModel"]}
FILES = {
    "config.json": json.dumps(BERT).encode(),
    "model.safetensors": b"weights",
    "onnx/config.json": b"{}",
    "tokenizer.json": b"vocabulary",
    "tokenizer_config.json": json.dumps(
        {"tokenizer_class": "BertTokenizer", "chat_template": "long", "added_tokens_decoder": {"0": {}}}
    ).encode(),
    "README.md": b"",
}


@pytest.fixture(scope="module")
def tables():
    return popular.describe(MODELS)


@pytest.mark.slow
def test_tables_are_those_of_this_exporter(tables):
    """`make models` writes both files anew after a change of the exporter."""
    page = popular.PAGE.read_text(encoding="utf-8")
    assert with_tables(page, tables, popular.PAGE_MARKS) == page
    assert popular.RESULT.read_text(encoding="utf-8") == f"{tables}\n\n{popular.describe_copies(MODELS)}\n"


@pytest.mark.slow
@pytest.mark.parametrize("text", ["safetensors", "the weights lack", "holds the tensors"])
def test_no_verdict_speaks_of_weights(tables, text):
    """A stage that reads weights must go through `read_weights` or `read_arrays`, so that a check needs none."""
    assert text not in tables


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_files_are_well_formed(model):
    assert model.task in TASKS
    assert model.origins[DEFAULT]
    assert model.origins.keys() - {DEFAULT} <= model.files.keys()
    assert popular.architecture(model)


def test_table():
    files = {"config.json": BERT, "vocab.txt": None}
    models = [
        Model("org/a", "embeddings", {DEFAULT: "written from memory", "config.json": "read in a copy: here"}, files),
        Model("org/b", "sparse", {DEFAULT: "the Hub"}, {"config.json": {"model_type": "a|b"}, "tokenizer.json": None}),
    ]
    lines = popular.describe(models).splitlines()
    assert lines[0] == "2 models: 1 native, 1 with `[torch]`, 0 refused."
    assert "### Embeddings" in lines
    assert "| `org/a` | BertModel | native |  | copy |" in lines
    row = next(line for line in lines if "org/b" in line)
    assert row.startswith("| `org/b` |  | with `[torch]` | config.json has 'a\\|b' as model_type; the tokenizer cannot")
    assert row.endswith("| Hub |")
    assert popular.describe_copies(models).splitlines()[-1] == "- `org/a`, config.json: read in a copy: here"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A directory with one model, and the cache of the Hub empty."""
    use_cache(tmp_path / "cache", monkeypatch)
    directory = tmp_path / "files"
    directory.mkdir()
    write_model(Model("org/name", "embeddings", {DEFAULT: "written from memory"}, {"config.json": {}}), directory)
    return directory


def test_fetch(kept, monkeypatch):
    with serve({"org/name": FILES}) as hub:
        use_hub(hub.endpoint, monkeypatch)
        assert popular.fetch_all(kept) == 0
        assert set(hub.fetched) == {"config.json", "tokenizer_config.json"}
    tokenizer = {"tokenizer_class": "BertTokenizer", "chat_template": "...", "added_tokens_decoder": {}}
    files = {"config.json": BERT, "tokenizer.json": None, "tokenizer_config.json": tokenizer}
    assert read_models(kept) == [Model("org/name", "embeddings", {DEFAULT: "the Hub"}, files)]
    assert fetch_model(read_models(kept)[0]).files == files


def test_fetch_that_fails_changes_nothing(kept, monkeypatch, capsys):
    before = read_models(kept)
    use_hub(NOBODY, monkeypatch)
    assert popular.fetch_all(kept) == 1
    assert read_models(kept) == before
    assert "org/name: " in capsys.readouterr().err


def test_command(kept, monkeypatch, tmp_path):
    result, page = tmp_path / "models.md", tmp_path / "page.md"
    page.write_text("before\n{}old{}\nafter\n".format(*popular.PAGE_MARKS))
    for name, value in (("FILES", kept), ("RESULT", result), ("PAGE", page)):
        monkeypatch.setattr(popular, name, value)
    monkeypatch.setattr(popular, "read_models", lambda directory=kept: read_models(directory))
    assert popular.main([]) == 0
    assert popular.main(["--fetch"]) == 1
    assert "1 models: " in result.read_text()
    assert "| `org/name` |" in page.read_text()
