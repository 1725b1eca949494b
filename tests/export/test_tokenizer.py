"""Tokenizers that are read natively equal the tokenizers that transformers reads from the same files."""

import json
from pathlib import Path

import pytest
import transformers
from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes import CLASS_OF_5, CLASSES, usual_class
from embedder_export.tokenizer.native import read_natively
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers

from tests.checkpoints import edit_json, write_json
from tests.tokenizer_files import (
    BARE_CLASSES,
    MAKERS,
    assert_as_transformers,
    assert_same,
    copy_real,
    token,
    write_bare,
    write_tokenizer,
)

MODEL_TYPES = ["albert", "bert", "camembert", "clip", "distilbert", "electra", "mpnet", "roberta", "t5", "xlm-roberta"]
CONFIGS = [
    {},
    {"do_lower_case": True, "tokenize_chinese_chars": False, "strip_accents": True},
    {"do_lower_case": False, "tokenize_chinese_chars": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": None, "model_max_length": 512},
    {"add_prefix_space": False, "trim_offsets": False, "model_max_length": 10**30},
    {"model_max_length": None, "max_len": 7},
    {"max_len": 7},
    {"additional_special_tokens": ["[new3]", "new1", "the"]},
    {"additional_special_tokens": [token("new1", lstrip=True) | {"__type": "AddedToken"}]},
    {"additional_special_tokens": None},
    {"pad_token": None, "mask_token": "the", "bos_token": "new1"},
    {"mask_token": token("<new4>", lstrip=True, normalized=True) | {"__type": "AddedToken"}},
    {"unk_token": "new1", "cls_token": "new2", "pad_token": "[PAD]"},
    {"added_tokens_decoder": {}},
    {"added_tokens_decoder": {"0": token("<s>", lstrip=True), "200": token("new2", special=False, normalized=True)}},
    {"added_tokens_decoder": {"9": token("the", rstrip=True, special=True)}, "mask_token": "the"},
    {"model_input_names": ["input_ids", "token_type_ids"], "split_special_tokens": True, "truncation_side": "left"},
    {"padding_side": "left", "clean_up_tokenization_spaces": True, "special_tokens_map_file": "/nowhere", "legacy": 1},
]


def test_every_class_has_a_small_tokenizer_here():
    # test_tokenizer_of_transformers_5 tests the first one, tests/parity/test_decoders.py the next three, and the tests
    # of SigLIP the last two.
    elsewhere = {CLASS_OF_5, "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer"}
    elsewhere |= {"SiglipTokenizer", "Siglip2Tokenizer"}
    assert {*MAKERS} == {*CLASSES} - elsewhere


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: ",".join(config) or "none")
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_each_class_with_each_setting(tmp_path, kind, config):
    if kind == "T5Tokenizer" and "add_prefix_space" in config:
        config = config | {"add_prefix_space": None}
    assert_as_transformers(write_tokenizer(tmp_path, kind, config))
    if kind in BARE_CLASSES and not config.get("added_tokens_decoder") and "new1" not in config.values():
        assert_as_transformers(write_bare(tmp_path / "bare", kind, config))


@pytest.mark.parametrize("kind", [*MAKERS, "BertTokenizerFast", "PreTrainedTokenizerFast"])
def test_transformers_loads_the_same_class(tmp_path, kind):
    maker = MAKERS[kind.removesuffix("Fast")]
    directory = write_tokenizer(tmp_path, kind, {"do_lower_case": False}, tokenizer=maker())
    judge = transformers.AutoTokenizer.from_pretrained(directory)
    assert type(judge).__name__ == kind.removesuffix("Fast") + "Fast"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": None}])
def test_class_follows_from_the_model_type(tmp_path, model_type, config):
    directory = write_tokenizer(tmp_path, usual_class(model_type))
    write_json(directory / "config.json", {"model_type": model_type, "tokenizer_class": None})
    if config is None:
        (directory / "tokenizer_config.json").unlink()
    else:
        write_json(directory / "tokenizer_config.json", config)
    assert_as_transformers(directory)


def test_class_in_the_models_configuration(tmp_path):
    directory = write_tokenizer(tmp_path, "XLMRobertaTokenizer", {"tokenizer_class": None})
    write_json(directory / "config.json", {"model_type": "bert", "tokenizer_class": "XLMRobertaTokenizer"})
    assert not assert_as_transformers(directory).has_token_types


@pytest.mark.parametrize(
    "special",
    [
        {"mask_token": token("<mask>", lstrip=True), "pad_token": "new1"},
        {"cls_token": token("new2"), "additional_special_tokens": ["new1", token("[new3]", rstrip=True)]},
        {"additional_special_tokens": ["<new4>", "<new4>"], "model_max_length": 9},
        {"unk_token": None, "additional_special_tokens": []},
        {"additional_special_tokens": None},
    ],
)
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_special_tokens_map_of_an_old_checkpoint(tmp_path, kind, special):
    directory = write_tokenizer(tmp_path, kind, {"additional_special_tokens": ["new1", "the"], "mask_token": "the"})
    write_json(directory / "special_tokens_map.json", special)
    assert_as_transformers(directory)
    edit_json(directory / "tokenizer_config.json", added_tokens_decoder={"4": token("<mask>", special=True)})
    assert_as_transformers(directory)  # with added_tokens_decoder the map is not read


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_added_tokens_of_an_old_checkpoint(tmp_path, kind):
    directory = write_tokenizer(tmp_path, kind, {"bos_token": "new1", "additional_special_tokens": ["[new3]"]})
    write_json(directory / "added_tokens.json", {"new2": 300, "new1": 250, "the": 240, "[new3]": 301})
    assert_as_transformers(directory)


def test_tokens_options_and_limits_of_tokenizer_json(tmp_path):
    for kind, make in MAKERS.items():
        tokenizer = make()
        tokenizer.add_special_tokens([AddedToken("[MASK]", rstrip=True), "the"])
        tokenizer.add_tokens([AddedToken("new1", single_word=True), AddedToken("NEW1", normalized=False), "[PAD]"])
        tokenizer.enable_truncation(5, direction="left")
        tokenizer.enable_padding(pad_token="new1", pad_id=9, direction="left")
        native = assert_as_transformers(write_tokenizer(tmp_path / kind, kind, tokenizer=tokenizer))
        assert native.truncation_side == "left"


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)]),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
    ],
)
@pytest.mark.parametrize("config", [{}, {"add_prefix_space": False}, {"add_prefix_space": True}])
def test_prefix_space_of_other_pre_tokenizers(tmp_path, pre_tokenizer, config):
    for kind in ("RobertaTokenizer", "PreTrainedTokenizer", "BertTokenizer"):
        tokenizer = MAKERS[kind]()
        tokenizer.pre_tokenizer = pre_tokenizer
        assert_as_transformers(write_tokenizer(tmp_path / kind, kind, config, tokenizer=tokenizer))


@pytest.mark.parametrize("kind", ["BertTokenizer", "MPNetTokenizer"])
def test_other_normalizers_stay_unchanged(tmp_path, kind):
    tokenizer = MAKERS[kind]()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.BertNormalizer(lowercase=False)])
    config = {"do_lower_case": True, "strip_accents": True}
    assert_as_transformers(write_tokenizer(tmp_path, kind, config, tokenizer=tokenizer))


@pytest.mark.parametrize("extra_ids", [0, 2, 100])
@pytest.mark.parametrize("additional", [None, [], ["new1"], ["<extra_id_0>", "<extra_id_1>", "new1"]])
def test_sentinels_of_t5(tmp_path, extra_ids, additional):
    config = {"extra_ids": extra_ids, "additional_special_tokens": additional}
    directory = write_tokenizer(tmp_path, "T5Tokenizer", config)
    if extra_ids == 100 and additional and len(additional) == 3:
        with pytest.raises(NotNativeError, match="2 of its 100 extra_ids"):
            read_natively(directory)
    else:
        assert_as_transformers(directory)


def written_by_slow(directory: Path, kind: str, tokens: list[AddedToken], *, special: bool = False) -> Path:
    """Let transformers' slow tokenizer write its vocabulary files, with `tokens` added. Return their directory."""
    source = write_bare(directory / "source", kind)
    slow = transformers.AutoTokenizer.from_pretrained(source, use_fast=False)
    slow.add_tokens(tokens, special_tokens=special)
    slow.save_pretrained(directory / "slow")
    names = {"vocab.json", "merges.txt"} if kind == "RobertaTokenizer" else {"vocab.txt"}
    files = {path.name for path in (directory / "slow").iterdir()} - {"added_tokens.json"}
    assert files == names | {"special_tokens_map.json", "tokenizer_config.json"}
    return directory / "slow"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", BARE_CLASSES)
def test_vocabulary_of_a_slow_tokenizer(tmp_path, kind, special):
    tokens = [AddedToken("e", lstrip=True), AddedToken("t", rstrip=True, normalized=False), "h"]
    directory = written_by_slow(tmp_path, kind, tokens, special=special)
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    contents = [entry["content"] for entry in config["added_tokens_decoder"].values()]
    assert {"e", "t", "h"} < {*contents}
    assert_as_transformers(directory)


@pytest.mark.parametrize("kind", BARE_CLASSES)
def test_added_token_outside_of_the_vocabulary_is_unknown(tmp_path, kind):
    directory = written_by_slow(tmp_path, kind, [AddedToken("new1")])
    with pytest.raises(NotNativeError, match="'new1' is not in its vocabulary"):
        read_natively(directory)


NAMES = st.sampled_from(["[CLS]", "[MASK]", "<s>", "</s>", "<mask>", "new1", "new2", "[new3]", "the", "a", "É"])
TOKENS = st.builds(
    token,
    NAMES,
    lstrip=st.booleans(),
    rstrip=st.booleans(),
    single_word=st.booleans(),
    normalized=st.booleans(),
    special=st.booleans(),
)
SETTING_TOKENS = NAMES | TOKENS.map(lambda options: options | {"__type": "AddedToken"})
ROLES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
ANY_CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "do_lower_case": st.booleans(),
        "strip_accents": st.none() | st.booleans(),
        "tokenize_chinese_chars": st.booleans(),
        "model_max_length": st.none() | st.sampled_from([16, 512, 1e30]),
        "truncation_side": st.sampled_from(["left", "right"]),
        "split_special_tokens": st.booleans(),
        "additional_special_tokens": st.none() | st.lists(SETTING_TOKENS, max_size=3),
        "added_tokens_decoder": st.dictionaries(st.integers(0, 250).map(str), TOKENS, max_size=4),
    }
    | {name: st.none() | SETTING_TOKENS for name in ROLES},
)
ANY_SPECIAL = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(ROLES, NAMES | TOKENS) | {"additional_special_tokens": st.lists(NAMES | TOKENS)}
)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(MAKERS)),
    st.booleans(),
    ANY_CONFIG,
    ANY_SPECIAL,
    st.dictionaries(NAMES, st.integers(240, 260), max_size=3),
    st.sampled_from([{}, {"add_prefix_space": True}, {"add_prefix_space": False}]),
)
def test_any_settings_together(tmp_path_factory, kind, bare, config, special, added, prefix_space):
    directory = tmp_path_factory.mktemp("any")
    config = config | ({} if kind == "T5Tokenizer" else prefix_space)
    (write_bare if bare and kind in BARE_CLASSES else write_tokenizer)(directory, kind, config)
    write_json(directory / "special_tokens_map.json", special)
    write_json(directory / "added_tokens.json", added)
    try:
        native = read_natively(directory)
    except NotNativeError:
        return
    assert_same(native, transformers.AutoTokenizer.from_pretrained(directory))


FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
IDS = st.integers(0, 60)


@settings(max_examples=200)
@given(
    st.sampled_from(BARE_CLASSES),
    st.booleans(),
    st.dictionaries(IDS, st.fixed_dictionaries(dict.fromkeys(FLAGS, st.booleans())), max_size=5),
    st.dictionaries(st.sampled_from(ROLES), IDS, max_size=3),
    st.lists(IDS, max_size=2),
)
def test_any_added_tokens_of_a_bare_vocabulary(tmp_path_factory, kind, legacy, added, roles, additional):
    """All added tokens are in the vocabulary, at the ids that the checkpoint states."""
    directory = write_bare(tmp_path_factory.mktemp("bare"), kind)
    vocabulary = MAKERS[kind]().get_vocab()
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    config = {name: words[at] for name, at in roles.items()}
    config["additional_special_tokens"] = [words[at] for at in additional]
    if legacy:
        write_json(directory / "added_tokens.json", {words[at]: at for at in added})
    else:
        config["added_tokens_decoder"] = {str(at): token(words[at], **options) for at, options in added.items()}
    edit_json(directory / "tokenizer_config.json", **config)
    if legacy and added and {*roles.values()} & {*additional}:
        with pytest.raises(NotNativeError, match=r"it has an unusual added_tokens\.json"):
            read_natively(directory)
    else:
        assert_as_transformers(directory)


@pytest.mark.parametrize(
    ("sources", "changes"),
    [
        (["all-mpnet-base-v2"], {}),
        (["all-mpnet-base-v2/vocab.txt"], {"model": "mpnet"}),
        (["all-mpnet-base-v2/vocab.txt"], {"config": {"tokenizer_class": "MPNetTokenizer", "do_lower_case": False}}),
        (["bert-base-multilingual-cased/tokenizer.json"], {"model": "distilbert", "config": {"do_lower_case": False}}),
        (["bert-base-multilingual-cased/vocab.txt"], {"model": "bert"}),
        (["labse-configs", "smaller-labse-15lang/vocab.txt"], {}),
        (["roberta-base"], {"model": "roberta"}),
        (["roberta-base/vocab.json", "roberta-base/merges.txt"], {"model": "roberta"}),
        (["xlmr-like-128k-derived"], {"config": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}}),
        (["t5-small"], {"model": "t5"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_real_tokenizers(tmp_path, sources, changes):
    assert_as_transformers(copy_real(tmp_path / "real", *sources, **changes))


@pytest.mark.parametrize(
    ("sources", "kind"),
    [
        (["all-mpnet-base-v2/vocab.txt"], "MPNetTokenizer"),
        (["bert-base-multilingual-cased/vocab.txt"], "BertTokenizer"),
        (["roberta-base/vocab.json", "roberta-base/merges.txt"], "RobertaTokenizer"),
    ],
)
def test_real_vocabularies_of_slow_tokenizers(tmp_path, sources, kind):
    source = copy_real(tmp_path / "real", *sources, config={"tokenizer_class": kind, "do_lower_case": False})
    slow = transformers.AutoTokenizer.from_pretrained(source, use_fast=False)
    slow.add_tokens([AddedToken("the", lstrip=True)])
    slow.save_pretrained(tmp_path / "slow")
    assert_as_transformers(tmp_path / "slow")
