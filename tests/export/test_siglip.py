"""SigLIP: what is refused, and the tokens of its own tokenizer class, read from spiece.model without SentencePiece."""

import json
import math

import numpy as np
import pytest
import sentencepiece
import torch
from embedder_export.checkpoint.match_logits import read_match_logits
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.pipeline import ExportSettings, export
from embedder_export.samples.texts import parity_sentences
from embedder_export.tokenizer.native import read_natively
from embedder_export.tokenizer.sentencepiece_file import read_unigram
from tokenizers import Tokenizer
from transformers import SiglipModel, SiglipTokenizer

import embedder
from tests.checkpoints import edit_json, write_json
from tests.exports import export_fp32
from tests.siglips import NORMAL, PUBLISHED, UNUSED, USER_DEFINED, write_siglip, write_spiece, write_tokenizer
from tests.tokenizer_files import TEXTS

ODD_TEXTS = [
    *TEXTS,
    *parity_sentences()[::3],
    " leading",
    "! bang",
    "(a) b_c don't",
    "x▁y ▁",
    "... --- ...",
    "\x1cfs\x1d \u3000 \ufeff",
    "ΟΔΟΣ ΑΣ Σ Σα",
    "İ ẞ ǅ ﬁ ½",
    "a </s>, b <unk> c",
    "１２３，　４",
]


def assert_same_tokens(directory, judge):
    """Compare the token ids with those of transformers' class, which uses SentencePiece."""
    ours = Tokenizer.from_str(read_natively(directory).backend.to_str())
    for text in ODD_TEXTS:
        expected = judge(text.replace("Σ", "σ"))["input_ids"]  # transformers 5 lower-cases a final sigma otherwise
        assert ours.encode(text.replace("Σ", "σ")).ids == expected, text


def train(path, **settings):
    """Train a small SentencePiece model as SigLIP's are: Unigram, with </s> as id 1.

    Texts that repeat few characters are left out. Of pieces such as "xx" and "xxx", several sequences have one score.
    """
    texts = [text for text in parity_sentences() if len(text) < 10 * len(set(text))]
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts * 2),
            model_writer=stream,
            vocab_size=1200,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
            **settings,
        )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"normalization_rule_name": "identity"},
        {"byte_fallback": True, "user_defined_symbols": ["▁<extra_id_0>"]},
        {"split_by_whitespace": False},
    ],
    ids=str,
)
def test_tokens_are_those_of_sentencepiece(tmp_path, settings):
    write_tokenizer(tmp_path, "SiglipTokenizer")
    train(tmp_path / "spiece.model", **settings)
    assert_same_tokens(tmp_path, SiglipTokenizer.from_pretrained(tmp_path))


def test_final_sigma_is_that_of_python(tmp_path):
    write_tokenizer(tmp_path, "SiglipTokenizer")
    backend = read_natively(tmp_path).backend
    for text in ("ΟΔΟΣ", "ΑΣ ΣΑ", "Α.Σ", "Σ", "ΑΣ'Α", "ΑΣ\u0301", "1Σ"):
        kept = backend.normalizer.normalize_str(text).removeprefix("▁").replace("▁", " ")
        assert kept == text.lower().replace(".", "").replace("'", "")


def test_case_is_kept_if_a_setting_says_so(tmp_path):
    write_tokenizer(tmp_path, "SiglipTokenizer", PUBLISHED | {"do_lower_case": False})
    assert_same_tokens(tmp_path, SiglipTokenizer.from_pretrained(tmp_path))
    assert read_natively(tmp_path).backend.encode("A.").tokens == ["▁", "A", "</s>"]


def test_settings_as_transformers_5_writes_them(tmp_path):
    token = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {"1": token | {"content": "</s>"}, "2": token | {"content": "<unk>"}}
    write_tokenizer(tmp_path, "SiglipTokenizer", PUBLISHED | {"added_tokens_decoder": added})
    judge = SiglipTokenizer.from_pretrained(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", extra_special_tokens=[], backend="sentencepiece", sp_model_kwargs={})
    assert_same_tokens(tmp_path, judge)
    assert read_natively(tmp_path).special_ids == (1, 2)


def test_tokenizer_json_beside_spiece_model_does_not_count(tmp_path):
    write_tokenizer(tmp_path, "GemmaTokenizer")
    write_tokenizer(tmp_path, "SiglipTokenizer")
    assert read_natively(tmp_path).backend.encode("cat").tokens == ["▁cat", "</s>"]


def test_spiece_model_is_missing_or_damaged(tmp_path):
    write_tokenizer(tmp_path, "SiglipTokenizer")
    content = (tmp_path / "spiece.model").read_bytes()
    for damaged in (content[:-8], b"\x0a", b"\x0f" + content, b"\xff" * 12):
        (tmp_path / "spiece.model").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"spiece.model is damaged"):
            read_natively(tmp_path)
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"has no spiece.model"):
        read_natively(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": b"\x18\x02"}, "not a Unigram model"),
        ({"normalizer": b"\x20\x00"}, "treats spaces in an unusual way"),
        ({"extra": [("spare", UNUSED)]}, "has unused pieces"),
        ({"extra": [("word", USER_DEFINED)]}, "pieces that users defined"),
    ],
    ids=str,
)
def test_unusual_sentencepiece_models(tmp_path, content, message):
    write_tokenizer(tmp_path, "SiglipTokenizer")
    write_spiece(tmp_path / "spiece.model", **content)
    with pytest.raises(NotNativeError, match=message):
        read_natively(tmp_path)


def test_settings_of_sentencepiece_are_not_known(tmp_path):
    write_tokenizer(tmp_path, "SiglipTokenizer", PUBLISHED | {"sp_model_kwargs": {"enable_sampling": True}})
    with pytest.raises(NotNativeError, match="sp_model_kwargs"):
        read_natively(tmp_path)
    write_tokenizer(tmp_path, "SiglipTokenizer", {"model_specific_special_tokens": {"image_token": "<image>"}})
    with pytest.raises(NotNativeError, match="model_specific_special_tokens"):
        read_natively(tmp_path)


def test_pieces_of_a_model(tmp_path):
    count = write_spiece(tmp_path / "spiece.model", [("longer", NORMAL), ("<extra_id_0>", USER_DEFINED)])
    model = read_unigram(tmp_path / "spiece.model")
    assert (len(model.pieces), model.unknown_id, model.user_defined) == (count, 2, (count - 1,))
    assert (model.pieces[1], model.pieces[-2][0], model.has_bytes) == (("</s>", 0.0), "longer", False)


def test_vectors_with_the_own_tokenizer_class(tmp_path):
    checkpoint = write_siglip(tmp_path / "siglip", tokenizer="SiglipTokenizer")
    export_fp32(checkpoint, tmp_path / "artifact")
    texts = ["", "The CAT!", "the cat " * 60]
    judge, model = SiglipTokenizer.from_pretrained(checkpoint), SiglipModel.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        tokens = judge(texts, padding="max_length", truncation=True, return_tensors="pt")
        theirs = model.get_text_features(**tokens).numpy()
    np.testing.assert_allclose(embedder.Embedder(tmp_path / "artifact").encode(texts), theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision_config", {"num_channels": 1}, "1 as num_channels"),
        ("vision_config", {"patch_size": 64}, "patches of 64 in images of 32"),
        ("vision_config", {"vision_use_head": False}, "False as vision_use_head"),
        ("text_config", {"num_attention_heads": 5}, "5 attention heads for a width of 72"),
        ("text_config", {"hidden_act": "mish"}, "'mish' as hidden_act"),
        ("text_config", {"projection_size": 40}, "vectors of texts have 40 numbers, and those of images 72"),
        ("text_config", None, "'none' as text_config"),
    ],
)
def test_settings_that_cannot_be_honoured(tmp_path, part, changes, message):
    checkpoint = write_siglip(tmp_path / "siglip")
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    edit_json(checkpoint / "config.json", **{part: "none" if changes is None else config[part] | changes})
    with pytest.raises(CheckpointError, match=message):
        export_fp32(checkpoint, tmp_path / "artifact")


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("siglip2", "a NaFlex model of SigLIP 2, whose images have many sizes and shapes"),
        ("siglip_vision_model", "one tower of a SigLIP"),
        ("siglip_text_model", "one tower of a SigLIP"),
    ],
)
def test_refused_models(tmp_path, model_type, message):
    checkpoint = write_siglip(tmp_path / "siglip")
    edit_json(checkpoint / "config.json", model_type=model_type)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(str(checkpoint))


def test_tracing_is_refused(tmp_path):
    checkpoint = read_checkpoint(str(write_siglip(tmp_path / "siglip")))
    with pytest.raises(CheckpointError, match="cannot be traced, because all texts are padded to one length"):
        export(checkpoint, tmp_path / "artifact", print, ExportSettings(converter="optimum"))


@pytest.mark.parametrize("value", [{"text": {"padding": True}}, {"image": {}}, [1]])
def test_other_settings_of_the_processor_are_refused(tmp_path, value):
    checkpoint = write_siglip(tmp_path / "siglip", layout="new")
    edit_json(checkpoint / "sentence_bert_config.json", processing_kwargs=value)
    with pytest.raises(CheckpointError, match="as processing_kwargs, which is not supported"):
        read_checkpoint(str(checkpoint))
    edit_json(checkpoint / "sentence_bert_config.json", processing_kwargs={"text": {"padding": "max_length"}})
    assert read_checkpoint(str(checkpoint)).family.pads_texts


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"logit_scale": None}, "the weights lack logit_scale"),
        ({"logit_bias": torch.zeros(2)}, r"logit_bias of shape \(2,\), not \(1,\)"),
        ({"logit_scale": torch.full((1,), 1e4)}, "10000.0 as logit_scale"),
        ({"logit_bias": torch.full((1,), math.inf)}, "inf as logit_bias"),
    ],
)
def test_weights_of_the_logits(tmp_path, weights, message):
    checkpoint = write_siglip(tmp_path / "siglip")
    found = read_match_logits(checkpoint)
    assert (found.scale, found.bias) == (pytest.approx(math.exp(2.5)), -3.0)
    model = SiglipModel.from_pretrained(checkpoint)
    state = {name: weight for name, weight in (model.state_dict() | weights).items() if weight is not None}
    model.save_pretrained(checkpoint, state_dict=state)
    with pytest.raises(CheckpointError, match=message):
        read_match_logits(checkpoint)


def test_missing_weight(tmp_path):
    checkpoint = write_siglip(tmp_path / "siglip")
    model = SiglipModel.from_pretrained(checkpoint)
    state = {name: weight for name, weight in model.state_dict().items() if name != "vision_model.head.probe"}
    model.save_pretrained(checkpoint, state_dict=state)
    with pytest.raises(CheckpointError, match=r"the weights lack vision_model\.head\.probe"):
        export_fp32(checkpoint, tmp_path / "artifact")


def test_image_processor_of_another_size(tmp_path):
    checkpoint = write_siglip(tmp_path / "siglip", preprocessor={"size": {"height": 24, "width": 24}})
    with pytest.raises(CheckpointError, match=r"makes images of \[24, 24\] pixels, and the model takes \[32, 32\]"):
        export_fp32(checkpoint, tmp_path / "artifact")
    write_json(checkpoint / "preprocessor_config.json", {"image_processor_type": "Siglip2ImageProcessor"})
    with pytest.raises(CheckpointError, match="the image processor 'Siglip2ImageProcessor', which is not supported"):
        export_fp32(checkpoint, tmp_path / "artifact")
