"""The manifest: a written manifest is read back, and a bad one is refused with the name of the field."""

import contextlib
import copy
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedder
from embedder.artifact.manifest import File, read_manifest, write_manifest
from embedder.artifact.upgrades import FORMAT_VERSION, OLDEST_VERSION
from embedder.errors import ArtifactError, FormatError
from tests import tiny
from tests.golden_artifacts import GOLDEN
from tests.tiny import (
    MULTI_VECTOR,
    add_image_graph,
    add_int8_graph,
    write_tiny_multi_vector,
    write_tiny_ranker,
)

MANIFESTS = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(GOLDEN.glob("artifact-v*/embedder.json"))
}


def edit(directory, change):
    path = directory / "embedder.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def assert_refused(directory, change, message):
    edit(directory, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        read_manifest(directory)
    assert "Export or copy the model again" in str(caught.value)


@pytest.fixture
def full(tiny):
    """An artifact with an int8 graph and images. Its manifest has every part that task "embed" may have."""
    add_int8_graph(tiny)
    add_image_graph(tiny)
    return tiny


@pytest.fixture
def ranker(tmp_path):
    return write_tiny_ranker(tmp_path / "ranker", labels=2)


def test_a_written_manifest_is_read_back(full, tmp_path):
    manifest = read_manifest(full)
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest
    written = json.loads((tmp_path / "embedder.json").read_text(encoding="utf-8"))
    assert written | {"queries": None, "max_active_dims": None} == json.loads(json.dumps(asdict(manifest)))


READS = f"this embedder reads versions {OLDEST_VERSION} to {FORMAT_VERSION}"


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 10**30])
def test_newer_format_says_to_upgrade(tiny, version):
    edit(tiny, lambda content: content.update(format_version=version, surprise=True))
    message = f"format version {version}; {READS}: upgrade embedder, or export the model"
    with pytest.raises(FormatError, match=message):
        read_manifest(tiny)


@pytest.mark.parametrize("version", [3, 2, 1, 0, -3, None, "5", 5.0, True, [5]])
def test_older_and_invalid_formats_say_to_export_again(tiny, version):
    edit(tiny, lambda content: content.update(format_version=version))
    with pytest.raises(FormatError, match=f"{READS}: export the model again") as caught:
        read_manifest(tiny)
    assert f"format version {version!r}" in str(caught.value)
    assert "upgrade" not in str(caught.value)


def test_endless_format_version_is_shortened(tiny):
    edit(tiny, lambda content: content.update(format_version=10**900))
    with pytest.raises(FormatError) as caught:
        read_manifest(tiny)
    assert len(str(caught.value)) < 500


def test_missing_format_version(tiny):
    edit(tiny, lambda content: content.pop("format_version"))
    with pytest.raises(FormatError, match="format version None"):
        read_manifest(tiny)


def test_fields_under_extra_are_kept_and_have_no_effect(tiny):
    plain = embedder.Embedder(tiny).encode("cat")
    extra = {"org.example": {"dimension": -1, "nested": [{"a": None}]}, "task": "dance"}
    edit(tiny, lambda content: content.update(extra=extra))
    model = embedder.Embedder(tiny)
    assert model.manifest.extra == extra
    assert model.encode("cat").tolist() == plain.tolist()


def test_manifest_without_extra_has_none(tiny):
    edit(tiny, lambda content: content.pop("extra"))
    assert read_manifest(tiny).extra == {}


def places(content, place=()):
    """Yield the place of each object of a manifest, as a tuple of keys. Objects under `extra` are left out."""
    if isinstance(content, dict):
        yield place
        for key, value in content.items():
            if key not in ("extra", "prompts", "tools"):
                yield from places(value, (*place, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from places(value, (*place, index))


def at(content, place):
    for key in place:
        content = content[key]
    return content


@pytest.mark.parametrize("name", MANIFESTS)
def test_unknown_key_is_refused_everywhere_but_under_extra(name, tmp_path):
    found = list(places(MANIFESTS[name]))
    assert len(found) > 5
    for place in found:
        content = copy.deepcopy(MANIFESTS[name])
        at(content, place)["surprise"] = 1
        (tmp_path / "embedder.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ArtifactError, match="surprise is unknown"):
            read_manifest(tmp_path)


@pytest.mark.parametrize("name", MANIFESTS)
def test_missing_key_is_named_everywhere(name, tmp_path):
    for place in places(MANIFESTS[name]):
        for key in at(MANIFESTS[name], place):
            if (place, key) in [((), "extra"), ((), "format_version")]:
                continue
            content = copy.deepcopy(MANIFESTS[name])
            del at(content, place)[key]
            (tmp_path / "embedder.json").write_text(json.dumps(content), encoding="utf-8")
            with pytest.raises(ArtifactError, match=rf"{key}'? is missing"):
                read_manifest(tmp_path)


def graph(number=0, **fields):
    return lambda manifest: manifest["graphs"][number].update(fields)


def output(number=0, **fields):
    return lambda manifest: manifest["graphs"][number]["outputs"][0].update(fields)


def tokenizer(**fields):
    return lambda manifest: manifest["tokenizer"].update(fields)


def images(**fields):
    return lambda manifest: manifest["images"].update(fields)


def scores(**fields):
    return lambda manifest: manifest["scores"].update(fields)


def whole(**fields):
    return lambda manifest: manifest.update(fields)


BAD_FIELDS = [
    # The file's own fields.
    (lambda m: m["graphs"][0]["file"].update(size=-1), r"graphs\[0\]\.file\.size: -1 is not from 0 to 2\*\*63 - 1"),
    (lambda m: m["tokenizer"]["file"].update(name="x" * 256), r"tokenizer\.file\.name: 'x+ is not a plain file name"),
    (lambda m: m["tokenizer"]["file"].update(name="é" * 128), r"tokenizer\.file\.name: 'é+ is not a plain file name"),
    (lambda m: m["tokenizer"]["file"].update(name="*.json"), r"file\.name: '\*\.json' is not a plain file name"),
    (lambda m: m["tokenizer"]["file"].update(name="\x1b"), r"file\.name: '\\x1b' is not a plain file name"),
    (
        lambda m: m["graphs"][0]["file"].update(name="../x"),
        r"graphs\[0\]\.file\.name: '\.\./x' is not a plain file name",
    ),
    (lambda m: m["graphs"][0]["weights"].update(sha256="Z" * 64), r"graphs\[0\]\.weights\.sha256: not a digest"),
    (lambda m: m["graphs"][0]["weights"].update(sha256="0" * 63), r"graphs\[0\]\.weights\.sha256: not a digest"),
    # Types.
    (whole(graphs={}), "graphs should be a list"),
    (whole(prompts={"query": 1}), r"prompts\['query'\] should be a str, not 1"),
    (whole(prompts=["query"]), "prompts should be a dict"),
    (whole(tools={"onnx": None}), r"tools\['onnx'\] should be a str, not None"),
    (whole(extra=[1]), r"extra should be a dict, not \[1\]"),
    (whole(source="org/model"), "source should be a dict, not 'org/model'"),
    (whole(image_model=3), "image_model should be a str, not 3"),
    (tokenizer(pad_id=True), r"tokenizer\.pad_id should be an int, not True"),
    (tokenizer(special_ids=[0, "1"]), r"tokenizer\.special_ids\[1\] should be an int, not '1'"),
    (images(rescale="1/255"), r"images\.rescale should be a float, not '1/255'"),
    (images(rescale=10**400), r"images\.rescale should be a float, not an integer of 1329 bits"),
    # The tokenizer.
    (tokenizer(max_seq_length=0), r"tokenizer\.max_seq_length: 0 is not from 1 to 2\*\*31 - 1"),
    (tokenizer(max_seq_length=2**70), r"tokenizer\.max_seq_length: 1180591620717411303424"),
    (tokenizer(pad_id=-1), r"tokenizer\.pad_id: -1 is not from 0 to 2\*\*31 - 1"),
    (tokenizer(pad_id=2**31), r"tokenizer\.pad_id: 2147483648 is not from 0"),
    # Images.
    (images(resize=[0]), r"images\.resize: \[0\] is no size"),
    (images(resize=[1, 2, 3]), r"images\.resize: \[1, 2, 3\] is no size"),
    (images(crop=[2]), r"images\.crop: \[2\] is no size"),
    (images(crop=[2**62, 2**62]), r"images\.crop: \[4611686018427387904, 4611686018427387904\] is no size"),
    (images(resize=[4097]), r"images\.resize: \[4097\] is no size"),
    (images(rescale=1e7), r"images\.rescale, mean, std: hold a number that no image needs"),
    (images(mean=[0.5, -1e300, 0.5]), r"images\.rescale, mean, std: hold a number that no image needs"),
    (images(std=[0.5, 0.5, 1e-300]), r"images\.rescale, mean, std: hold a number that no image needs"),
    (lambda m: m["graphs"][0]["file"].update(size=10**400), r"graphs\[0\]\.file\.size: 1000"),
    (lambda m: m["graphs"][0]["file"].update(name="x.ort"), r"graphs\[0\]\.file: 'x\.ort' does not end in \.onnx"),
    (images(crop=[2, 0]), r"images\.crop: \[2, 0\] is no size"),
    (images(resample="sinc"), r"images\.resample: 'sinc' is none of nearest, lanczos, bilinear"),
    (images(mean=[0.5]), r"images\.mean, std: not three numbers each"),
    (images(std=[1.0, 1.0]), r"images\.mean, std: not three numbers each"),
    (images(std=[1.0, 0.0, 1.0]), r"images\.std: holds a zero"),
    (images(tokens=0), r"images\.tokens: 0 is below 1"),
    # Graphs and their outputs.
    (graph(dtype="fp8"), r"graphs\[0\]\.dtype: 'fp8' is none of fp32, fp16, int8"),
    (graph(modality="sound"), r"graphs\[0\]\.modality: 'sound' is neither 'text' nor 'image'"),
    (lambda m: m["graphs"][0].update(weights=m["tokenizer"]["file"]), r"weights: 'tokenizer\.json' is not model"),
    (graph(inputs=["pixels"]), r"graphs\[0\]\.inputs: \['pixels'\] is not \['input_ids', 'attention_mask'\]"),
    (graph(inputs=["input_ids", "attention_mask", "position_ids"]), r"graphs\[0\]\.inputs: .* is not"),
    (graph(inputs=["input_ids", "attention_mask", *["token_type_ids"] * 2]), r"graphs\[0\]\.inputs: .* is not"),
    (graph(2, inputs=["input_ids"]), r"graphs\[2\]\.inputs: \['input_ids'\] is not \['pixel_values'\]"),
    (graph(outputs=[]), r"graphs\[0\]\.outputs: \[\] is empty or has a name twice"),
    (
        lambda m: m["graphs"][0]["outputs"].append(m["graphs"][0]["outputs"][0]),
        r"graphs\[0\]\.outputs: \['embedding', 'embedding'\] is empty or has a name twice",
    ),
    (output(kind="thick"), r"graphs\[0\]\.outputs\[0\]\.kind: 'thick' is none of dense, score, sparse, token"),
    (output(shape=[]), r"graphs\[0\]\.outputs\[0\]\.shape: empty"),
    (output(shape=[0]), r"graphs\[0\]\.outputs\[0\]\.shape: \[0\] is no shape"),
    (output(shape=[None]), r"graphs\[0\]\.outputs\[0\]\.shape: a dense output needs exactly one fixed size"),
    (output(shape=[2, 4]), r"graphs\[0\]\.outputs\[0\]\.shape: a dense output needs exactly one fixed size"),
    (output(shape=8), r"graphs\[0\]\.outputs\[0\]\.shape should be a list, not 8"),
    # Fields that must agree.
    (whole(task="dance"), "task: 'dance' is none of embed, rank, sparse, multi_vector"),
    (whole(task="rank"), "graphs: task 'rank' needs an output of the kind 'score' in each"),
    (whole(similarity_fn_name="near"), "similarity_fn_name: 'near' is none of cosine, dot, euclidean, manhattan"),
    (whole(similarity_fn_name=None), "similarity_fn_name: null in task 'embed'"),
    (whole(graphs=[]), "graphs: empty"),
    (
        lambda m: m["graphs"].append(m["graphs"][0]),
        r"graphs: two have the same modality and dtype, \[\('text', 'fp32'\)",
    ),
    (lambda m: m["graphs"].pop(), r"graphs: they take \['text'\], and should take \['image', 'text'\]"),
    (whole(images=None), r"graphs: they take \['image', 'text'\], and should take \['text'\]"),
    (output(2, shape=[9]), "graphs: their outputs of the kind 'dense' differ in shape"),
    (whole(default_prompt_name="q"), "default_prompt_name: 'q' is not among the prompts"),
    (lambda m: m["graphs"][0]["inputs"].append("pooling_mask"), r"head\.include_prompt: contradicts inputs"),
    (lambda m: m["head"].update(include_prompt=False), r"head\.include_prompt: contradicts inputs"),
]


@pytest.mark.parametrize(("change", "message"), BAD_FIELDS)
def test_bad_field_is_named(full, change, message):
    assert_refused(full, change, message)


def test_the_first_of_several_wrong_fields_is_named(tiny):
    assert_refused(tiny, whole(task=1, graphs=1), "task should be a str, not 1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (output(kind="dense", shape=[2]), "graphs: task 'rank' needs an output of the kind 'score' in each"),
        (whole(task="embed"), "similarity_fn_name: null in task 'embed'"),
        (output(shape=[2, -1]), r"graphs\[0\]\.outputs\[0\]\.shape: \[2, -1\] is no shape"),
        (output(shape=[None]), r"graphs\[0\]\.outputs\[0\]\.shape: a score output needs exactly one fixed size"),
        (scores(activation_fn="tanh"), r"scores\.activation_fn: 'tanh' is none of identity, sigmoid"),
        (scores(truncation="only_second"), r"scores\.truncation: 'only_second' is not longest_first"),
        (scores(label_names=["yes"]), r"scores\.label_names: 1 names for 2 labels"),
        (whole(scores=None), "scores: contradicts the task 'rank'"),
    ],
)
def test_bad_field_of_a_ranker_is_named(ranker, change, message):
    assert_refused(ranker, change, message)


def test_ranker_has_a_score_for_each_label_and_no_dimension(ranker, tiny):
    manifest = read_manifest(ranker)
    assert (manifest.task, manifest.output_shape, manifest.modalities) == ("rank", (2,), ("text",))
    assert manifest.similarity_fn_name is manifest.head is manifest.parity is None
    assert manifest.label_count == 2
    with pytest.raises(ValueError, match="task: 'rank' has no dimension"):
        manifest.dimension  # noqa: B018
    with pytest.raises(ValueError, match="task: 'embed' has no labels"):
        read_manifest(tiny).label_count  # noqa: B018


def test_output_with_a_size_that_depends_on_the_input(ranker):
    def many_vectors(manifest):
        manifest |= {"task": "multi_vector", "scores": None, "similarity_fn_name": "maxsim"}
        manifest["multi_vector"] = json.loads(json.dumps(asdict(MULTI_VECTOR)))
        output(name="tokens", kind="token", shape=[None, 8])(manifest)

    edit(ranker, many_vectors)
    assert read_manifest(ranker).output_shape == (None, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query_length": 0}, r"multi_vector\.query_length: 0 is not from 1"),
        ({"document_length": 2**31}, r"multi_vector\.document_length: 2147483648 is not from 1"),
        ({"expansion": {"length": 0, "token_id": 1, "is_attended": True}}, "length: 0 is not from 1"),
        ({"expansion": {"length": 8, "token_id": -1, "is_attended": True}}, "token_id: -1 is not from 0"),
        ({"skipped_ids": [-1]}, r"multi_vector\.skipped_ids: one is not from 0"),
        ({"skipped_in": ["passage"]}, r"multi_vector\.skipped_in: \['passage'\] is none of query, document"),
        ({"skipped_first": -1}, r"multi_vector\.skipped_first: -1 is not from 0"),
    ],
)
def test_wrong_settings_of_queries_and_documents(tmp_path, fields, message):
    path = write_tiny_multi_vector(tmp_path / "tokens")
    assert_refused(path, lambda manifest: manifest["multi_vector"].update(fields), message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"multi_vector": None}, "multi_vector: contradicts the task 'multi_vector'"),
        ({"similarity_fn_name": None}, "similarity_fn_name: null in task 'multi_vector'"),
        ({"similarity_fn_name": "cosine"}, "similarity_fn_name: 'cosine' is none of maxsim, meanmaxsim"),
    ],
)
def test_wrong_fields_of_a_model_of_tokens(tmp_path, fields, message):
    path = write_tiny_multi_vector(tmp_path / "tokens")
    assert_refused(path, lambda manifest: manifest.update(fields), message)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"{}", b"[]", b"null", b"3", b'"x"'])
def test_a_file_that_is_not_a_manifest(tmp_path, content):
    (tmp_path / "embedder.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"embedder\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_no_json_are_refused(tiny, constant):
    path = tiny / "embedder.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"min_cosine": 1.0', f'"min_cosine": {constant}'))
    with pytest.raises(ArtifactError, match=f"{constant} is not a number of JSON"):
        read_manifest(tiny)


def test_missing_manifest(tmp_path):
    with pytest.raises(ArtifactError, match=r"embedder\.json cannot be read .*: export or copy the model again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "C:x", "a\0b"])
def test_file_names_stay_in_the_directory(name):
    with pytest.raises(ValueError, match="not a plain file name"):
        File(name, 1, "0" * 64)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(draw=st.data())
def test_any_damage_is_an_embedder_error_or_a_manifest(draw, tmp_path_factory):
    content = copy.deepcopy(MANIFESTS[draw.draw(st.sampled_from(sorted(MANIFESTS)))])
    place = content
    while True:
        key = draw.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], dict | list) or draw.draw(st.booleans()):
            place[key] = draw.draw(JSON)
            break
        place = place[key]
    directory = tmp_path_factory.mktemp("damaged")
    (directory / "embedder.json").write_text(json.dumps(content), encoding="utf-8")
    with contextlib.suppress(ArtifactError):
        read_manifest(directory)


def test_fields_of_sparse_models(tmp_path):
    artifact = tiny.write_tiny_sparse(tmp_path / "artifact", static_queries=True, max_active_dims=9)
    manifest = read_manifest(artifact)
    assert manifest.dimension == len(tiny.VOCABULARY)
    assert manifest.queries.weights in manifest.files
    with pytest.raises(ValueError, match="queries: contradicts the task 'embed'"):
        replace(read_manifest(tiny.write_tiny_artifact(tmp_path / "dense")), queries=manifest.queries)
    with pytest.raises(ValueError, match="max_active_dims: contradicts the task 'embed'"):
        replace(read_manifest(tmp_path / "dense"), max_active_dims=3)
    with pytest.raises(ValueError, match="max_active_dims: 0 is below 1"):
        replace(manifest, max_active_dims=0)
    with pytest.raises(ValueError, match="max_seq_length: 0 is not from 1"):
        replace(manifest.queries, max_seq_length=0)
    with pytest.raises(ValueError, match=r"weights\.size: 3 bytes are no float32 numbers"):
        replace(manifest.queries, weights=replace(manifest.queries.weights, size=3))
