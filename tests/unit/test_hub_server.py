"""The hub of the tests speaks to huggingface_hub as the Hugging Face Hub does, and fails as it is told to."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_client import retry_at_once
from tests.hub_faults import (
    announce,
    cut,
    damage,
    exchange,
    header,
    lengthen,
    on,
    redirect_for_ever,
    relist,
    shorten,
    stall,
    status,
)
from tests.hub_server import COMMIT, GATED, blob_id, serve

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
errors = pytest.importorskip("huggingface_hub.errors")

SMALL, LARGE = b'{"a": 1}', bytes(range(256)) * 64
FILES = {"config.json": SMALL, "onnx/model.onnx": LARGE}


@pytest.fixture
def hub():
    with serve({"org/small": FILES}) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _fail_fast(monkeypatch):
    """Wait neither long for an answer nor before the next try."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    retry_at_once(monkeypatch)


def download(hub, directory, **options):
    options = {"endpoint": hub.endpoint, "cache_dir": directory, "etag_timeout": 0.2, "max_workers": 1} | options
    return Path(huggingface_hub.snapshot_download("org/small", **options))


def blobs(snapshot):
    return {path.name for path in (snapshot.parents[1] / "blobs").iterdir()}


def api(hub, token=None):
    return huggingface_hub.HfApi(hub.endpoint, token=token)


def test_download(hub, tmp_path):
    snapshot = download(hub, tmp_path)
    assert snapshot.name == COMMIT
    assert {name: (snapshot / name).read_bytes() for name in FILES} == FILES
    assert blobs(snapshot) == {blob_id(SMALL), hashlib.sha256(LARGE).hexdigest()}
    assert sorted(hub.fetched) == sorted(FILES)


def test_directory_is_read_anew_at_each_request(hub, tmp_path):
    (tmp_path / "onnx").mkdir()
    hub.commit("org/small", tmp_path)
    for content in (b"1", b"2"):
        (tmp_path / "onnx/model.onnx").write_bytes(content)
        (file,) = api(hub).model_info("org/small", files_metadata=True).siblings
        assert (file.rfilename, file.lfs.sha256) == ("onnx/model.onnx", hashlib.sha256(content).hexdigest())


def test_listing(hub):
    small, large = api(hub).model_info("org/small", files_metadata=True).siblings
    assert (small.rfilename, small.size, small.blob_id, small.lfs) == ("config.json", 8, blob_id(SMALL), None)
    assert (large.size, large.lfs.sha256) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    tree = {file.path: file for file in api(hub).list_repo_tree("org/small", recursive=True)}
    assert tree["config.json"].blob_id == blob_id(SMALL)
    assert tree["onnx/model.onnx"].lfs.sha256 == large.lfs.sha256


def test_revisions(hub, tmp_path):
    newer = hub.commit("org/small", {"config.json": b"{}"}, branch="next")
    assert newer != COMMIT
    for revision in ("next", newer):
        snapshot = download(hub, tmp_path, revision=revision)
        assert (snapshot.name, (snapshot / "config.json").read_bytes()) == (newer, b"{}")
    assert download(hub, tmp_path).name == COMMIT
    with pytest.raises(errors.RevisionNotFoundError):
        download(hub, tmp_path, revision="none")


@pytest.mark.parametrize(
    ("repository", "error"),
    [(GATED, errors.GatedRepoError), ("org/none", errors.RepositoryNotFoundError)],
)
def test_repositories_that_cannot_be_read(hub, repository, error):
    with pytest.raises(error):
        api(hub).model_info(repository)


def test_token(hub):
    hub.token = "secret"
    assert api(hub, "secret").model_info("org/small").sha == COMMIT
    with pytest.raises(errors.RepositoryNotFoundError, match="401"):
        api(hub, False).model_info("org/small")
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        api(hub, "wrong").model_info("org/small")
    hub.may_write = False
    with pytest.raises(errors.HfHubHTTPError, match="403 Forbidden"):
        api(hub, "secret").create_repo("org/new")


_UPLOAD = """
import sys
from huggingface_hub import HfApi

HfApi().create_repo("org/new", exist_ok=True)
print(HfApi().upload_folder(repo_id="org/new", folder_path=sys.argv[1]).oid)
"""


@pytest.mark.slow
def test_upload(hub, tmp_path):
    """The addresses of a new repository are read by the variable HF_ENDPOINT, so the upload is a process of its own."""
    environment = dict(os.environ, HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1")

    def upload():
        command = [sys.executable, "-c", _UPLOAD, tmp_path]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    for name, content in {"README.md": b"---\nlicense: mit\n---\n", "big.onnx": LARGE}.items():
        (tmp_path / name).write_bytes(content)
    for _ in range(2):  # the second time the repository is there, and so are the files
        answer = upload()
        assert answer.returncode == 0, answer.stderr
        assert hub.files("org/new", answer.stdout.strip())["big.onnx"] == LARGE
    assert set(hub.files("org/new")) == {".gitattributes", "README.md", "big.onnx"}
    (tmp_path / "README.md").write_bytes(b"---\nlicense: [\n---\n")
    assert "Invalid metadata in README.md" in upload().stderr


@pytest.mark.parametrize("code", [401, 404, 429, 500, 503])
def test_status_codes(hub, tmp_path, code):
    hub.faults.append(on(status(code, b"{}", Retry_After="0")))
    with pytest.raises((errors.HfHubHTTPError, errors.LocalEntryNotFoundError)):
        download(hub, tmp_path)
    with pytest.raises(errors.HfHubHTTPError, match=str(code)):
        api(hub).model_info("org/small")


@pytest.mark.parametrize(
    "fault",
    [
        on(cut(-1), "*model.onnx", method="GET", times=1, skip=1),
        on(stall(100), "*model.onnx", method="GET", times=1),
        on(status(429, Retry_After="0"), "*model.onnx", method="GET", times=1, skip=1),
    ],
)
def test_faults_that_huggingface_hub_mends(hub, tmp_path, fault):
    hub.faults.append(fault)
    assert (download(hub, tmp_path) / "onnx/model.onnx").read_bytes() == LARGE


@pytest.mark.parametrize(
    "fault",
    [
        stall(),
        cut(),
        shorten(10),
        lengthen(b"more"),
        announce(10),
        announce(len(LARGE) + 10),
        exchange(b"<html>"),
        redirect_for_ever(),
    ],
)
def test_faults_that_fail(hub, tmp_path, fault):
    hub.faults.append(on(fault, "*model.onnx", method="GET"))
    with pytest.raises(Exception, match=r".") as failure:
        download(hub, tmp_path)
    assert not isinstance(failure.value, AssertionError)
    assert not list(tmp_path.rglob("model.onnx"))


def test_connection_that_is_cut_within_a_file(hub, tmp_path):
    """Version 2 of huggingface_hub fetches the rest. Older versions fail."""
    hub.faults.append(on(cut(100), "*model.onnx", method="GET", times=1))
    try:
        download(hub, tmp_path)
    except OSError:
        assert not list(tmp_path.rglob("model.onnx"))
        download(hub, tmp_path)
    (path,) = tmp_path.rglob("model.onnx")
    assert path.read_bytes() == LARGE


def test_faults_that_pass(hub, tmp_path):
    hub.faults.append(on(damage(), "*model.onnx", method="GET"))
    hub.faults.append(on(header(ETag='"odd"', X_Linked_Etag=None), "*config.json"))
    snapshot = download(hub, tmp_path)
    assert (snapshot / "onnx/model.onnx").read_bytes() == bytes([1]) + LARGE[1:]
    assert "odd" in blobs(snapshot)


def test_wrong_sizes_in_the_listing(hub):
    hub.faults.append(relist(lambda files: [file.update(size=1) for file in files]))
    assert {file.size for file in api(hub).model_info("org/small", files_metadata=True).siblings} == {1}
    assert {file.size for file in api(hub).list_repo_tree("org/small", recursive=True)} == {1}
