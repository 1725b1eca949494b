import contextlib
import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder.artifact.manifest import FORMAT_VERSION, File, read_manifest, write_manifest
from embedder.errors import ArtifactError, FormatError
from tests.tiny import write_tiny_artifact


def edit(directory, change):
    path = directory / "embedder.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_what_is_written_is_read_back(tiny, tmp_path):
    manifest = read_manifest(tiny)
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert json.loads((tmp_path / "embedder.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(asdict(manifest))
    )


def test_newer_format_says_to_upgrade(tiny):
    edit(tiny, lambda content: content.update(format_version=FORMAT_VERSION + 1, surprise=True))
    with pytest.raises(FormatError, match=r"format version 5; this embedder reads version 4: upgrade embedder"):
        read_manifest(tiny)


@pytest.mark.parametrize("version", [0, 1, None, "2", -3])
def test_other_formats_say_to_export_again(tiny, version):
    edit(tiny, lambda content: content.update(format_version=version))
    with pytest.raises(FormatError, match="export the model again"):
        read_manifest(tiny)


def test_missing_format_version(tiny):
    edit(tiny, lambda content: content.pop("format_version"))
    with pytest.raises(FormatError, match="format version None"):
        read_manifest(tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("dimension"), "dimension is missing"),
        (lambda m: m.update(color="red"), "color is unknown"),
        (lambda m: m.update(dimension="8"), "dimension should be a int, not '8'"),
        (lambda m: m.update(dimension=True), "dimension should be a int, not True"),
        (lambda m: m.update(dimension=0), "dimension: 0 is below 1"),
        (lambda m: m.update(similarity="near"), "similarity: 'near' is none of cosine, dot"),
        (lambda m: m.update(graphs=[]), "graphs: empty"),
        (lambda m: m.update(graphs={}), "graphs should be a list"),
        (lambda m: m.update(prompts={"query": 1}), r"prompts\['query'\] should be a str, not 1"),
        (lambda m: m.update(default_prompt_name="q"), "default_prompt_name: 'q' is not among the prompts"),
        (lambda m: m["graphs"][0]["file"].pop("size"), r"graphs\[0\].file.size is missing"),
        (lambda m: m["graphs"][0]["file"].update(size=-1), r"graphs\[0\].file.size: -1 is negative"),
        (lambda m: m["graphs"][0]["file"].update(name="../x"), r"graphs\[0\].file.name: '../x' is not a plain file"),
        (lambda m: m["graphs"][0]["weights"].update(sha256="Z" * 64), r"graphs\[0\].weights.sha256: not a digest"),
        (lambda m: m["graphs"][0].update(dtype="fp8"), r"graphs\[0\].dtype: 'fp8' is none of"),
        (lambda m: m["graphs"][0].update(inputs=["pixels"]), r"graphs\[0\].inputs: \['pixels'\] is not"),
        (lambda m: m["tokenizer"].update(max_seq_length=0), "tokenizer.max_seq_length: 0 is not from 1"),
        (lambda m: m["tokenizer"].update(max_seq_length=2**70), "tokenizer.max_seq_length: 1180591620717411303424"),
        (lambda m: m["tokenizer"].update(pad_id=-1), "tokenizer.pad_id: -1 is not from 0"),
        (
            lambda m: m["graphs"][0].update(weights=m["tokenizer"]["file"]),
            r"weights: 'tokenizer\.json' is not the graph's",
        ),
        (lambda m: m["graphs"][0]["inputs"].append("pooling_mask"), "head.include_prompt: contradicts inputs"),
        (lambda m: m["head"].update(include_prompt=False), "head.include_prompt: contradicts inputs"),
    ],
)
def test_bad_field_is_named(tiny, change, message):
    edit(tiny, change)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(tiny)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"{}", b"[]", b"null", b"3"])
def test_not_a_manifest(tmp_path, content):
    (tmp_path / "embedder.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"embedder\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b"])
def test_file_names_stay_in_the_directory(name):
    with pytest.raises(ValueError, match="not a plain file name"):
        File(name, 1, "0" * 64)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(draw=st.data())
def test_any_damage_is_an_embedder_error_or_a_manifest(draw, tmp_path_factory):
    directory = tmp_path_factory.mktemp("damaged") / "tiny"
    write_tiny_artifact(directory)

    def damage(content):
        place = content
        while True:
            key = draw.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if not place[key] or not isinstance(place[key], dict | list) or draw.draw(st.booleans()):
                place[key] = draw.draw(JSON)
                return
            place = place[key]

    edit(directory, damage)
    with contextlib.suppress(ArtifactError):
        read_manifest(directory)
