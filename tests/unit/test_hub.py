"""Fetch from a small hub on this machine. What is cached, what is asked for, and what the message says if it fails."""

import errno
import hashlib
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from embedder.artifact.hub import check_fetched, fetch
from embedder.artifact.hub_access import HubAccess, is_repository_id
from embedder.artifact.hub_errors import HubUnreachableError, RepositoryFileError, describe
from embedder.errors import ArtifactError, InputError, ModelNotFoundError
from tests.hub_client import NOBODY, use_cache, use_hub
from tests.hub_server import COMMIT, GATED, serve

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
hub_errors = pytest.importorskip("huggingface_hub.errors")
TOKEN = "hf_secretsecretsecret"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return use_cache(tmp_path / "hub-cache", monkeypatch)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    (repository / "sub").mkdir()
    for name in ("a.json", "b.json", "sub/c.bin"):
        (repository / name).write_text(name)
    with serve({"org/name": repository}) as running:
        yield running


@pytest.fixture
def hub(server, monkeypatch):
    server.fetched.clear()
    use_hub(server.endpoint, monkeypatch)
    return server


def test_only_what_matches_is_fetched(hub):
    directory = fetch("org/name", ["a.json", "sub/*"])
    assert (directory / "a.json").read_text() == "a.json"
    assert (directory / "sub/c.bin").read_text() == "sub/c.bin"
    assert sorted(hub.fetched) == ["a.json", "sub/c.bin"]
    assert directory.name == COMMIT


def test_one_more_file_without_a_network_is_an_error_at_once(hub, monkeypatch):
    fetch("org/name", ["a.json"])
    use_hub(NOBODY, monkeypatch)
    # huggingface_hub would try again for half a minute.
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: pytest.fail("it tries again"))
    with pytest.raises(HubUnreachableError, match="check the connection"):
        fetch("org/name", ["b.json"], HubAccess(COMMIT))


def test_answer_of_another_server_names_the_endpoint():
    class FileMetadataError(OSError):
        pass

    error = describe(FileMetadataError("no commit. Behind a proxy?"), "org/name", None, [])
    assert str(error).endswith("this is no answer of a Hub. Check HF_ENDPOINT and the proxy")


def test_cached_files_need_no_network(hub, monkeypatch):
    directory = fetch("org/name", ["a.json"])
    use_hub(NOBODY, monkeypatch)
    assert fetch("org/name", ["a.json"]) == directory
    assert fetch("org/name", ["a.json"], cached_first=True) == directory
    assert fetch("org/name", ["a.json"], HubAccess(local_files_only=True)) == directory
    assert fetch("org/name", ["a.json"], HubAccess(COMMIT)) == directory


def test_cached_first_asks_nothing(hub, monkeypatch):
    directory = fetch("org/name", ["a.json"])
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert fetch("org/name", ["a.json"], cached_first=True) == directory


def test_cached_first_fetches_what_is_missing(hub):
    fetch("org/name", ["a.json"])
    directory = fetch("org/name", ["a.json", "b.json"], cached_first=True)
    assert (directory / "b.json").is_file()


@pytest.mark.parametrize("wanted", [["a.json", "b.json"], ["*.json"]])
@pytest.mark.parametrize("access", [HubAccess(), HubAccess(COMMIT), HubAccess(local_files_only=True)])
def test_part_of_a_snapshot_is_never_taken_for_all_of_it(hub, monkeypatch, wanted, access):
    fetch("org/name", ["a.json"])
    use_hub(NOBODY, monkeypatch)
    with pytest.raises(HubUnreachableError, match="'org/name'"):
        fetch("org/name", wanted, access)


def test_snapshot_of_another_program_is_not_sure_to_be_complete(hub, monkeypatch):
    huggingface_hub.hf_hub_download("org/name", "a.json")
    directory = fetch("org/name", ["*.json"], cached_first=True)
    assert (directory / "b.json").is_file()


def test_local_files_only_never_asks(hub):
    with pytest.raises(HubUnreachableError, match=r"'org/name' at 'v1', and local_files_only forbids a fetch"):
        fetch("org/name", ["a.json"], HubAccess("v1", local_files_only=True))
    assert hub.fetched == []


def test_file_that_the_repository_does_not_have(hub):
    with pytest.raises(RepositoryFileError, match=r"the Hub repository 'org/name' has no file embedder\.json"):
        fetch("org/name", ["a.json", "embedder.json"])
    assert hub.fetched == []


def test_pattern_that_matches_nothing(hub):
    assert fetch("org/name", ["*.none"]).name == COMMIT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/nobody", r"the Hub has no repository 'org/nobody': check the name; if it is private, log in"),
        (
            "sentence-transformers/nobody",
            "check the name, and give the organisation if it is another one, such as 'cross-encoder/nobody'; if it",
        ),
        (GATED, "the Hub repository 'org/gated' is gated: accept its terms on its page, then log in"),
        ("org/a--b", "the Hub has no repository 'org/a--b': this is not a possible name"),
    ],
)
def test_repository_that_cannot_be_had(hub, name, message):
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        fetch(name, ["a.json"])
    assert not isinstance(caught.value, HubUnreachableError)


def answer(status, **headers):
    response = SimpleNamespace(status_code=status, headers=headers, request=None, url="http://hub")
    return hub_errors.HfHubHTTPError(f"\n\nstatus {status}\nmore of no use", response=response)


def of(kind):
    response = SimpleNamespace(status_code=404, headers={}, request=None, url="http://hub")
    return getattr(hub_errors, kind)("no", response=response)


REACHED = [
    (answer(401), "refuses 'org/name' without a valid token .status 401.: check the name, and log in with `hf auth"),
    (answer(403), "refuses access to 'org/name' .status 403.: check the rights of your token"),
    (answer(404), "the Hub lists the file but does not have it. Try again later"),
    (of("RevisionNotFoundError"), "'org/name' has no revision 'v1': check the branch, tag or commit"),
    (OSError(errno.ENOSPC, "no space left"), "make room on the disk of the Hub's cache, which HF_HOME names"),
    (PermissionError(errno.EACCES, "denied", "/cache"), "the Hub's cache cannot be written. Set HF_HOME"),
    (OSError(errno.EROFS, "read-only", "/cache"), "the Hub's cache cannot be written. Set HF_HOME"),
    (NotADirectoryError(errno.ENOTDIR, "no", "/cache"), "check the directory of the Hub's cache, which HF_HOME"),
]
UNREACHED = [
    (answer(429, **{"Retry-After": "17"}), "too many requests from here. Try again in 17 seconds"),
    (answer(429, **{"Retry-After": "1"}), "too many requests from here. Try again in 1 second$"),
    (answer(429, **{"Retry-After": "soon"}), "too many requests from here. Try again later"),
    (answer(503), r"\(HfHubHTTPError: status 503\): the Hub has a problem of its own. Try again later"),
    (TimeoutError("timed out"), "the Hub did not answer in time. Try again; HF_HUB_DOWNLOAD_TIMEOUT sets"),
    (type("ProxyError", (OSError,), {})("407"), "check the proxy, which HTTPS_PROXY and HTTP_PROXY name"),
    (type("SSLError", (OSError,), {})("bad"), "check the certificates of this machine"),
    (OSError("Consistency check failed: 3 bytes"), "the download was cut off. Try again"),
    (ConnectionError("refused"), r"\(ConnectionError: refused\): check the connection, or give the path"),
    (type("JSONDecodeError", (ValueError,), {})("<html>"), "this is no answer of a Hub. Check HF_ENDPOINT"),
    (type("OfflineModeIsEnabled", (ConnectionError,), {})("no"), "HF_HUB_OFFLINE is set. Unset it, or give the path"),
    (ConnectionError("http://user:pass@proxy"), r"http://\*\*\*@proxy"),
]


def fail_with(error, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)


@pytest.mark.parametrize(("error", "message"), REACHED + UNREACHED)
def test_the_advice_fits_the_error(error, message, monkeypatch):
    fail_with(error, monkeypatch)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        fetch("org/name", ["*.json"], HubAccess("v1"))
    assert isinstance(caught.value, HubUnreachableError) == ((error, message) in UNREACHED)


@pytest.mark.parametrize("error", [answer(503), of("RepositoryNotFoundError"), ConnectionError("refused")])
def test_cached_files_are_used_whatever_the_hub_says(hub, monkeypatch, error):
    directory = fetch("org/name", ["a.json"])
    fail_with(error, monkeypatch)
    assert fetch("org/name", ["a.json"]) == directory


def test_unknown_revision_is_an_error_though_files_are_cached(hub, monkeypatch):
    fetch("org/name", ["a.json"])
    fail_with(of("RevisionNotFoundError"), monkeypatch)
    with pytest.raises(ModelNotFoundError, match="no revision 'main'"):
        fetch("org/name", ["a.json"], HubAccess("main"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(hub, cache):
    cache.mkdir()
    cache.chmod(0o555)
    with pytest.raises(ModelNotFoundError, match="the Hub's cache cannot be written"):
        fetch("org/name", ["a.json"])


def test_token_and_revision_go_through(monkeypatch):
    asked = {}

    class Api:
        def __init__(self, token):
            asked["token"] = token

        def model_info(self, repository, revision, timeout):
            asked.update(revision=revision, timeout=timeout)
            raise ConnectionError("refused")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    with pytest.raises(HubUnreachableError):
        fetch("org/name", ["a.json"], HubAccess("v1", TOKEN))
    assert asked.pop("timeout") > 0
    assert asked == {"token": TOKEN, "revision": "v1"}


def test_token_is_nowhere_to_be_seen(monkeypatch, capsys):
    access = HubAccess(token=TOKEN)
    assert TOKEN not in repr(access)
    assert TOKEN.encode() not in pickle.dumps(access)
    assert pickle.loads(pickle.dumps(access)) == access == HubAccess()
    fail_with(ValueError(f"Illegal header value b'Bearer {TOKEN}'"), monkeypatch)
    with pytest.raises(ModelNotFoundError, match=r"Bearer \*\*\*") as caught:
        fetch("org/name", ["a.json"], access)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_part_of_a_token_is_shown_where_the_reason_is_cut(monkeypatch):
    fail_with(ValueError("x" * 290 + TOKEN), monkeypatch)
    with pytest.raises(ModelNotFoundError) as caught:
        fetch("org/name", ["a.json"], HubAccess(token=TOKEN))
    assert TOKEN[:5] not in str(caught.value)


@pytest.mark.parametrize("token", ["", "with space", f"{TOKEN}\n", "é", 3, b"hf"])
def test_token_that_no_header_can_carry(token):
    with pytest.raises(InputError, match="token should be a string of visible ASCII characters") as caught:
        HubAccess(token=token)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("revision", ["", "a b", "..", "a/../b", "/etc", "a\\b", "a\0", "x" * 201, 3])
def test_impossible_revision(revision):
    with pytest.raises(InputError, match="revision should be a branch, a tag or a commit of the Hub, not"):
        HubAccess(revision)


def test_local_files_only_is_a_flag():
    with pytest.raises(InputError, match="local_files_only should be True or False"):
        HubAccess(local_files_only="no")


@pytest.mark.parametrize("name", ["org/näme", "org", "org/a/b", "../a", "org/", "org/.a", "a b/c"])
def test_names_that_are_no_repository(name):
    assert not is_repository_id(name)


def test_progress_bars_only_on_a_terminal(hub, capsys):
    fetch("org/name", ["a.json", "b.json"])
    assert capsys.readouterr() == ("", "")
    assert not huggingface_hub.utils.are_progress_bars_disabled()


def cached(directory, name, content, digest):
    """A file of a snapshot, as the cache holds it: a link to a file that is named after its ETag."""
    blob = directory.parent / "blobs" / digest
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    directory.mkdir(exist_ok=True)
    (directory / name).symlink_to(os.path.relpath(blob, directory))
    return blob


DIGESTS = {
    "sha256": hashlib.sha256(b"right").hexdigest(),
    "git": hashlib.sha1(b"blob 5\0right").hexdigest(),
    "sha1": hashlib.sha1(b"right").hexdigest(),
}


@pytest.mark.parametrize("kind", DIGESTS)
def test_damaged_download_is_removed(tmp_path, kind):
    directory = tmp_path / "snapshot"
    blob = cached(directory, "a.bin", b"right", DIGESTS[kind])
    check_fetched(directory, ["a.bin"])
    blob.write_bytes(b"wrong")
    with pytest.raises(ArtifactError, match=r"a\.bin was damaged during the download from the Hub\. It has been"):
        check_fetched(directory, ["a.bin"])
    assert not blob.exists()
    assert not (directory / "a.bin").is_symlink()


@pytest.mark.parametrize("middle", [".", ".1f2e3d4c."])  # of two versions of huggingface_hub
def test_what_a_killed_download_left_is_removed_by_the_next(hub, cache, middle):
    path = fetch("org/name", ["a.json"]) / "a.json"
    blob = path.resolve()
    path.unlink()
    blob.rename(blob.with_name(f"{blob.name}{middle}incomplete"))
    kept = blob.with_name("another.incomplete")
    kept.touch()
    assert fetch("org/name", ["a.json"]) / "a.json" == path
    assert sorted(blob.parent.iterdir()) == sorted([blob, kept])


def test_all_damaged_files_are_removed_at_once(tmp_path):
    directory = tmp_path / "snapshot"
    blobs = [cached(directory, name, b"wrong", DIGESTS[name]) for name in ("sha256", "git")]
    with pytest.raises(ArtifactError, match="sha256 was damaged"):
        check_fetched(directory, ["sha256", "git"])
    assert not any(blob.exists() for blob in blobs)


def test_file_that_an_etag_placed_elsewhere_is_removed(tmp_path):
    directory = tmp_path / "snapshot"
    blob = cached(directory, "a.bin", b"content", "../evil")
    with pytest.raises(ArtifactError, match=r"a\.bin was damaged"):
        check_fetched(directory, ["a.bin"])
    assert not blob.exists()


def test_what_a_killed_removal_left_is_removed_by_the_next_fetch(hub, cache):
    gone = cache / ".embedder-12345678-0123456789abcdef.partial"
    gone.mkdir(parents=True)
    fetch("org/name", ["a.json"])
    assert not gone.exists()


def test_files_without_a_digest_in_their_name_are_not_checked(tmp_path):
    directory = tmp_path / "snapshot"
    cached(directory, "a.bin", b"content", "weak-etag")
    (directory / "b.bin").write_bytes(b"a copy")
    check_fetched(directory, ["a.bin", "b.bin"])


def test_damaged_file_that_cannot_be_removed(tmp_path, monkeypatch):
    directory = tmp_path / "snapshot"
    cached(directory, "a.bin", b"wrong", DIGESTS["git"])

    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "denied", "a.bin")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(ArtifactError, match="Remove it, and run this again"):
        check_fetched(directory, ["a.bin"])
    monkeypatch.undo()


def test_fetched_files_match_the_digests_of_the_hub(hub):
    directory = fetch("org/name", ["a.json"])
    check_fetched(directory, ["a.json"])
    Path(os.path.realpath(directory / "a.json")).write_text("damaged")
    with pytest.raises(ArtifactError, match=r"a\.json was damaged"):
        check_fetched(directory, ["a.json"])
    hub.fetched.clear()
    assert (fetch("org/name", ["a.json"]) / "a.json").read_text() == "a.json"
    assert hub.fetched == ["a.json"]
