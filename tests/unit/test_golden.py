"""Artifacts of every released manifest format load, and give the same vectors as before."""

import json

import numpy as np
import onnxruntime
import pytest

import embedder
from embedder.artifact.locate import open_artifact
from embedder.artifact.manifest import read_manifest, write_manifest
from embedder.artifact.upgrades import (
    FORMAT_VERSION,
    OLDEST_VERSION,
    upgrade,
    upgrade_4_to_5,
    upgrade_5_to_6,
    upgrade_6_to_7,
)
from tests.golden_artifacts import (
    ARTIFACTS,
    GOLDEN,
    IMAGES,
    LABELS,
    PAIRS,
    PROMPT,
    TEXTS,
    write_full,
    write_prompt,
    write_ranker,
    write_with_golden_files,
)
from tests.tiny import expected_score, expected_tokens, ids_of, segments_of

DIRECTORIES = sorted(path.name for path in GOLDEN.glob("artifact-v*"))
FULL = [name for name in DIRECTORIES if name.count("-") == 1]
WITH_PROMPT = [name for name in DIRECTORIES if name.endswith("-prompt")]
WITH_TOKENS = [name for name in DIRECTORIES if name.endswith("-tokens")]
RANKERS = [name for name in DIRECTORIES if name.endswith("-ranker")]
WRITERS = [("", write_full), ("-prompt", write_prompt)]
CURRENT = f"artifact-v{FORMAT_VERSION}"


def manifest_json(name):
    return json.loads((GOLDEN / name / "embedder.json").read_text(encoding="utf-8"))


def assert_close(vectors, file):
    np.testing.assert_allclose(vectors, np.load(GOLDEN / file), rtol=0, atol=1e-6)


def test_every_format_that_can_be_read_has_a_golden_artifact():
    found = {manifest_json(name)["format_version"] for name in DIRECTORIES}
    assert found == set(range(OLDEST_VERSION, FORMAT_VERSION + 1))
    assert set(DIRECTORIES) == {*FULL, *WITH_PROMPT, *RANKERS, *WITH_TOKENS}
    assert set(ARTIFACTS) <= set(DIRECTORIES)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directory_is_whole_and_its_name_has_its_format(name):
    assert name.split("-")[1] == f"v{manifest_json(name)['format_version']}"
    assert open_artifact(GOLDEN / name).manifest.format_version == FORMAT_VERSION


@pytest.mark.parametrize("name", FULL)
def test_texts_and_images_have_the_same_vectors_in_every_format(name):
    model = embedder.Embedder(GOLDEN / name)
    assert_close(model.encode(TEXTS), "texts.npy")
    assert_close(model.encode(IMAGES), "images.npy")
    assert model.prompts["query"] == PROMPT


@pytest.mark.parametrize("name", WITH_PROMPT)
def test_prompts_left_out_of_the_pooling_have_the_same_vectors_in_every_format(name):
    assert_close(embedder.Embedder(GOLDEN / name).encode(TEXTS, prompt=PROMPT), "prompts.npy")


def test_int8_graphs_of_the_golden_artifact_run():
    model = embedder.Embedder(GOLDEN / CURRENT, dtype="int8")
    assert_close(-model.encode(TEXTS), "texts.npy")
    assert_close(model.encode(IMAGES), "images.npy")


@pytest.mark.parametrize("name", RANKERS)
def test_graph_of_a_golden_ranker_gives_its_scores(name):
    session = onnxruntime.InferenceSession(GOLDEN / name / "model.onnx")
    for (a, b), golden in zip(PAIRS, np.load(GOLDEN / "scores.npy"), strict=True):
        a_ids, b_ids = segments_of(a, b)
        ids = np.array([a_ids + b_ids])
        types = np.array([[0] * len(a_ids) + [1] * len(b_ids)])
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types}
        np.testing.assert_allclose(session.run(["score"], feeds)[0], [golden], rtol=1e-6)
        np.testing.assert_allclose(expected_score(a_ids, b_ids, labels=LABELS), golden, rtol=1e-6)


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_tokens_have_the_same_vectors_in_every_format(name):
    model = embedder.MultiVectorEncoder(GOLDEN / name)
    ids = ids_of("query : the cat", 8)
    filled = ids + [1] * (8 - len(ids))
    np.testing.assert_allclose(model.encode_query("the cat"), expected_tokens(filled, len(ids))[1:], atol=1e-6)
    assert model.similarity_fn_name == "meanmaxsim"


@pytest.mark.parametrize("name", ARTIFACTS)
def test_manifest_written_today_has_the_golden_bytes(name, tmp_path):
    write_with_golden_files(name, tmp_path / name)
    golden = (GOLDEN / name / "embedder.json").read_bytes()
    assert (tmp_path / name / "embedder.json").read_bytes() == golden
    write_manifest(read_manifest(GOLDEN / name), tmp_path)
    assert (tmp_path / "embedder.json").read_bytes() == golden


def test_golden_manifest_has_a_value_in_every_field():
    """Otherwise no test would see that a field is written in another way."""
    empty = set()

    def walk(value, place):
        if value in (None, [], {}):
            empty.add(place)
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(item, f"{place}.{key}")
        elif isinstance(value, list):
            for item in value:
                walk(item, place)

    content = manifest_json(CURRENT)
    walk(content | {"extra": bool(content["extra"])}, "")
    # fp32 graphs have no quality, int8 graphs have one. Nothing is cropped. An artifact with images has no image_model,
    # and one for embeddings has no scores.
    scores = {".scores", ".graphs.score_quality", ".multi_vector"}
    assert empty == {".graphs.quality", ".graphs.candidates", ".images.crop", ".image_model", *scores}
    assert manifest_json(f"{CURRENT}-prompt")["image_model"] == "org/tiny-images"
    empty.clear()
    walk(manifest_json(f"{CURRENT}-ranker"), "")
    assert not empty & {".scores.label_names", ".scores.parity", ".scores", ".graphs.score_quality"}
    empty.clear()
    walk(manifest_json(f"{CURRENT}-tokens"), "")
    assert not any(place.startswith(".multi_vector") for place in empty)


@pytest.mark.parametrize(
    ("old", "write"),
    [(f"artifact-v{version}{kind}", write) for version in (4, 5, 6) for kind, write in WRITERS]
    + [("artifact-v5-ranker", write_ranker), ("artifact-v6-ranker", write_ranker)],
)
def test_upgraded_manifest_has_the_fields_of_the_current_format(old, write, tmp_path):
    write(tmp_path / "new")
    current = json.loads((tmp_path / "new" / "embedder.json").read_text(encoding="utf-8"))
    upgraded = upgrade(manifest_json(old))
    assert upgraded.keys() == current.keys()
    assert all(graph.keys() == current["graphs"][0].keys() for graph in upgraded["graphs"])


def test_upgrade_from_4_changes_these_fields_and_no_others():
    before = manifest_json("artifact-v4")
    copy = manifest_json("artifact-v4")
    after = upgrade_4_to_5(before)
    assert before == copy
    output = {"name": "embedding", "kind": "dense", "shape": [8]}
    for graph in before["graphs"]:
        assert graph.pop("precision") == "fp32"
        assert graph.pop("output") == "embedding"
        graph |= {"dtype": "fp32", "outputs": [output]}
    assert before.pop("dimension") == 8
    assert before.pop("similarity") == "cosine"
    assert after == before | {"format_version": 5, "task": "embed", "similarity_fn_name": "cosine", "extra": {}}


def test_manifest_of_format_4_is_read_as_one_of_the_current_format(tmp_path):
    manifest = read_manifest(GOLDEN / "artifact-v4")
    assert (manifest.task, manifest.similarity_fn_name, manifest.dimension, manifest.extra) == (
        "embed",
        "cosine",
        8,
        {},
    )
    assert manifest.graphs[0].dtype == "fp32"
    write_manifest(manifest, tmp_path)
    assert json.loads((tmp_path / "embedder.json").read_text(encoding="utf-8"))["format_version"] == FORMAT_VERSION
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(("labels", "activation_fn"), [(1, "sigmoid"), (2, "identity")])
def test_upgrade_from_5_gives_a_ranker_its_scores(labels, activation_fn):
    before = manifest_json("artifact-v5-ranker")
    before["graphs"][0]["outputs"][0]["shape"] = [labels]
    after = upgrade_5_to_6(before)
    scores = {"activation_fn": activation_fn, "label_names": [], "truncation": "longest_first", "parity": None}
    graphs = [graph | {"score_quality": None} for graph in before["graphs"]]
    assert after == before | {"format_version": 6, "graphs": graphs, "scores": scores}
    assert upgrade_5_to_6(manifest_json("artifact-v5"))["scores"] is None


def test_upgrade_from_6_gives_a_model_of_tokens_its_settings():
    assert upgrade_6_to_7(manifest_json("artifact-v6"))["multi_vector"] is None
    before = manifest_json("artifact-v6") | {"task": "multi_vector", "similarity_fn_name": None}
    after = upgrade_6_to_7(before)
    limit = before["tokenizer"]["max_seq_length"]
    settings = {"query_length": limit, "document_length": limit, "expansion": None}
    settings |= {"skipped_ids": [], "skipped_in": [], "skipped_first": 0}
    changed = {"format_version": 7, "multi_vector": settings, "similarity_fn_name": "maxsim"}
    assert after == before | changed


def test_a_field_of_version_7_in_version_6_is_refused():
    with pytest.raises(ValueError, match="multi_vector is unknown in version 6"):
        upgrade_6_to_7(manifest_json("artifact-v6") | {"multi_vector": None})


def test_a_field_of_version_6_in_version_5_is_refused():
    with pytest.raises(ValueError, match="scores is unknown in version 5"):
        upgrade_5_to_6(manifest_json("artifact-v5") | {"scores": None})
    content = manifest_json("artifact-v5")
    content["graphs"][0]["score_quality"] = None
    with pytest.raises(ValueError, match="score_quality is unknown in version 5"):
        upgrade_5_to_6(content)


@pytest.mark.parametrize("field", ["task", "similarity_fn_name", "extra"])
def test_a_field_of_version_5_in_version_4_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} is unknown in version 4"):
        upgrade_4_to_5(manifest_json("artifact-v4") | {field: "rank"})
