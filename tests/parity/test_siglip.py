"""SigLIP gives the vectors of sentence-transformers, and the probabilities of transformers.

Texts are padded to the longest length there, as the models were trained. By default sentence-transformers pads them to
the longest text of a batch. Then the vector of a text depends on the other texts, and no program can give the same one.
"""

import numpy as np
import pytest
import torch
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.samples.images import sample_images
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import SiglipModel

import embedder
from embedder.artifact.padded_tokens import padded_tokens
from tests.checkpoints import edit_json
from tests.exports import export_fp32, export_quietly
from tests.siglips import LAYOUTS, PUBLISHED, body_of, write_siglip

TEXTS = ["", "a cat", "The CAT, outside!", "日本語 and more", "  spaces  ", "éß 🙂", "word " * 40, "the cat " * 50]
PADDED = {"text": {"padding": "max_length"}}
# A cosine with a reference is at least this. Both compute in float32.
CLOSE = 0.999999


def picture(width, height, mode="RGB"):
    """Return a Pillow image with random blocks of colour."""
    blocks = np.random.default_rng(width).integers(0, 256, (-(-height // 5), -(-width // 5), 3), np.uint8)
    pixels = blocks.repeat(5, 0).repeat(5, 1)[:height, :width]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert(mode)


# Odd sizes, one pixel, large, and other modes. (transformers confuses the axes of images 1 or 3 pixels high.)
IMAGES = [picture(33, 47), picture(2, 2), picture(900, 600), picture(32, 32), picture(500, 5)]
IMAGES += [picture(40, 30, "L"), picture(40, 30, "RGBA")]


def assert_close(ours, theirs):
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ((ours * theirs).sum(axis=1) / norms).min() > CLOSE
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def reference_of(checkpoint):
    return SentenceTransformer(str(checkpoint), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("siglip")
    checkpoint = write_siglip(directory / "siglip")
    export_quietly(checkpoint, directory / "artifact", dtypes=("fp32", "int8", "fp16"))
    return checkpoint, directory / "artifact"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_vectors_of_sentence_transformers(tmp_path, layout):
    checkpoint = write_siglip(tmp_path / "siglip", layout=layout)
    manifest = export_fp32(checkpoint, tmp_path / "artifact")
    assert "sentence-transformers 6" in manifest.parity.reference
    assert min(manifest.parity.min_cosine, manifest.images.parity.min_cosine) > CLOSE
    assert (manifest.head.pooling, manifest.head.layers) == (("lasttoken",), ())
    ours, theirs = embedder.Embedder(tmp_path / "artifact"), reference_of(checkpoint)
    assert ours.max_seq_length == theirs.max_seq_length == 64
    assert_close(ours.encode(TEXTS), theirs.encode(TEXTS, processing_kwargs=PADDED))
    assert_close(ours.encode(IMAGES), theirs.encode(IMAGES))
    mixed = ours.encode([TEXTS[1], IMAGES[0]])
    assert_close(mixed, np.stack([ours.encode(TEXTS[1]), ours.encode(IMAGES[0])]))


@pytest.mark.parametrize("dtype", ["fp32", "int8", "fp16"])
def test_vectors_do_not_depend_on_their_batch(exported, dtype):
    _, artifact = exported
    model = embedder.Embedder(artifact, dtype=dtype)
    exact = embedder.Embedder(artifact, dtype="fp32")
    for inputs in (TEXTS, IMAGES):
        together, alone = model.encode(inputs), np.stack([model.encode(one) for one in inputs])
        np.testing.assert_allclose(together, alone, atol=1e-2 if dtype == "fp16" else 1e-5)
        right = exact.encode(inputs)
        cosines = (together * right).sum(axis=1) / np.linalg.norm(together, axis=1) / np.linalg.norm(right, axis=1)
        assert cosines.min() > {"fp32": CLOSE, "int8": 0.98, "fp16": 0.9999}[dtype]


def test_probabilities_are_those_of_transformers(exported):
    checkpoint, artifact = exported
    ours, theirs = embedder.Embedder(artifact), SiglipModel.from_pretrained(body_of(checkpoint)).eval()
    prepare = reference_of(checkpoint)[0].processor
    inputs = prepare(text=TEXTS, images=IMAGES, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = torch.sigmoid(theirs(**inputs).logits_per_image).numpy()
    found = ours.match_probabilities(ours.encode(IMAGES), ours.encode(TEXTS))
    assert found.shape == (len(IMAGES), len(TEXTS))
    assert expected.max() - expected.min() > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-5)


MASKED = {"model_max_length": 64}  # the classes give a mask, unless a setting says no


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("GemmaTokenizer", MASKED),  # the class pads on the left
        ("GemmaTokenizer", MASKED | {"padding_side": "right"}),
        ("Siglip2Tokenizer", PUBLISHED),
        ("Siglip2Tokenizer", PUBLISHED | {"padding_side": "left"}),
        ("PreTrainedTokenizerFast", MASKED),
    ],
    ids=str,
)
def test_padding_of_the_tokenizer(tmp_path, kind, settings):
    checkpoint = write_siglip(tmp_path / "siglip", tokenizer=kind, settings=settings)
    export_fp32(checkpoint, tmp_path / "artifact")
    theirs = reference_of(checkpoint).encode(TEXTS, processing_kwargs=PADDED)
    assert_close(embedder.Embedder(tmp_path / "artifact").encode(TEXTS), theirs)


SIZE_40 = {"size": {"height": 40, "width": 40}, "do_normalize": False}


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"settings": PUBLISHED | {"model_max_length": 20}, "vision": {"image_size": 40}, "preprocessor": SIZE_40}, 20),
        ({"text": {"max_position_embeddings": 70}, "settings": PUBLISHED | {"model_max_length": 70}}, 70),
        ({"text": {"hidden_size": 48, "num_attention_heads": 4, "projection_size": 72, "num_hidden_layers": 1}}, 64),
        ({"text": {"layer_norm_eps": 1e-3, "hidden_act": "gelu"}, "vision": {"hidden_act": "quick_gelu"}}, 64),
        ({"vision": {"patch_size": 14, "num_attention_heads": 6}, "preprocessor": {"resample": 2}}, 64),
    ],
    ids=str,
)
def test_settings(tmp_path, changes, limit):
    checkpoint = write_siglip(tmp_path / "siglip", **changes)
    assert padded_tokens(export_fp32(checkpoint, tmp_path / "artifact")) == limit
    ours, theirs = embedder.Embedder(tmp_path / "artifact"), reference_of(checkpoint)
    assert ours.max_seq_length == theirs.max_seq_length == limit
    assert_close(ours.encode(TEXTS), theirs.encode(TEXTS, processing_kwargs=PADDED))
    assert_close(ours.encode(IMAGES), theirs.encode(IMAGES))


def test_what_sentence_transformers_saves(tmp_path):
    reference = reference_of(write_siglip(tmp_path / "siglip"))
    reference[0].processing_kwargs = PADDED
    reference.save(str(tmp_path / "saved"))
    manifest = export_fp32(tmp_path / "saved", tmp_path / "artifact")
    assert manifest.parity.min_cosine > CLOSE
    theirs = reference_of(tmp_path / "saved").encode(TEXTS)  # the settings in the file pad
    assert_close(embedder.Embedder(tmp_path / "artifact").encode(TEXTS), theirs)


def test_max_seq_length_of_sentence_transformers(tmp_path):
    checkpoint = write_siglip(tmp_path / "siglip", layout="new")
    edit_json(checkpoint / "sentence_bert_config.json", max_seq_length=30)
    assert read_checkpoint(str(checkpoint)).max_seq_length == 30
    export_fp32(checkpoint, tmp_path / "artifact")
    ours = embedder.Embedder(tmp_path / "artifact")
    assert ours.max_seq_length == 30
    assert_close(ours.encode(TEXTS), reference_of(checkpoint).encode(TEXTS, processing_kwargs=PADDED))


def test_photographs(exported, data):
    checkpoint, artifact = exported
    paths = sorted((data / "images/photos").iterdir())
    ours, theirs = embedder.Embedder(artifact), reference_of(checkpoint)
    assert_close(ours.encode(paths), theirs.encode([str(path) for path in paths]))
    arrays = [Image.fromarray(image) for image in sample_images()[:20]]
    assert_close(ours.encode(arrays), theirs.encode(arrays))
