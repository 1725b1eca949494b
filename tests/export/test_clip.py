"""CLIP: an artifact has a text graph and an image graph, and gives sentence-transformers' vectors."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from embedder_export import cli
from embedder_export.body.contract import BodySizes
from embedder_export.body.native import build_bodies
from embedder_export.body.traced import trace_bodies
from embedder_export.checkpoint.image_processor import read_images
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError, ParityError
from embedder_export.families.clip import CLIP
from embedder_export.graph.files import save_graph
from embedder_export.samples.images import sample_images
from embedder_export.samples.texts import parity_sentences
from embedder_export.verify import parity
from embedder_export.verify.compare import measure
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import CLIPModel

import embedder
from benchmarks.quality import lines
from embedder.artifact.manifest import read_manifest
from tests import clips
from tests.checkpoints import edit_json, write_checkpoint, write_json
from tests.clips import IMAGE_SIZE, LAYOUTS, PREPROCESSOR, body_of, write_clip
from tests.exports import export_fp32, export_quietly

TEXTS = parity_sentences()[::5]
SIZES = BodySizes(24, usable_positions=17, image_size=IMAGE_SIZE)


def sessions_of(bodies, directory):
    """Return onnxruntime's session of each body, by modality."""
    sessions = {}
    for modality, body in bodies.items():
        ((_, model),) = body.forms
        sessions[modality] = onnxruntime.InferenceSession(save_graph(model, directory / modality))
    return sessions


def assert_same(sessions, model, seed=0):
    """Compare both graphs with transformers' features, on rows of tokens of several lengths and on pixels."""
    generator, config = np.random.default_rng(seed), model.config
    end = config.text_config.eos_token_id
    for rows, tokens in ((1, 2), (3, 9), (2, config.text_config.max_position_embeddings)):
        ids = generator.integers(3, config.text_config.vocab_size - 2, (rows, tokens))
        lengths = generator.integers(2, tokens, (rows, 1), endpoint=True)
        ids = np.where(np.arange(tokens) < lengths - 1, ids, ids.max() + 1 if end == 2 else end)
        mask = (np.arange(tokens) < lengths).astype(np.int64)
        with torch.no_grad():
            theirs = model.get_text_features(torch.tensor(ids), torch.tensor(mask)).numpy()
        (ours,) = sessions["text"].run(None, {"input_ids": ids, "attention_mask": mask})
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    size = config.vision_config.image_size
    for rows in (1, 3):
        pixels = generator.normal(size=(rows, 3, size, size)).astype(np.float32)
        with torch.no_grad():
            theirs = model.get_image_features(torch.tensor(pixels)).numpy()
        (ours,) = sessions["image"].run(None, {"pixel_values": pixels})
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def model_of(checkpoint):
    """Load the checkpoint with transformers."""
    return CLIPModel.from_pretrained(body_of(checkpoint), attn_implementation="eager").eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"text": {"num_hidden_layers": 1}, "vision": {"num_hidden_layers": 1}},
        {"vision": {"patch_size": 16, "hidden_size": 48, "num_attention_heads": 3}, "projection_dim": 40},
        {"vision": {"patch_size": 7}},
        {"vision": {"patch_size": 32}},
        {"text": {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 17, "layer_norm_eps": 1e-3}},
        {"text": {"eos_token_id": 2}},
        {"text": {"max_position_embeddings": 12}},
        *(
            {"text": {"hidden_act": name}, "vision": {"hidden_act": name}}
            for name in ("gelu", "gelu_new", "relu", "silu")
        ),
    ],
    ids=str,
)
def test_native_graphs_match_transformers(tmp_path, changes):
    checkpoint = write_clip(tmp_path / "clip", **changes)
    sessions = sessions_of(build_bodies(read_checkpoint(str(checkpoint))), tmp_path)
    assert_same(sessions, model_of(checkpoint))


def test_null_for_the_second_part_of_old_settings(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", text={"hidden_act": "gelu"})
    edit_json(checkpoint / "config.json", text_config_dict=None, vision_config_dict=None)
    model = model_of(checkpoint)
    assert model.config.text_config.hidden_act == "gelu"
    assert_same(sessions_of(build_bodies(read_checkpoint(str(checkpoint))), tmp_path), model)


def test_padding_with_a_higher_id_than_the_end_token(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", text={"eos_token_id": 2})
    session = sessions_of(build_bodies(read_checkpoint(str(checkpoint))), tmp_path)["text"]
    ids = np.array([[5, 40, 60, 61, 61], [5, 40, 60, 61, 61]])
    mask = np.array([[1, 1, 1, 0, 0]] * 2)
    (padded,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    (alone,) = session.run(None, {"input_ids": ids[:, :3], "attention_mask": mask[:, :3]})
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_old_configurations_hold_settings_twice(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", text={"hidden_act": "gelu"})
    clips.with_old_settings(checkpoint, hidden_act="relu", layer_norm_eps=1e-2)
    model = model_of(checkpoint)
    assert model.config.text_config.hidden_act == "relu"
    assert_same(sessions_of(build_bodies(read_checkpoint(str(checkpoint))), tmp_path), model)


@pytest.fixture(scope="module", params=LAYOUTS)
def exported(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    checkpoint = write_clip(directory / "clip", layout=request.param)
    manifest = export_quietly(checkpoint, directory / "artifact", dtypes=("fp32", "int8", "fp16"))
    return checkpoint, directory / "artifact", manifest


def test_each_layout_gives_the_vectors_of_sentence_transformers(exported):
    checkpoint, artifact, manifest = exported
    assert manifest.parity.min_cosine > 0.99999
    assert manifest.images.parity.min_cosine > 0.99999
    ours, theirs = embedder.Embedder(artifact), SentenceTransformer(str(checkpoint), device="cpu")
    images = [Image.fromarray(image) for image in sample_images()[:20]]
    assert theirs.max_seq_length == ours.max_seq_length == 77
    for inputs in (TEXTS, images):
        cosine, difference = measure(ours.encode(inputs), theirs.encode(inputs))
        assert cosine.min() > 0.999999
        assert difference.max() < 1e-4
    mixed = ours.encode([TEXTS[0], images[0], TEXTS[1]])
    np.testing.assert_allclose(mixed[1], ours.encode(images[0]), atol=1e-5)
    np.testing.assert_allclose(mixed[::2], ours.encode(TEXTS[:2]), atol=1e-5)


def test_photographs_and_captions(exported, data):
    checkpoint, artifact, _ = exported
    ours, theirs = embedder.Embedder(artifact), SentenceTransformer(str(checkpoint), device="cpu")
    rows = [row.split("\t") for row in lines(data / "images/captions.tsv")[1:]]
    paths = [path for row in rows if (path := data / "images" / row[0]).exists()]
    captions = [row[1] for row in rows]
    turned = sorted((data / "images/exif").iterdir())  # both programs turn them as their EXIF data say
    for inputs in (paths, turned, captions):
        cosine, difference = measure(ours.encode(inputs), theirs.encode([str(one) for one in inputs]))
        assert cosine.min() > 0.999999
        assert difference.max() < 1e-4
    opened = [Image.open(path) for path in turned]  # an open image is not turned
    cosine, _ = measure(ours.encode(opened), theirs.encode(opened))
    assert cosine.min() > 0.999999


def test_files_and_settings_of_the_artifact(exported):
    _, artifact, manifest = exported
    assert read_manifest(artifact) == manifest
    assert [graph.file.name for graph in manifest.graphs] == [
        f"{modality}{dtype}.onnx" for modality in ("text", "image") for dtype in ("", ".int8", ".fp16")
    ]
    assert (manifest.images.resize, manifest.images.crop) == ((IMAGE_SIZE,), (IMAGE_SIZE, IMAGE_SIZE))
    assert manifest.images.tokens == 17
    assert (manifest.dimension, manifest.similarity_fn_name, manifest.image_model) == (24, "cosine", None)
    assert manifest.head.layers == ()


@pytest.mark.parametrize(("dtype", "min_cosine"), [("int8", 0.98), ("fp16", 0.9999)])
def test_other_dtypes_are_close_to_fp32(exported, dtype, min_cosine):
    _, artifact, _ = exported
    exact, other = (embedder.Embedder(artifact, dtype=name) for name in ("fp32", dtype))
    for inputs in ([text for text in TEXTS if text.strip()], sample_images()[:20]):
        cosine, _ = measure(other.encode(inputs), exact.encode(inputs))
        assert cosine.min() > min_cosine
        # No vector depends on its batch, in any dtype.
        alone = np.stack([other.encode(one) for one in inputs[:6]])
        tolerance = (1e-3 if dtype == "fp16" else 1e-5) * np.linalg.norm(alone, axis=1).max()
        np.testing.assert_allclose(other.encode(inputs)[:6], alone, atol=tolerance)


def test_auto_falls_back_to_optimum(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", text={"hidden_act": "mish"}, vision={"hidden_act": "relu2"})
    with pytest.raises(NotNativeError, match="'mish' as hidden_act"):
        export_quietly(checkpoint, tmp_path / "artifact", converter="native")
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert {graph.form for graph in manifest.graphs} == {"traced"}
    assert manifest.parity.min_cosine > 0.99999
    assert manifest.images.parity.min_cosine > 0.99999


def test_both_converters_agree(tmp_path):
    checkpoint = write_clip(tmp_path / "clip")
    model = model_of(checkpoint)
    assert_same(sessions_of(trace_bodies(read_checkpoint(str(checkpoint)), tmp_path / "traced"), tmp_path), model)


def test_later_modules_apply_to_both_modalities(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", layout="old", modules=("Normalize",))
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert manifest.head.layers == ("normalize",)
    vectors = embedder.Embedder(tmp_path / "artifact").encode(["a cat", sample_images()[0]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_pooling_after_clip_is_refused(tmp_path):
    checkpoint = write_clip(tmp_path / "clip", layout="old", modules=("Pooling",))
    write_json(checkpoint / "1_Pooling/config.json", {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True})
    with pytest.raises(CheckpointError, match="1 Pooling modules; it should have none, because its transformer pools"):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module_output_name": "token_embeddings"}, "'token_embeddings' as module_output_name"),
        ({"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}}, "modality_config"),
        (
            {"modality_config": clips.NEW_TRANSFORMER["modality_config"] | {"image": {"method": "forward"}}},
            "as modality_config, which is not supported",
        ),
    ],
)
def test_other_outputs_of_clip_are_refused(tmp_path, changes, message):
    checkpoint = write_clip(tmp_path / "clip", layout="new")
    edit_json(checkpoint / "sentence_bert_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(checkpoint))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 1}, "1 as num_channels"),
        ({"patch_size": 64}, "patches of 64 in images of 32"),
        ({"num_attention_heads": 5}, "5 attention heads for a width of 32"),
    ],
)
def test_unsupported_settings_of_the_image_tower(tmp_path, changes, message):
    checkpoint = write_clip(tmp_path / "clip")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    edit_json(checkpoint / "config.json", vision_config=config["vision_config"] | changes)
    with pytest.raises(NotNativeError, match=message):
        build_bodies(read_checkpoint(str(checkpoint)))


def test_missing_weight(tmp_path):
    checkpoint = write_clip(tmp_path / "clip")
    model = model_of(checkpoint)
    weights = {name: weight for name, weight in model.state_dict().items() if name != "visual_projection.weight"}
    model.save_pretrained(checkpoint, state_dict=weights)
    with pytest.raises(CheckpointError, match=r"the weights lack visual_projection.weight"):
        build_bodies(read_checkpoint(str(checkpoint)))


def test_image_settings_in_the_file_of_transformers_5(tmp_path):
    settings = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 2}
    write_json(tmp_path / "processor_config.json", {"image_processor": settings | {"rescale_factor": 0.5}})
    images = read_images(tmp_path, CLIP.image_processor, SIZES)
    assert (images.resize, images.crop, images.resample, images.rescale) == ((40,), (32, 32), "bilinear", 0.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"do_rescale": False, "do_normalize": False}, (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ({"do_rescale": None, "do_normalize": None}, (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        (
            {"image_mean": None, "data_format": "channels_first", "default_to_square": False, "do_normalize": False},
            (1 / 255, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ),
        ({"image_mean": 0.5, "image_std": [0.5, 0.5, 0.25]}, (1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.25))),
    ],
)
def test_numbers_of_the_image_settings(tmp_path, changes, expected):
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSOR | changes)
    images = read_images(tmp_path, CLIP.image_processor, SIZES)
    assert (images.rescale, images.mean, images.std) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor"}, "the image processor 'ViTFeatureExtractor'"),
        ({"do_pad": True}, "True as do_pad, which is not supported"),
        ({"data_format": "channels_last"}, "'channels_last' as data_format, which is not supported"),
        ({"resample": 9}, "cannot be used: .*resample: 9"),
        ({"rescale_factor": None}, "cannot be used"),
        ({"size": {"longest_edge": 40}}, "cannot be used: .*longest_edge"),
        ({"size": "large"}, "cannot be used"),
        ({"image_mean": [1, 2]}, "cannot be used: .*three numbers"),
        ({"image_std": 0}, "cannot be used: .*zero"),
        ({"crop_size": 24}, r"makes images of \[24, 24\] pixels, and the model takes \[32, 32\]"),
        ({"do_center_crop": False}, r"makes images of \[32\] pixels"),
    ],
)
def test_image_settings_that_cannot_be_honoured(tmp_path, changes, message):
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSOR | changes)
    with pytest.raises(CheckpointError, match=message):
        read_images(tmp_path, CLIP.image_processor, SIZES)


def test_image_settings_that_are_missing_or_contradictory(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        read_images(tmp_path, CLIP.image_processor, SIZES)
    write_json(tmp_path / "preprocessor_config.json", PREPROCESSOR)
    write_json(tmp_path / "processor_config.json", {"image_processor": PREPROCESSOR | {"size": 40}})
    with pytest.raises(CheckpointError, match=r"damaged, or differs from preprocessor_config\.json"):
        read_images(tmp_path, CLIP.image_processor, SIZES)


def test_other_image_vectors_fail_the_export(tmp_path, monkeypatch):
    checkpoint = write_clip(tmp_path / "clip")
    reference = parity.sentence_transformers_reference

    def with_reversed_images(checkpoint, max_seq_length):
        right = reference(checkpoint, max_seq_length)

        def encode(inputs, prompt):
            return right.encode(inputs if isinstance(inputs[0], str) else inputs[::-1], prompt)

        return type(right)(right.name, encode)

    monkeypatch.setattr(parity, "sentence_transformers_reference", with_reversed_images)
    with pytest.raises(ParityError, match="worst on 'image "):
        export_fp32(checkpoint, tmp_path / "artifact")
    assert not (tmp_path / "artifact").exists()


def test_text_model_names_its_image_model(tmp_path):
    name = "clip-ViT-B-32-multilingual-v1"
    checkpoint = write_checkpoint(tmp_path / name, modules=("Transformer", "Pooling"))
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert (manifest.image_model, manifest.images) == ("clip-ViT-B-32", None)


def test_command_line(tmp_path, capsys):
    checkpoint = write_clip(tmp_path / "clip", layout="old")
    assert cli.main([str(checkpoint), "--output", str(tmp_path / "artifact")]) == 0
    said = capsys.readouterr().err
    assert "comparing images with sentence-transformers" in said
    assert "image.int8.onnx compared with fp32: mean cosine" in said


def test_sample_images_are_many_and_varied():
    images = sample_images()
    assert len({image.shape for image in images}) > 50
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images)
    assert np.array_equal(images[3], sample_images()[3])
    assert len({float(image.mean()) for image in images}) == len(images)
