"""Upload an artifact to a hub, with a model card that says what the manifest says."""

import json
from dataclasses import replace

import pytest
import yaml
from embedder_export.errors import UploadError
from embedder_export.publish.card import Licence, read_licence, write_card
from embedder_export.publish.upload import check_repository, upload

import embedder
from embedder.artifact.manifest import Source, read_manifest
from embedder.artifact.measurements import Parity, Quality
from embedder.errors import InputError
from tests.hub_client import retry_at_once
from tests.hub_faults import cut, on, status
from tests.hub_server import serve

huggingface_hub = pytest.importorskip("huggingface_hub")
constants, file_download, hf_api = (
    pytest.importorskip(f"huggingface_hub.{name}") for name in ("constants", "file_download", "hf_api")
)
TOKEN = "hf_secretsecretsecret"
COMMIT = "c" * 40


@pytest.fixture
def manifest(tiny):
    return read_manifest(tiny)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that wants a token, and this user has it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    retry_at_once(monkeypatch)
    with serve({}, token=TOKEN) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        for module in (constants, file_download, hf_api):
            if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
                template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
                monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


def facts_of(card):
    return yaml.safe_load(card.split("---")[1])


# huggingface_hub hands open files to its HTTP library in an outdated way.
uploads = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@uploads
@pytest.mark.parametrize("disable_xet", [True, False])
def test_uploaded_artifact_gives_the_same_vectors(hub, tiny, manifest, monkeypatch, disable_xet):
    """This hub knows only the older protocol for large files, as a mirror may."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", disable_xet)
    url = upload(tiny, manifest, "org/tiny", Licence("mit"))
    assert url == f"{hub.endpoint}/org/tiny"
    names = {".gitattributes", "README.md", "embedder.json", *(file.name for file in manifest.files)}
    assert set(hub.files("org/tiny")) == names
    assert len(hub.repositories["org/tiny"].commits) == 2
    with embedder.Embedder("org/tiny") as theirs, embedder.Embedder(tiny) as ours:
        assert (theirs.encode(["a text"]) == ours.encode(["a text"])).all()


@uploads
def test_repository_that_exists_is_updated_and_its_other_files_stay(hub, tiny, manifest):
    hub.commit("org/tiny", {"notes.txt": b"mine", "tokenizer.json": b"old", "README.md": b"old"})
    upload(tiny, manifest, "org/tiny", None)
    files = hub.files("org/tiny")
    assert files["notes.txt"] == b"mine"
    assert files["tokenizer.json"] == (tiny / "tokenizer.json").read_bytes()
    assert b"# tiny" in files["README.md"]
    upload(tiny, manifest, "org/tiny", None)
    assert dict(hub.files("org/tiny")) == dict(files)


@uploads
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            status(401, b"{}"),
            "the upload to org/tiny (status 401): log in with `hf auth login`, or set HF_TOKEN",
        ),
        (status(403, b"{}"), "refuses the upload to org/tiny (status 403): the token may not write there"),
        (status(404, b"{}"), "the Hub has no place for org/tiny (status 404): check the organisation's name"),
        (status(429, b"{}", Retry_After="0"), "org/tiny could not be uploaded (HfHubHTTPError"),
        (status(503, b"{}"), "try again later"),
        (cut(), "check the connection"),
    ],
)
@pytest.mark.parametrize("path", ["api/repos/create", "*/preupload/*", "*/objects/batch", "*/commit/*"])
def test_failures(hub, tiny, manifest, fault, message, path):
    hub.faults.append(on(fault, path))
    with pytest.raises(UploadError) as failure:
        upload(tiny, manifest, "org/tiny", None)
    assert message in str(failure.value)
    assert TOKEN not in str(failure.value)
    assert "org/tiny" not in hub.repositories or set(hub.files("org/tiny")) == {".gitattributes"}


@uploads
def test_large_file_that_cannot_be_stored(hub, tiny, manifest):
    hub.faults.append(on(status(403, b"{}"), method="PUT"))
    with pytest.raises(UploadError, match="status 403"):
        upload(tiny, manifest, "org/tiny", None)
    assert set(hub.files("org/tiny")) == {".gitattributes"}


def test_wrong_token(hub, tiny, manifest, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(UploadError, match="status 401") as failure:
        upload(tiny, manifest, "org/tiny", None)
    assert "hf_wrong" not in f"{failure.value!r} {failure.value.__cause__!r}"


def test_token_that_may_only_read(hub, tiny, manifest):
    hub.may_write = False
    with pytest.raises(UploadError, match="the token may not write there"):
        upload(tiny, manifest, "org/tiny", None)


def test_token_in_a_message_of_a_library_is_hidden(hub, tiny, manifest, monkeypatch):
    def fail(*arguments, **options):
        raise ValueError(f"sent {TOKEN}")

    monkeypatch.setattr(hf_api.HfApi, "create_repo", fail)
    with pytest.raises(UploadError, match=r"ValueError: sent \*\*\*") as failure:
        upload(tiny, manifest, "org/tiny", None)
    assert failure.value.__cause__ is None


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "", "../tiny", "org/ti ny"])
def test_names_that_no_repository_can_have(name):
    with pytest.raises(InputError, match="--push-to needs ORG/NAME, not "):
        check_repository(name)


def test_public_hub_needs_a_token(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UploadError, match="there is no token to upload to org/tiny: log in with `hf auth login`"):
        check_repository("org/tiny")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    check_repository("org/tiny")


def test_card_of_a_checkpoint_of_the_hub(manifest):
    parity = Parity("sentence-transformers 5.7.0", 250, 0.99999991, 1.5e-6)
    fp32 = manifest.graphs[0]
    quality = Quality(64, 0.9951, 0.9873)
    graph, weights = (replace(file, name=f"int8.{file.name}") for file in (fp32.file, fp32.weights))
    int8 = replace(fp32, dtype="int8", quality=quality, file=graph, weights=weights)
    manifest = replace(
        manifest, source=Source("all-MiniLM-L6-v2", COMMIT, "d" * 64), parity=parity, graphs=(fp32, int8)
    )
    card = write_card(manifest, "ann/mini", Licence("apache-2.0"))
    assert facts_of(card) == {
        "license": "apache-2.0",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "library_name": "embedder",
        "pipeline_tag": "sentence-similarity",
        "tags": ["embedder", "onnx", "feature-extraction"],
    }
    for part in (
        f"(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), revision `{COMMIT}`",
        "states the licence `apache-2.0`",
        "The vectors of 250 texts were compared with those of sentence-transformers 5.7.0: smallest cosine 0.99999991, "
        "largest difference 1.5e-06.",
        "| `int8.model.onnx` | int8 | 0.9951 | 0.9873 | 64 |",
        "| `tokenizer.json` | ",
        'model = Embedder("ann/mini")',
    ):
        assert part in card


def test_card_claims_nothing_that_the_manifest_does_not_say(manifest):
    manifest = replace(manifest, source=Source("my `model`\n[x](y)", None, "d" * 64), parity=None)
    card = write_card(manifest, "ann/mine", None)
    assert set(facts_of(card)) == {"library_name", "pipeline_tag", "tags"}
    assert "from `my model x (y)`." in card
    assert "The vectors of texts were not compared with those of another program." in card
    assert "The card of the checkpoint states no licence." in card
    assert "huggingface.co" not in card
    assert "| int8 |" not in card


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", Licence("apache-2.0")),
        ("license: other\nlicense_name: my  terms\nlicense_link: LICENSE", Licence("other", "my terms", "LICENSE")),
        ("license: 5", None),
        ("license: '*/evil\\n'", None),
        ("license: [mit]", None),
        ("language: en", None),
        ("license: [", None),
        ("- a", None),
    ],
)
def test_licence_of_a_checkpoint(tmp_path, front, licence):
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# a model\n", encoding="utf-8")
    assert read_licence(tmp_path) == licence


def test_licence_of_a_checkpoint_without_a_card(tmp_path):
    assert read_licence(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert read_licence(tmp_path) is None


def test_card_is_valid_for_a_licence_with_quotes(manifest):
    card = write_card(manifest, "ann/mine", Licence("other", 'say "yes": now', "a#b"))
    assert facts_of(card)["license_name"] == 'say "yes": now'
    assert json.dumps(facts_of(card)["license_link"]) == '"a#b"'
