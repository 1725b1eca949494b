"""Artifacts in Hub repositories: only the files that run are fetched, and what was fetched works without a network."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder.artifact import first_use
from embedder.artifact.artifact import Place
from embedder.artifact.locate import open_artifact
from embedder.errors import ArtifactError, ModelNotFoundError
from tests.hub_client import NOBODY, use_cache, use_hub
from tests.hub_faults import cut, on, relist, shorten, stall, status
from tests.hub_server import COMMIT, serve
from tests.tiny import add_image_graph, add_int8_graph, expected, flip_a_bit, ids_of, write_tiny_artifact

MANIFEST, FP32, INT8 = ["embedder.json"], ["model.onnx", "model.onnx.data"], ["model.int8.onnx", "model.int8.onnx.data"]
TOKENIZER = ["tokenizer.json"]

constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(first_use, "find_exporter", lambda: None)
    return use_cache(tmp_path / "hub-cache", monkeypatch)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    texts = write_tiny_artifact(folder / "texts")
    add_int8_graph(texts)
    (texts / "README.md").write_text("not needed")
    images = write_tiny_artifact(folder / "images")
    add_image_graph(images)
    with serve({"org/texts": texts, "org/images": images, "sentence-transformers/texts": texts}) as running:
        yield running


@pytest.fixture
def hub(server, monkeypatch):
    server.fetched.clear()
    server.requests.clear()
    server.faults.clear()
    use_hub(server.endpoint, monkeypatch)
    yield server
    server.faults.clear()


def assert_encodes(model):
    assert model.encode("the cat") == pytest.approx(expected(ids_of("the cat")), abs=1e-6)


@pytest.mark.parametrize(("dtype", "files"), [(None, FP32), ("fp32", FP32), ("int8", INT8)])
def test_only_the_files_of_the_dtype_are_fetched(hub, dtype, files):
    model = embedder.Embedder("org/texts", dtype=dtype)
    assert sorted(hub.fetched) == sorted([*MANIFEST, *TOKENIZER, *files])
    assert model.dtype == (dtype or "fp32")


def test_another_dtype_fetches_the_rest(hub):
    embedder.Embedder("org/texts", dtype="int8")
    hub.fetched.clear()
    assert_encodes(embedder.Embedder("org/texts"))
    assert sorted(hub.fetched) == FP32


def test_all_modalities_are_fetched_at_once(hub, monkeypatch):
    model = embedder.Embedder("org/images")
    assert {*MANIFEST, *TOKENIZER, *FP32, "image.onnx"} <= set(hub.fetched)
    use_hub(NOBODY, monkeypatch)
    assert model.encode(np.zeros((2, 2, 3), np.uint8)).shape == (8,)


def test_later_loads_ask_nothing(hub):
    embedder.Embedder("org/texts")
    hub.requests.clear()
    assert_encodes(embedder.Embedder("org/texts"))
    assert_encodes(embedder.Embedder("org/texts", local_files_only=True))
    assert_encodes(embedder.Embedder("org/texts", revision=COMMIT))
    assert hub.requests == []


def test_network_that_is_gone_after_the_first_load(hub, monkeypatch):
    model = embedder.Embedder("org/texts")
    use_hub(NOBODY, monkeypatch)
    assert_encodes(model)
    assert_encodes(embedder.Embedder("org/texts"))
    assert_encodes(pickle.loads(pickle.dumps(model)))
    with pytest.raises(ModelNotFoundError, match="could not be fetched from the Hub"):
        embedder.Embedder("org/texts", dtype="int8")
    with pytest.raises(ArtifactError, match="is missing: to fetch it, run: embedder pull org/texts"):
        embedder.Embedder("org/texts", dtype="int8", local_files_only=True)


def test_name_without_an_organisation(hub):
    assert_encodes(embedder.Embedder("texts"))


def test_origin_is_the_repository_at_its_commit(hub):
    artifact = open_artifact("org/texts")
    assert artifact.origin.place is Place.HUB
    assert str(artifact.origin) == f"Hub, org/texts@{COMMIT}"
    assert hub.fetched == MANIFEST


def test_later_commit_of_the_branch_does_not_mix_with_the_first(hub, tmp_path):
    first = open_artifact("org/texts")
    other = write_tiny_artifact(tmp_path / "other", max_seq_length=8)
    commit = hub.commit("org/texts", other)
    try:
        artifact = open_artifact("org/texts")
        assert artifact.directory == first.directory  # until the user asks for the newest
        artifact.ensure(artifact.manifest.files)
        assert embedder.Embedder("org/texts", revision=commit).max_seq_length == 8
    finally:
        hub.repositories["org/texts"].branches["main"] = COMMIT


def test_truncated_file_of_the_cache_is_removed_and_fetched_again(hub):
    directory = open_artifact("org/texts").directory
    embedder.Embedder("org/texts")
    blob = Path(os.path.realpath(directory / "model.onnx.data"))
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"model\.onnx\.data has .* truncated .*removed\. Run this again"):
        embedder.Embedder("org/texts")
    assert_encodes(embedder.Embedder("org/texts"))


def test_damaged_manifest_of_the_cache_is_removed_and_fetched_again(hub):
    directory = open_artifact("org/texts").directory
    flip_a_bit(Path(os.path.realpath(directory / "embedder.json")))
    with pytest.raises(ArtifactError, match=r"embedder\.json was damaged during the download.* Run this again"):
        embedder.Embedder("org/texts")
    assert_encodes(embedder.Embedder("org/texts"))


def test_download_that_differs_from_the_manifest_is_removed(hub):
    hub.faults.append(on(shorten(3), "*tokenizer.json", method="*"))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has been altered or damaged.*It has been removed"):
        embedder.Embedder("org/texts")
    hub.faults.clear()
    assert_encodes(embedder.Embedder("org/texts"))


def test_wrong_etag_of_a_right_file_does_no_harm(hub):
    def mislabel(request, answer):
        return answer.having(ETag='"' + "a" * 40 + '"')

    hub.faults.append(on(mislabel, "*tokenizer.json"))
    assert_encodes(embedder.Embedder("org/texts"))


def test_repository_whose_manifest_names_a_file_that_it_lacks(hub, tmp_path):
    lacking = write_tiny_artifact(tmp_path / "lacking")
    (lacking / "tokenizer.json").unlink()
    hub.commit("org/lacking", lacking)
    with pytest.raises(ModelNotFoundError, match=r"'org/lacking' at '0123.*' has no file tokenizer\.json"):
        embedder.Embedder("org/lacking")


def test_hub_that_asks_to_wait(hub):
    hub.faults.append(on(status(429, Retry_After="17"), "api/*"))
    with pytest.raises(ModelNotFoundError, match=r"had too many requests from here\. Try again in 17 seconds"):
        embedder.Embedder("org/texts")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(503), "the Hub has a problem of its own. Try again later"),
        (status(403), "the Hub refuses access to 'org/texts'"),
        (status(401), "the Hub refuses 'org/texts' without a valid token (status 401): check the name, and log in"),
        (status(404, X_Error_Code="RevisionNotFound"), "has no revision None"),
        (status(200, b"<html>log in to the network</html>"), "this is no answer of a Hub. Check HF_ENDPOINT"),
        (stall(), "the Hub did not answer in time. Try again; HF_HUB_DOWNLOAD_TIMEOUT sets"),
        (cut(), "check the connection, or give the path of a local copy of org/texts"),
    ],
)
def test_what_the_hub_answers_is_explained(hub, monkeypatch, fault, message):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    hub.faults.append(on(fault, "api/*"))
    with pytest.raises(ModelNotFoundError, match=re.escape(message)):
        embedder.Embedder("org/texts")
    hub.faults.clear()
    assert_encodes(embedder.Embedder("org/texts"))


def test_file_that_never_comes(hub, monkeypatch):
    """huggingface_hub alone would wait for six minutes."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    hub.faults.append(on(stall(), "*/tokenizer.json"))
    with pytest.raises(ModelNotFoundError, match="the Hub did not answer in time"):
        embedder.Embedder("org/texts")


def test_file_for_which_the_hub_asks_to_come_back_tomorrow(hub):
    """huggingface_hub alone would wait so long."""
    hub.faults.append(on(status(429, Retry_After="86400"), "*/tokenizer.json"))
    with pytest.raises(ModelNotFoundError, match="Try again in 86400 seconds"):
        embedder.Embedder("org/texts")


def test_listing_that_was_cut_short_is_asked_for_again(hub):
    def keep_the_manifest(files):
        files[:] = [file for file in files if file["rfilename"] == "embedder.json"]

    hub.faults.append(on(relist(keep_the_manifest), "api/models/*"))
    with pytest.raises(ModelNotFoundError, match=r"has no file .*tokenizer\.json"):
        embedder.Embedder("org/texts")
    hub.faults.clear()
    assert_encodes(embedder.Embedder("org/texts"))


def test_file_that_the_hub_has_lost(hub):
    hub.faults.append(on(status(404), "*/tokenizer.json"))
    with pytest.raises(ModelNotFoundError, match="the Hub lists the file but does not have it"):
        embedder.Embedder("org/texts")


def test_copy_with_some_of_the_dtypes_works_for_these(tmp_path):
    copy = write_tiny_artifact(tmp_path / "copy")
    add_int8_graph(copy)
    for name in FP32:
        (copy / name).unlink()
    assert embedder.Embedder(copy, dtype="int8").dtype == "int8"
    message = r"copy/model\.onnx is missing: export or copy the model again, or choose one of the dtypes .*, 'int8'$"
    with pytest.raises(ArtifactError, match=message):
        embedder.Embedder(copy)


def test_copy_without_a_graph(tiny):
    for name in FP32:
        (tiny / name).unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing: export or copy the model again$"):
        embedder.Embedder(tiny)
