"""The tokenizer stage: refused settings, the limit of tokens, and the tokenizer of the artifact."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from embedder_export.body.convert import convert_bodies
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.pipeline import ExportSettings, export
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.limits import ModelLimits
from embedder_export.tokenizer.native import read_natively
from embedder_export.tokenizer.with_transformers import FAST_CLASSES
from tokenizers import Tokenizer, models, normalizers, processors

from embedder.artifact.manifest import TEXT
from tests import families, vocabularies
from tests.checkpoints import edit_json, write_json
from tests.clips import write_clip
from tests.tokenizer_files import (
    MAKERS,
    ROBERTA_SPECIAL,
    TEXTS,
    assert_as_transformers,
    change_files,
    copy_real,
    token,
    write_bare,
    write_tokenizer,
)

NO_LIMITS = ModelLimits()


def convert(directory: Path, limits: ModelLimits = NO_LIMITS, **fields: object) -> ConvertedTokenizer:
    """Run the stage on a checkpoint with the name "small" and these other `fields`."""
    return convert_tokenizer(Checkpoint(directory, directory, "small", None, "", (), **fields), limits)


def test_sentencepiece_model_is_left_to_transformers(tmp_path):
    directory = copy_real(tmp_path / "albert", "albert-base-v2")
    with pytest.raises(NotNativeError, match="it has no tokenizer"):
        read_natively(directory)
    converted = convert(directory, ModelLimits(512, 512))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert Tokenizer.from_str(converted.json).encode("A héllo").ids == tokenizer("A héllo")["input_ids"]
    tokenizer.save_pretrained(tmp_path / "fast")
    assert_as_transformers(tmp_path / "fast")


# transformers can read a tokenizer with one of these settings, so the extra [torch] helps.
UNKNOWN = [
    ({"tokenizer_class": "XLNetTokenizer"}, "its class 'XLNetTokenizer' is not known"),
    ({"model_input_names": "token_type_ids"}, "it has 'token_type_ids' as model_input_names"),
    ({"mask_token": ""}, "it has an empty special token"),
    ({"added_tokens_decoder": {"1": {"content": "x"}}}, "it has the token {'content': 'x'}"),
    ({"added_tokens_decoder": {"1": token("x", other=True)}}, "it has the token"),
    ({"extra_special_tokens": {"image_token": "<image>"}}, "it has extra_special_tokens that are not a list"),
    ({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "it has the setting auto_map"),
]
# transformers fails on these too.
DAMAGED = [
    ({"tokenizer_class": 3}, "it has 3 as tokenizer_class"),
    ({"do_lower_case": "yes"}, "it has 'yes' as do_lower_case"),
    ({"strip_accents": 1}, "it has 1 as strip_accents"),
    ({"tokenize_chinese_chars": []}, "it has [] as tokenize_chinese_chars"),
    ({"split_special_tokens": "no"}, "it has 'no' as split_special_tokens"),
    ({"padding_side": None}, "it has None as padding_side"),
    ({"truncation_side": "up"}, "it has 'up' as truncation_side"),
    ({"mask_token": {"content": "x"}}, "it has the special token {'content': 'x'}"),
    ({"mask_token": {"__type": "AddedToken", "content": 3}}, "it has the token {'content': 3}"),
    ({"additional_special_tokens": "x"}, "it has 'x' as additional_special_tokens"),
    ({"added_tokens_decoder": {"first": token("x")}}, "as added_tokens_decoder"),
    ({"added_tokens_decoder": {"1": token("x", lstrip="no")}}, "it has the token"),
]


@pytest.mark.parametrize(("config", "reason"), UNKNOWN)
def test_settings_that_only_transformers_knows(tmp_path, config, reason):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    with pytest.raises(NotNativeError) as error:
        read_natively(directory)
    assert reason in str(error.value)
    assert transformers.AutoTokenizer.from_pretrained(directory).is_fast


@pytest.mark.parametrize("name", ["tokenizer_file", "fast_tokenizer_files", "vocab_file", "from_slow", "init_inputs"])
def test_settings_that_change_how_a_tokenizer_is_built_are_unknown(tmp_path, name):
    with pytest.raises(NotNativeError, match=f"it has the setting {name}"):
        read_natively(write_tokenizer(tmp_path, "BertTokenizer", {name: None}))


@pytest.mark.parametrize(("config", "reason"), DAMAGED)
def test_damaged_settings(tmp_path, config, reason):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    with pytest.raises(CheckpointError) as error:
        read_natively(directory)
    assert reason in str(error.value)
    with pytest.raises((TypeError, ValueError, AssertionError)):
        transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda d: (d / "tokenizer.model").write_text(""), NotNativeError, "a vocabulary file that only transformers"),
        (lambda d: change_files(d, added_tokens={"new1": 200}), NotNativeError, "'new1' is not in its vocab"),
        (lambda d: change_files(d, added_tokens={"new1": "200"}), CheckpointError, "ids that are not whole numbers"),
        (lambda d: change_files(d, special_tokens_map={"cls_token": "new1"}), NotNativeError, "has no cls_token"),
        (lambda d: change_files(d, special_tokens_map={"cls_token": {"content": 3}}), CheckpointError, "has the token"),
        (lambda d: change_config(d, do_basic_tokenize=False), NotNativeError, "it has no basic tokenisation"),
        (lambda d: change_config(d, tokenizer_class=None), NotNativeError, "its class is not named"),
        (lambda d: (d / "vocab.txt").write_bytes(b"\xff"), CheckpointError, r"vocab\.txt is damaged: 'utf-8' codec"),
    ],
)
def test_unusual_bare_vocabularies(tmp_path, change, error, reason):
    directory = write_bare(tmp_path, "BertTokenizer")
    write_json(directory / "config.json", {"model_type": "novel"})
    change(directory)
    with pytest.raises(error, match=reason):
        read_natively(directory)


def change_config(directory: Path, **changes: object) -> None:
    edit_json(directory / "tokenizer_config.json", **changes)


@pytest.mark.parametrize("contents", [{"vocab": "{"}, {"vocab": "[]"}, {"vocab": '{"a": "b"}'}, {"merges": "v\na\n"}])
def test_damaged_bpe_vocabulary(tmp_path, contents):
    directory = write_bare(tmp_path, "RobertaTokenizer")
    for name, content in contents.items():
        (directory / {"vocab": "vocab.json", "merges": "merges.txt"}[name]).write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"^the tokenizer of small cannot be used: vocab\.json or merges\.txt is"):
        convert(directory)


def test_bert_without_normalizer_is_unknown(tmp_path):
    tokenizer = json.loads(vocabularies.wordpiece().to_str()) | {"normalizer": None}
    directory = write_tokenizer(tmp_path, "BertTokenizer", tokenizer=Tokenizer.from_str(json.dumps(tokenizer)))
    with pytest.raises(NotNativeError, match="it has no normaliser"):
        read_natively(directory)


def test_t5_with_prefix_space_is_unknown(tmp_path):
    directory = write_tokenizer(tmp_path, "T5Tokenizer", {"add_prefix_space": True})
    with pytest.raises(NotNativeError, match="unusual extra_ids, or add_prefix_space"):
        read_natively(directory)


def test_unknown_class_is_read_by_transformers(tmp_path):
    tokenizer = vocabularies.byte_level_bpe()
    directory = write_tokenizer(tmp_path, "GPT2Tokenizer", {"pad_token": "<pad>"}, tokenizer=tokenizer)
    converted = convert(directory)
    judge = transformers.AutoTokenizer.from_pretrained(directory)
    assert Tokenizer.from_str(converted.json).encode(TEXTS[2]).ids == judge(TEXTS[2])["input_ids"]
    assert converted.pad_id == judge.pad_token_id
    assert converted.special_ids == tuple(sorted(judge.all_special_ids))


def test_unknown_class_needs_transformers(tmp_path, without_transformers):
    directory = write_tokenizer(tmp_path, "GPT2Tokenizer", tokenizer=vocabularies.byte_level_bpe())
    message = r"^the tokenizer cannot be read here: its class 'GPT2Tokenizer' is not known: that needs torch"
    with pytest.raises(NeedsTorchError, match=message + r'.*pip install "embedder-export\[torch\]"'):
        convert(directory)


@pytest.mark.parametrize("kind", ["BertJapaneseTokenizer", "NovelTokenizer", "NovelTokenizerFast", "XLNet"])
def test_message_suggests_no_torch_for_a_class_that_transformers_lacks(tmp_path, without_transformers, kind):
    directory = write_tokenizer(tmp_path, kind, tokenizer=vocabularies.wordpiece())
    message = f"its class '{kind}' is not known; transformers has no fast version of it either$"
    with pytest.raises(CheckpointError, match=message):
        convert(directory)


def test_fast_classes_are_those_of_transformers():
    """The list is the one of the version in the extra [torch]."""
    mapping = transformers.models.auto.tokenization_auto.TOKENIZER_MAPPING_NAMES
    names = {fast for _, fast in mapping.values() if fast} | {name for name in dir(transformers) if _is_fast(name)}
    assert {name.removesuffix("Fast") for name in names} - {"PreTrainedTokenizer"} == FAST_CLASSES


def _is_fast(name: str) -> bool:
    return name.endswith("TokenizerFast")


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_known_classes_need_no_transformers(tmp_path, without_transformers, kind):
    assert convert(write_tokenizer(tmp_path, kind), ModelLimits(64, 64)).max_seq_length == 64


@pytest.fixture
def without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)


@pytest.mark.parametrize("kind", ["NovelTokenizer", "BertJapaneseTokenizer"])
def test_class_that_transformers_cannot_read_either(tmp_path, kind):
    directory = write_tokenizer(tmp_path, kind, tokenizer=vocabularies.wordpiece())
    message = f"its class '{kind}' is not known, and transformers {transformers.__version__} cannot read it either: "
    with pytest.raises(CheckpointError, match=message):
        convert(directory)


def test_slow_tokenizer_is_refused(tmp_path, monkeypatch):
    slow = SimpleNamespace(from_pretrained=lambda *arguments, **options: SimpleNamespace(is_fast=False))
    monkeypatch.setattr("transformers.AutoTokenizer", slow)
    directory = write_tokenizer(tmp_path, "XLMTokenizer", tokenizer=vocabularies.byte_level_bpe())
    with pytest.raises(CheckpointError, match="its class 'XLMTokenizer' is not known, and transformers has no fast"):
        convert(directory)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("kind", "looked_for"),
    [
        (None, "any of merges.txt, sentencepiece.bpe.model, spiece.model, tokenizer.model, vocab.json, vocab.txt"),
        ("BertTokenizer", "neither tokenizer.json nor any of merges.txt, "),
        ("XLNetTokenizer", "neither tokenizer.json nor any of merges.txt, "),
    ],
)
def test_checkpoint_without_files_of_a_tokenizer(tmp_path, request, kind, looked_for, installed):
    if not installed:
        request.getfixturevalue("without_transformers")
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    if kind is not None:
        write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": kind})
    with pytest.raises(
        CheckpointError, match=r"^the tokenizer of small cannot be used: its files are missing: "
    ) as error:
        convert(tmp_path)
    assert looked_for in str(error.value)


@pytest.mark.parametrize(
    ("kind", "files", "missing"),
    [
        ("BertTokenizer", ["spiece.model"], "has no tokenizer.json and no vocab.txt"),
        ("RobertaTokenizer", ["vocab.json"], "has no tokenizer.json and no merges.txt"),
        ("CLIPTokenizer", ["merges.txt"], "has no tokenizer.json and no vocab.json"),
        ("XLMRobertaTokenizer", ["vocab.txt"], "has no tokenizer.json and no sentencepiece.bpe.model"),
        ("T5Tokenizer", ["vocab.txt"], "has no tokenizer.json and no spiece.model"),
        ("PreTrainedTokenizerFast", ["vocab.txt"], "has no tokenizer.json"),
        ("TokenizersBackend", ["vocab.txt"], "has no tokenizer.json"),
    ],
)
def test_checkpoint_without_the_files_of_its_class(tmp_path, kind, files, missing):
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": kind})
    for name in files:
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"^the tokenizer of small cannot be used: its files are missing: "
    ) as error:
        convert(tmp_path)
    assert str(error.value).endswith(missing)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"truncation_side": "left"}, "it cuts long texts at their start, which is not supported"),
        ({"split_special_tokens": True}, r"it splits special tokens \(split_special_tokens\), which is not supported"),
        ({"model_max_length": 2}, "a limit of 2 tokens leaves no room for a text beside 2 special tokens"),
        ({"model_max_length": 0}, "its limit for a text is 0 tokens; it must be 1 or more"),
        ({"model_max_length": "48"}, "it has '48' as model_max_length"),
        ({"model_max_length": True}, "it has True as model_max_length"),
        ({"model_max_length": float("-inf")}, "its limit for a text is -inf tokens"),
    ],
)
def test_settings_that_the_runtime_does_not_support(tmp_path, config, message):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    with pytest.raises(CheckpointError, match=f"^the tokenizer of small cannot be used: {message}"):
        convert(directory)


def test_token_types_are_refused_if_the_model_gets_them(tmp_path):
    tokenizer = vocabularies.wordpiece()
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:1 [SEP]:1", special_tokens=frame)
    with pytest.raises(CheckpointError, match="it gives token types other than 0, which is not supported"):
        convert(write_tokenizer(tmp_path, "BertTokenizer", tokenizer=tokenizer))
    directory = write_tokenizer(tmp_path / "distilbert", "DistilBertTokenizer", tokenizer=tokenizer)
    assert convert(directory).pad_id == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_file(tmp_path, without_transformers, name):
    directory = write_tokenizer(tmp_path, "BertTokenizer")
    (directory / name).write_text("{", encoding="utf-8")
    message = f"^the tokenizer of small cannot be used: .*{name} (is damaged|cannot be read): "
    with pytest.raises(CheckpointError, match=message):
        convert(directory)


def test_tokenizer_that_fails_on_a_text(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[CLS]": 0, "[SEP]": 1, "[PAD]": 2}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    directory = write_tokenizer(tmp_path, "BertTokenizer", {"unk_token": None, "mask_token": None}, tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match=r"^the tokenizer of small cannot be used: it fails on a text: "):
        convert(directory)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_an_id_past_the_table_is_refused(tmp_path, kind):
    directory = write_tokenizer(tmp_path, kind, {"additional_special_tokens": [], "extra_ids": 0})
    rows = read_natively(directory).backend.get_vocab_size(with_added_tokens=True)
    assert convert(directory, ModelLimits(vocabulary_size=rows)).max_seq_length == 8192
    change_config(directory, additional_special_tokens=["<one more>"])
    message = f"its token '<one more>' has the id {rows}, and the model's table of word embeddings has only {rows} rows"
    with pytest.raises(CheckpointError, match=message):
        convert(directory, ModelLimits(vocabulary_size=rows))


@pytest.mark.parametrize("converter", ["native", "optimum"])
@pytest.mark.parametrize(
    "make",
    [
        families.albert,
        families.bert,
        families.distilbert_cls_dot,
        families.instructor,
        families.mpnet,
        families.multilingual_mpnet,
        families.roberta,
        lambda directory, full: write_clip(directory),
    ],
)
def test_an_id_past_the_table_is_refused_in_every_family(tmp_path, make, converter):
    directory = families.seeded(make, tmp_path / "checkpoint")
    checkpoint = read_checkpoint(str(directory))
    rows = convert_bodies(checkpoint, converter, tmp_path / "bodies", print)[TEXT].sizes.vocabulary_size
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert max(tokenizer.get_vocab().values()) == rows - 1
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=f"'<one more>' has the id {rows}, and .* has only {rows} rows"):
        export(checkpoint, tmp_path / "artifact", print, ExportSettings(converter))
    assert not (tmp_path / "artifact").exists()


def test_an_id_past_the_table_is_refused_where_ids_have_gaps(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "far": 9}))
    tokenizer.normalizer = normalizers.BertNormalizer()
    directory = write_tokenizer(tmp_path, "BertTokenizer", {"mask_token": None}, tokenizer=tokenizer)
    convert(directory, ModelLimits(vocabulary_size=10))
    with pytest.raises(
        CheckpointError, match=r"its token 'far' has the id 9, and the model's table .* has only 9 rows"
    ):
        convert(directory, ModelLimits(vocabulary_size=9))


@pytest.mark.parametrize(
    ("own", "config", "positions", "usable_positions", "limit"),
    [
        (None, {}, None, None, 8192),
        (None, {"model_max_length": 48}, None, None, 48),
        (None, {"model_max_length": 48}, 40, None, 40),
        (None, {"model_max_length": 512}, 514, 512, 512),
        (32, {"model_max_length": 16}, 16, None, 32),
        (600, {}, 514, 512, 512),
        (None, {}, 514, 512, 512),
        (None, {"model_max_length": 1_000_001}, None, None, 8192),
        (2_000_000, {}, None, None, 8192),
        (None, {"model_max_length": float("inf")}, None, None, 8192),
    ],
)
def test_limit_of_tokens(tmp_path, own, config, positions, usable_positions, limit):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    converted = convert(directory, ModelLimits(positions, usable_positions), max_seq_length=own)
    assert converted.max_seq_length == limit


def test_truncation_and_padding_are_removed(tmp_path):
    tokenizer = vocabularies.wordpiece()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    directory = write_tokenizer(tmp_path, "BertTokenizer", tokenizer=tokenizer)
    content = json.loads(convert(directory).json)
    assert (content["truncation"], content["padding"]) == (None, None)


@pytest.mark.parametrize("kind", ["BertTokenizer", "RobertaTokenizer"])
def test_the_checkpoints_own_lower_casing_comes_first(tmp_path, kind):
    directory = write_tokenizer(tmp_path, kind, {"do_lower_case": False})
    cased, lowered = (Tokenizer.from_str(convert(directory, lowercase=flag).json) for flag in (False, True))
    assert lowered.encode("The HAT").ids == cased.encode("the hat").ids != cased.encode("The HAT").ids


def test_lower_casing_is_not_added_twice(tmp_path):
    tokenizer = vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A </s>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    directory = write_tokenizer(tmp_path, "XLMRobertaTokenizer", tokenizer=tokenizer)
    content = json.loads(convert(directory, lowercase=True).json)
    assert [step["type"] for step in content["normalizer"]["normalizers"]] == ["NFC", "Lowercase"]
