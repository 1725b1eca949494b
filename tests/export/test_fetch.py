"""Which files of a checkpoint travel from the Hub, and what a partial copy in the cache counts for."""

import json
import os
import shutil
from pathlib import Path

import pytest
from embedder_export.checkpoint.fetch import fetch_checkpoint
from embedder_export.errors import CheckpointError

from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.artifact.hub_errors import HubUnreachableError
from embedder.errors import ArtifactError, ModelNotFoundError
from tests.hub_client import retry_at_once
from tests.hub_faults import damage, on, status
from tests.hub_server import COMMIT, serve

huggingface_hub = pytest.importorskip("huggingface_hub")
constants, file_download, hf_api = (
    pytest.importorskip(f"huggingface_hub.{name}") for name in ("constants", "file_download", "hf_api")
)
KEEPS_LISTINGS = hasattr(huggingface_hub, "get_cached_repo_tree")

MODULES = [
    {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for index, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")])
]
NAMES = (
    "config.json", "config_sentence_transformers.json", "sentence_bert_config.json", "special_tokens_map.json",
    "tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json", "2_Dense/config.json", "README.md", "vocab.txt",
)  # fmt: skip
# Each file has a content of its own, because the cache keeps the same content once.
SETTINGS = {"modules.json": json.dumps(MODULES).encode()} | {name: f'{{"of": "{name}"}}'.encode() for name in NAMES}
WEIGHTS = {"model.safetensors": b"weights", "2_Dense/model.safetensors": b"dense"}
OTHERS = {
    ".gitattributes": b"",
    "data_config.json": b"[]",
    "train_script.py": b"",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "rust_model.ot": b"rust",
    "pytorch_model.bin": b"pickle",
    "2_Dense/pytorch_model.bin": b"pickle",
    "onnx/config.json": b"{}",
    "onnx/model.onnx": b"onnx",
    "openvino/openvino_model.bin": b"openvino",
    "openvino/openvino_model.xml": b"openvino",
    "eval/results.json": b"{}",
}
REPOSITORY = SETTINGS | WEIGHTS | OTHERS
OFFLINE = HubAccess(local_files_only=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """The Hub's cache of this test."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    retry_at_once(monkeypatch)


@pytest.fixture
def serving(monkeypatch):
    """A function that runs a hub with the repository "org/name", and lets huggingface_hub ask it."""

    def start(files=REPOSITORY):
        running = serve({"org/name": files})
        hub = running.__enter__()
        point_to(hub.endpoint, monkeypatch)
        started.append(running)
        return hub

    started = []
    point_to("http://127.0.0.1:9", monkeypatch)
    yield start
    for running in started:
        running.__exit__(None, None, None)


def point_to(endpoint, monkeypatch):
    """Let huggingface_hub ask this hub. It reads HF_ENDPOINT when it is imported, which other tests may have done."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download, hf_api):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def fetch(access=DEFAULT_ACCESS):
    return fetch_checkpoint("org/name", access)


def test_settings_and_one_format_of_weights(serving):
    hub = serving()
    directory = fetch()
    assert directory.name == COMMIT
    assert sorted(hub.fetched) == sorted(SETTINGS | WEIGHTS)
    hub.fetched.clear()
    assert fetch() == directory
    assert hub.fetched == []


def test_pickles_travel_where_a_folder_has_no_safetensors(serving):
    hub = serving({name: REPOSITORY[name] for name in REPOSITORY if name != "model.safetensors"})
    fetch()
    travelled = sorted(set(hub.fetched) - set(SETTINGS))
    assert travelled == ["2_Dense/model.safetensors", "pytorch_model.bin"]


def test_weights_in_parts_travel_by_their_index(serving):
    index = json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode()
    parts = {"model-1-of-2.safetensors": b"1", "model-2-of-2.safetensors": b"2", "model-3.safetensors": b"another"}
    rest = {name: REPOSITORY[name] for name in REPOSITORY if name != "model.safetensors"}
    hub = serving({**rest, **parts, "model.safetensors.index.json": index})
    directory = fetch()
    assert sorted(name for name in hub.fetched if "safetensors" in name) == [
        "2_Dense/model.safetensors", "model-1-of-2.safetensors", "model-2-of-2.safetensors",
        "model.safetensors.index.json",
    ]  # fmt: skip
    assert (directory / "model-2-of-2.safetensors").read_bytes() == b"2"


def test_transformer_in_a_folder(serving):
    modules = SETTINGS["modules.json"].replace(b'"path": ""', b'"path": "0_Transformer"')
    files = {"0_Transformer/config.json": b"{}", "0_Transformer/model.safetensors": b"1", "model.safetensors": b"2"}
    hub = serving({"modules.json": modules, **files, "2_Dense/model.safetensors": b"3", "0_Transformer/a.h5": b"4"})
    fetch()
    assert sorted(hub.fetched) == ["0_Transformer/config.json", "0_Transformer/model.safetensors",
                                   "2_Dense/model.safetensors", "modules.json"]  # fmt: skip


def test_repository_that_is_no_checkpoint(serving):
    hub = serving({"unet/model.safetensors": b"1"})
    with pytest.raises(CheckpointError, match="org/name has neither modules"):
        fetch()
    assert hub.fetched == []


def test_revision(serving):
    hub = serving()
    commit = hub.commit("org/name", {**REPOSITORY, "model.safetensors": b"newer"}, branch="next")
    for revision in ("next", commit):
        directory = fetch(HubAccess(revision))
        assert (directory.name, (directory / "model.safetensors").read_bytes()) == (commit, b"newer")
    assert fetch().name == COMMIT
    with pytest.raises(ModelNotFoundError, match="has no revision 'none'"):
        fetch(HubAccess("none"))


@pytest.mark.parametrize("name", ["model.safetensors", "config_sentence_transformers.json", "modules.json"])
def test_damaged_download_of_the_right_length_is_found_and_fetched_again(serving, name):
    hub = serving()
    hub.faults.append(on(damage(), f"*/{name}", method="GET", times=1))
    with pytest.raises(ArtifactError, match=f"{name} was damaged during the download"):
        fetch()
    assert (fetch() / name).read_bytes() == REPOSITORY[name]


@pytest.mark.parametrize("access", [HubAccess(), OFFLINE, HubAccess(COMMIT), HubAccess("main", local_files_only=True)])
def test_fetched_checkpoint_needs_no_network(serving, monkeypatch, access):
    serving()
    directory = fetch()
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetch(access) == directory


def test_nothing_is_cached(serving):
    for access in (HubAccess(), OFFLINE):
        with pytest.raises(HubUnreachableError):
            fetch(access)


@pytest.mark.parametrize("lost", [*SETTINGS, *WEIGHTS])
def test_partial_copy_of_ours_is_never_read(serving, monkeypatch, lost):
    """Files whose loss changes nothing may be missing: the card, and the vocabulary beside tokenizer.json."""
    serving()
    directory = fetch()
    point_to("http://127.0.0.1:9", monkeypatch)
    (directory / lost).unlink()
    for access in (HubAccess(), OFFLINE):
        if lost in ("README.md", "vocab.txt"):
            assert fetch(access) == directory
        else:
            with pytest.raises(HubUnreachableError):
                fetch(access)


@pytest.mark.parametrize("interrupted", [*SETTINGS, *WEIGHTS])
def test_interrupted_fetch_is_completed_later_and_never_read_before(serving, monkeypatch, interrupted):
    hub = serving()
    hub.faults.append(on(status(404, b"{}"), f"*/{interrupted}", times=1))
    with pytest.raises(ModelNotFoundError):
        fetch()
    with pytest.raises((ModelNotFoundError, CheckpointError)):
        fetch(OFFLINE)
    assert (fetch() / interrupted).read_bytes() == REPOSITORY[interrupted]
    assert fetch(OFFLINE).name == COMMIT


def download_all(**options):
    return Path(huggingface_hub.snapshot_download("org/name", cache_dir=constants.HF_HUB_CACHE, **options))


def test_copy_made_by_hf_download_needs_no_network(serving, monkeypatch):
    serving()
    directory = download_all()
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetch(OFFLINE) == directory
    assert fetch() == directory


def test_copy_made_by_single_downloads_needs_no_network(serving, monkeypatch):
    """sentence-transformers asks for files by name, and the cache notes which ones do not exist."""
    files = {name: REPOSITORY[name] for name in REPOSITORY if name != "special_tokens_map.json"}
    serving(files)
    for name in (*(SETTINGS | WEIGHTS), "special_tokens_map.json"):
        if name in files:
            huggingface_hub.hf_hub_download("org/name", name, cache_dir=constants.HF_HUB_CACHE)
        else:
            with pytest.raises(huggingface_hub.utils.EntryNotFoundError):
                huggingface_hub.hf_hub_download("org/name", name, cache_dir=constants.HF_HUB_CACHE)
    point_to("http://127.0.0.1:9", monkeypatch)
    assert fetch(OFFLINE).name == COMMIT


USUAL = [
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json",
]  # fmt: skip


@pytest.mark.parametrize("lost", USUAL)
@pytest.mark.parametrize("keeps_listing", [True, False])
def test_partial_copy_of_another_program_is_never_read(serving, monkeypatch, lost, keeps_listing):
    serving({**REPOSITORY, "config.json": b'{"vision_config": {}}', "preprocessor_config.json": b"{ }"})
    directory = download_all()
    point_to("http://127.0.0.1:9", monkeypatch)
    (directory / lost).unlink()
    if not keeps_listing:
        shutil.rmtree(directory.parents[1] / "trees", ignore_errors=True)
        monkeypatch.setattr("embedder.artifact.hub_listing._files_of_huggingface_hub", lambda *arguments: None)
    for access in (HubAccess(), OFFLINE):
        with pytest.raises((HubUnreachableError, CheckpointError)) as failure:
            fetch(access)
        if not keeps_listing:
            assert "cache may have only a part of org/name: it has no " + lost in str(failure.value)
            assert f"give its path: {directory}" in str(failure.value)


def test_partial_copy_is_completed_when_the_network_is_back(serving):
    serving()
    directory = download_all(allow_patterns=["config.json", "tokenizer*", "model.safetensors"])
    assert not os.path.exists(directory / "modules.json")
    assert fetch() == directory
    assert (directory / "modules.json").is_file()


def test_modules_of_a_router_and_heads_beside_the_modules(serving):
    """A router names its modules in its own settings. BGE-M3 has its other heads beside modules.json."""
    router = {
        "types": {
            "query_0": "s.SparseStaticEmbedding",
            "document_0": "s.MLMTransformer",
            "document_1": "s.SpladePooling",
        },
        "structure": {"query": ["query_0"], "document": ["document_0", "document_1"]},
        "parameters": {"default_route": "document"},
    }
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}]
    needed = {
        "modules.json": json.dumps(modules).encode(),
        "router_config.json": json.dumps(router).encode(),
        "query_0/model.safetensors": b"weights of words",
        "query_0/tokenizer.json": b"tokenizer of queries",
        "document_0/config.json": b"{}",
        "document_0/model.safetensors": b"weights",
        "document_1/config.json": b'{"pooling_strategy": "max"}',
        "sparse_linear.pt": b"sparse",
        "colbert_linear.pt": b"colbert",
    }
    serving(needed | {"document_0/pytorch_model.bin": b"pickle", "other/model.safetensors": b"other"})
    directory = fetch_checkpoint("org/name", DEFAULT_ACCESS)
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert found == set(needed)
