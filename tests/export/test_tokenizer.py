"""The tokenizer read without transformers, held against what transformers itself makes of the same files."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from embedder_export.checkpoint.read import Checkpoint
from embedder_export.errors import CheckpointError, NeedsTorchError, NotNativeError
from embedder_export.tokenizer.classes import CLASS_OF_MODEL
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.native import EffectiveTokenizer, read_natively
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from tests import vocabularies
from tests.checkpoints import edit_json, write_json
from tests.families import TOKENIZERS

ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BARE_CLASSES = ["BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer", "RobertaTokenizer"]
TEXTS = [
    "",
    " ",
    "The cat's HAT, e.g. 3.5 of them!",
    "café ÉTÉ e\u0301te\u0301 Straße İ",
    "中文字 and 日本語mixed 🙂👩‍👩‍👧",
    "tab\there\n\nnew  lines \u00a0 \u200b ",
    "[CLS] one [SEP] two [MASK] three[PAD] [UNK] [cls]",
    "<s> one </s> two <mask> three<pad> <unk> <S>",
    "  <mask>  [MASK]  ",
    "<extra_id_0> sentinel <extra_id_99> <s>NOTUSED",
    "new1 NEW1 xnew1x new2 , the [new3][NEW3] zz <new4> zz",
]


def byte_level_bpe() -> Tokenizer:
    tokenizer = vocabularies.byte_level_bpe()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return tokenizer


def unigram() -> Tokenizer:
    return vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A </s>")


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "AlbertTokenizer": lambda: vocabularies.unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    "BertTokenizer": vocabularies.wordpiece,
    "CLIPTokenizer": vocabularies.clip,
    "CamembertTokenizer": unigram,
    "DistilBertTokenizer": vocabularies.wordpiece,
    "ElectraTokenizer": vocabularies.wordpiece,
    "MPNetTokenizer": lambda: vocabularies.wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"], "<s> $A </s>"),
    "PreTrainedTokenizer": vocabularies.wordpiece,
    "RobertaTokenizer": byte_level_bpe,
    "T5Tokenizer": lambda: vocabularies.unigram(["<pad>", "</s>", "<unk>"], "$A </s>"),
    "XLMRobertaTokenizer": unigram,
}


def write_tokenizer(
    directory: Path, kind: str, config: dict[str, object] | None = None, *, tokenizer: Tokenizer | None = None
) -> Path:
    """A directory of the class `kind`, which only tokenizer_config.json names, with tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (tokenizer or MAKERS[kind]()).save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": kind} | (config or {}))
    return directory


def write_bare(directory: Path, kind: str, config: dict[str, object] | None = None) -> Path:
    """The same with vocab.txt, or vocab.json and merges.txt, for tokenizer.json."""
    write_tokenizer(directory, kind, config)
    model = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (directory / "tokenizer.json").unlink()
    if model["type"] == "BPE":
        write_json(directory / "vocab.json", model["vocab"])
        merges = [" ".join(merge) for merge in model["merges"]]
        (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, merges[0], ""]), encoding="utf-8")
    else:
        (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in model["vocab"]), encoding="utf-8")
    return directory


def assert_same(native: EffectiveTokenizer, judge: transformers.PreTrainedTokenizerFast) -> None:
    assert native.special_ids == tuple(sorted(judge.all_special_ids))
    assert native.pad_id == judge.pad_token_id
    assert native.model_max_length == judge.model_max_length
    assert native.has_token_types == ("token_type_ids" in judge.model_input_names)
    assert native.truncation_side == judge.truncation_side
    assert native.splits_special_tokens == judge.split_special_tokens
    ours, theirs = (json.loads(backend.to_str()) for backend in (native.backend, judge.backend_tokenizer))
    for content in (ours, theirs):  # for texts in pairs, which are not embedded
        (content["post_processor"] or {}).pop("pair", None)
    assert ours == theirs
    # As the runtime has them, which reads them from JSON once more.
    ours, theirs = (Tokenizer.from_str(backend.to_str()) for backend in (native.backend, judge.backend_tokenizer))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids


def assert_as_transformers(directory: Path) -> EffectiveTokenizer:
    native = read_natively(directory)
    assert_same(native, transformers.AutoTokenizer.from_pretrained(directory))
    return native


def checkpoint_of(directory: Path, **fields: object) -> Checkpoint:
    return Checkpoint(directory, directory, "small", None, "", (), **fields)


def token(content: str, **options: bool) -> dict[str, object]:
    """A token with its options, as special_tokens_map.json and added_tokens_decoder have it."""
    defaults = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": content} | defaults | options


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


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: ",".join(config) or "none")
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_each_class_with_each_setting(tmp_path, kind, config):
    if kind == "T5Tokenizer" and "add_prefix_space" in config:
        config = config | {"add_prefix_space": None}
    assert_as_transformers(write_tokenizer(tmp_path, kind, config))
    if kind in BARE_CLASSES and not config.get("added_tokens_decoder") and "new1" not in config.values():
        assert_as_transformers(write_bare(tmp_path / "bare", kind, config))


@pytest.mark.parametrize("kind", [*MAKERS, "BertTokenizerFast", "PreTrainedTokenizerFast"])
def test_class_of_transformers_is_meant(tmp_path, kind):
    maker = MAKERS[kind.removesuffix("Fast")]
    directory = write_tokenizer(tmp_path, kind, {"do_lower_case": False}, tokenizer=maker())
    judge = transformers.AutoTokenizer.from_pretrained(directory)
    assert type(judge).__name__ == kind.removesuffix("Fast") + "Fast"


@pytest.mark.parametrize("model_type", sorted(CLASS_OF_MODEL))
@pytest.mark.parametrize("config", [None, {}, {"tokenizer_class": None}])
def test_class_by_the_model(tmp_path, model_type, config):
    directory = write_tokenizer(tmp_path, CLASS_OF_MODEL[model_type])
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
    assert_as_transformers(directory)  # which now does not read it


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
def test_other_normalizers_are_left(tmp_path, kind):
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


# What transformers 5 adds to any tokenizer_config.json, in which special tokens are names alone.
OF_5 = {"backend": "tokenizers", "is_local": True, "local_files_only": True, "mask_token": "[MASK]"}
SENTINELS = [f"<extra_id_{at}>" for at in range(100)]


def assert_as_of_old(directory: Path, **changes: object) -> EffectiveTokenizer:
    """The tokenizer of a directory of transformers 5 is what transformers 4 makes of it with `changes`."""
    native = read_natively(directory)
    edit_json(directory / "tokenizer_config.json", **({"extra_special_tokens": {}} | changes))
    assert_same(native, transformers.AutoTokenizer.from_pretrained(directory))
    return native


@pytest.mark.parametrize("tokens", [[], ["new1", "[new3]"], ["the", "<s>", "<extra_id_0>"]])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_list_of_special_tokens_of_transformers_5(tmp_path, kind, tokens):
    directory = write_tokenizer(tmp_path, kind, OF_5 | {"extra_special_tokens": tokens, "extra_ids": 100})
    assert_as_of_old(directory, additional_special_tokens=tokens, extra_ids=0)


def test_sentinels_of_t5_in_transformers_5(tmp_path):
    config = OF_5 | {"extra_special_tokens": SENTINELS, "extra_ids": 100}
    assert_as_of_old(write_tokenizer(tmp_path, "T5Tokenizer", config), additional_special_tokens=SENTINELS)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}, {"extra_special_tokens": ["new1"]}])
@pytest.mark.parametrize("maker", ["BertTokenizer", "RobertaTokenizer", "T5Tokenizer"])
def test_general_class_of_transformers_5(tmp_path, maker, config, saved):
    """It is transformers 4's but for two things: it leaves the prefix space alone, and gives no token types."""
    tokenizer = MAKERS[maker]()
    if maker == "RobertaTokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=saved)
    config = OF_5 | {"pad_token": "new2"} | config
    native = assert_as_of_old(
        write_tokenizer(tmp_path, "TokenizersBackend", config, tokenizer=tokenizer),
        tokenizer_class="PreTrainedTokenizerFast",
        additional_special_tokens=config.get("extra_special_tokens"),
        add_prefix_space=saved,
        model_input_names=["input_ids", "attention_mask"],
    )
    assert not native.has_token_types


def test_what_transformers_5_left_of_an_older_checkpoint(tmp_path):
    """Where it writes over one, special_tokens_map.json stays, and says the same."""
    tokenizer = MAKERS["BertTokenizer"]()
    tokenizer.add_special_tokens([AddedToken("[MASK]", rstrip=True), "new1"])
    config = OF_5 | {"extra_special_tokens": ["new1"]}
    directory = write_tokenizer(tmp_path, "BertTokenizer", config, tokenizer=tokenizer)
    special = {"mask_token": token("[MASK]", lstrip=True), "additional_special_tokens": ["new1"]}
    write_json(directory / "special_tokens_map.json", special)
    assert_as_of_old(directory, additional_special_tokens=["new1"])
    edit_json(directory / "tokenizer_config.json", extra_special_tokens=["new1", "new2"])
    with pytest.raises(NotNativeError, match=r"both additional_special_tokens and extra_special_tokens"):
        read_natively(directory)


@pytest.mark.parametrize("kind", ["BertTokenizer", "TokenizersBackend"])
@pytest.mark.parametrize(
    ("config", "files", "reason"),
    [
        ({"mask_token": token("x") | {"__type": "AddedToken"}}, {}, "tokens in the form of transformers 4"),
        ({"extra_special_tokens": [token("x") | {"__type": "AddedToken"}]}, {}, "tokens in the form of transformers 4"),
        ({"added_tokens_decoder": {}}, {}, "tokens in the form of transformers 4"),
        ({}, {"added_tokens": {}}, "tokens in the form of transformers 4"),
        ({}, {"special_tokens_map": {"mask_token": "[PAD]"}}, r"its special_tokens_map\.json"),
        # Of a token that tokenizer.json does not have among the added ones.
        ({}, {"special_tokens_map": {"mask_token": "[MASK]"}}, r"its special_tokens_map\.json"),
        ({"image_token": "<image>"}, {}, "it has the setting image_token"),
    ],
)
def test_what_transformers_5_does_not_write_is_unknown(tmp_path, kind, config, files, reason):
    config = OF_5 | {"extra_special_tokens": []} | config
    directory = write_tokenizer(tmp_path, kind, config, tokenizer=byte_level_bpe())
    change_files(directory, **files)
    with pytest.raises(NotNativeError, match=reason):
        read_natively(directory)


def test_transformers_5_without_tokenizer_json_is_unknown(tmp_path):
    with pytest.raises(NotNativeError, match=r"it has no tokenizer\.json"):
        read_natively(write_bare(tmp_path, "BertTokenizer", {"extra_special_tokens": ["a"]}))


def written_by_slow(directory: Path, kind: str, tokens: list[AddedToken], *, special: bool = False) -> Path:
    """Vocabulary files as transformers' slow tokenizers write them, with `tokens` among the added ones."""
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
def test_token_beyond_the_vocabulary_of_a_slow_tokenizer_is_unknown(tmp_path, kind):
    directory = written_by_slow(tmp_path, kind, [AddedToken("new1")])
    with pytest.raises(NotNativeError, match="and more than a vocabulary"):
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
    """All of them are in it, at the ids that the checkpoint states."""
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


def copied(directory: Path, *sources: str, config: dict[str, object] | None = None, model: str | None = None) -> Path:
    if not TOKENIZERS.is_dir():
        pytest.skip("the real tokenizers are not here (EMBEDDER_TEST_DATA names the directory of data)")
    directory.mkdir()
    for source in sources:
        path = TOKENIZERS / source
        for file in [path] if path.is_file() else path.glob("*.*"):
            shutil.copy(file, directory)
    if config is not None:
        write_json(directory / "tokenizer_config.json", config)
    if model is not None:
        write_json(directory / "config.json", {"model_type": model})
    return directory


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
    assert_as_transformers(copied(tmp_path / "real", *sources, **changes))


@pytest.mark.parametrize(
    ("sources", "kind"),
    [
        (["all-mpnet-base-v2/vocab.txt"], "MPNetTokenizer"),
        (["bert-base-multilingual-cased/vocab.txt"], "BertTokenizer"),
        (["roberta-base/vocab.json", "roberta-base/merges.txt"], "RobertaTokenizer"),
    ],
)
def test_real_vocabularies_of_slow_tokenizers(tmp_path, sources, kind):
    source = copied(tmp_path / "real", *sources, config={"tokenizer_class": kind, "do_lower_case": False})
    slow = transformers.AutoTokenizer.from_pretrained(source, use_fast=False)
    slow.add_tokens([AddedToken("the", lstrip=True)])
    slow.save_pretrained(tmp_path / "slow")
    assert_as_transformers(tmp_path / "slow")


def test_real_t5_of_transformers_5(tmp_path):
    config = OF_5 | {"tokenizer_class": "T5Tokenizer", "extra_special_tokens": SENTINELS, "extra_ids": 100}
    del config["mask_token"]
    directory = copied(tmp_path / "t5", "t5-small/tokenizer.json", config=config)
    assert_as_of_old(directory, additional_special_tokens=SENTINELS)


def test_sentencepiece_model_is_left_to_transformers(tmp_path):
    directory = copied(tmp_path / "albert", "albert-base-v2")
    with pytest.raises(NotNativeError, match="it has no tokenizer"):
        read_natively(directory)
    converted = convert_tokenizer(checkpoint_of(directory), 512, 512)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert Tokenizer.from_str(converted.json).encode("A héllo").ids == tokenizer("A héllo")["input_ids"]
    tokenizer.save_pretrained(tmp_path / "fast")
    assert_as_transformers(tmp_path / "fast")


UNKNOWN = [
    ({"tokenizer_class": "XLNetTokenizer"}, "its class 'XLNetTokenizer' is not known"),
    ({"tokenizer_class": 3}, "its class 3 is not known"),
    ({"do_lower_case": "yes"}, "it has 'yes' as do_lower_case"),
    ({"strip_accents": 1}, "it has 1 as strip_accents"),
    ({"split_special_tokens": "no"}, "it has 'no' as split_special_tokens"),
    ({"model_max_length": "48"}, "it has '48' as model_max_length"),
    ({"model_input_names": "token_type_ids"}, "it has 'token_type_ids' as model_input_names"),
    ({"padding_side": None}, "it has None as padding_side"),
    ({"truncation_side": "up"}, "it has 'up' as truncation_side"),
    ({"mask_token": {"content": "x"}}, "it has the special token {'content': 'x'}"),
    ({"mask_token": ""}, "it has the special token ''"),
    ({"additional_special_tokens": "x"}, "it has 'x' as additional_special_tokens"),
    ({"added_tokens_decoder": {"first": token("x")}}, "as added_tokens_decoder"),
    ({"added_tokens_decoder": {"1": {"content": "x"}}}, "it has the token {'content': 'x'}"),
    ({"added_tokens_decoder": {"1": token("x", other=True)}}, "it has the token"),
    ({"extra_special_tokens": {"image_token": "<image>"}}, "it has extra_special_tokens that are not a list"),
    ({"extra_special_tokens": None}, "it has extra_special_tokens that are not a list"),
    ({"tokenizer_file": None}, "it has the setting tokenizer_file"),
    ({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]}, "it has the setting fast_tokenizer_files"),
    ({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, "it has the setting auto_map"),
]


@pytest.mark.parametrize(("config", "reason"), UNKNOWN)
def test_unusual_settings_are_unknown(tmp_path, config, reason):
    with pytest.raises(NotNativeError) as error:
        read_natively(write_tokenizer(tmp_path, "BertTokenizer", config))
    assert reason in str(error.value)


def change_files(directory: Path, **contents: object) -> None:
    for name, content in contents.items():
        write_json(directory / f"{name}.json", content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: (d / "vocab.txt").unlink(), "neither tokenizer.json nor a plain vocabulary"),
        (lambda d: (d / "tokenizer.model").write_text(""), "and more than a vocabulary"),
        (lambda d: change_files(d, added_tokens={"new1": 200}), "and more than a vocabulary"),
        (lambda d: change_files(d, added_tokens={"new1": "200"}), "an unusual added_tokens.json"),
        (lambda d: change_files(d, special_tokens_map={"cls_token": "new1"}), "its vocabulary has no cls_token"),
        (lambda d: change_files(d, special_tokens_map={"cls_token": {"content": 3}}), "it has the token"),
        (lambda d: edit_json(d / "tokenizer_config.json", do_basic_tokenize=False), "it has no basic tokenisation"),
        (lambda d: edit_json(d / "tokenizer_config.json", tokenizer_class="T5Tokenizer"), "it has no tokenizer.json"),
        (lambda d: edit_json(d / "tokenizer_config.json", tokenizer_class=None), "its class is not named"),
    ],
)
def test_unusual_bare_vocabularies_are_unknown(tmp_path, change, reason):
    directory = write_bare(tmp_path, "BertTokenizer")
    write_json(directory / "config.json", {"model_type": "novel"})
    change(directory)
    with pytest.raises(NotNativeError, match=reason):
        read_natively(directory)


def test_bert_without_normalizer_is_unknown(tmp_path):
    tokenizer = json.loads(vocabularies.wordpiece().to_str()) | {"normalizer": None}
    directory = write_tokenizer(tmp_path, "BertTokenizer", tokenizer=Tokenizer.from_str(json.dumps(tokenizer)))
    with pytest.raises(NotNativeError, match="it has no normaliser"):
        read_natively(directory)


def test_t5_with_prefix_space_is_unknown(tmp_path):
    directory = write_tokenizer(tmp_path, "T5Tokenizer", {"add_prefix_space": True})
    with pytest.raises(NotNativeError, match="unusual extra_ids, or add_prefix_space"):
        read_natively(directory)


def test_what_is_unknown_transformers_reads(tmp_path):
    tokenizer = vocabularies.byte_level_bpe()
    directory = write_tokenizer(tmp_path, "GPT2Tokenizer", {"pad_token": "<pad>"}, tokenizer=tokenizer)
    converted = convert_tokenizer(checkpoint_of(directory), None, None)
    judge = transformers.AutoTokenizer.from_pretrained(directory)
    assert Tokenizer.from_str(converted.json).encode(TEXTS[2]).ids == judge(TEXTS[2])["input_ids"]
    assert converted.pad_id == judge.pad_token_id
    assert converted.special_ids == tuple(sorted(judge.all_special_ids))


def test_what_is_unknown_needs_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    directory = write_tokenizer(tmp_path, "GPT2Tokenizer", tokenizer=vocabularies.byte_level_bpe())
    message = r"^the tokenizer cannot be read here: its class 'GPT2Tokenizer' is not known: that needs torch"
    with pytest.raises(NeedsTorchError, match=message + r".*pip install '\./export\[torch\]'"):
        convert_tokenizer(checkpoint_of(directory), None, None)


def test_slow_tokenizer_is_refused(tmp_path, monkeypatch):
    slow = SimpleNamespace(from_pretrained=lambda *arguments, **options: SimpleNamespace(is_fast=False))
    monkeypatch.setattr("transformers.AutoTokenizer", slow)
    directory = write_tokenizer(tmp_path, "XLMTokenizer", tokenizer=vocabularies.byte_level_bpe())
    with pytest.raises(CheckpointError, match="cannot be used: it is not a fast one, and transformers cannot make one"):
        convert_tokenizer(checkpoint_of(directory), None, None)


@pytest.mark.parametrize("kind", ["BertTokenizer", "BertJapaneseTokenizer"])
def test_known_classes_alone_do_without_transformers(tmp_path, monkeypatch, kind):
    monkeypatch.setitem(sys.modules, "transformers", None)
    directory = write_tokenizer(tmp_path, kind, tokenizer=vocabularies.wordpiece())
    if kind == "BertTokenizer":
        assert convert_tokenizer(checkpoint_of(directory), 64, 64).max_seq_length == 64
    else:
        with pytest.raises(NeedsTorchError, match="its class 'BertJapaneseTokenizer' is not known"):
            convert_tokenizer(checkpoint_of(directory), 64, 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"truncation_side": "left"}, "it cuts long texts at their start, which is not supported"),
        ({"split_special_tokens": True}, r"it splits special tokens \(split_special_tokens\), which is not supported"),
        ({"model_max_length": 2}, "at most 2 tokens leave no place for a text beside 2 special tokens"),
        ({"model_max_length": 0}, "a text can have no more than 0 tokens"),
        ({"model_max_length": "48"}, ""),
    ],
)
def test_what_the_runtime_cannot_do_is_refused(tmp_path, config, message):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    with pytest.raises(CheckpointError, match=f"^the tokenizer of small cannot be used: {message}"):
        convert_tokenizer(checkpoint_of(directory), None, None)


def test_token_types_are_refused_where_the_model_is_given_them(tmp_path):
    tokenizer = vocabularies.wordpiece()
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:1 [SEP]:1", special_tokens=frame)
    with pytest.raises(CheckpointError, match="it gives other token types than 0, which is not supported"):
        convert_tokenizer(checkpoint_of(write_tokenizer(tmp_path, "BertTokenizer", tokenizer=tokenizer)), None, None)
    directory = write_tokenizer(tmp_path / "distilbert", "DistilBertTokenizer", tokenizer=tokenizer)
    assert convert_tokenizer(checkpoint_of(directory), None, None).pad_id == 0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_damaged_file(tmp_path, name):
    directory = write_tokenizer(tmp_path, "BertTokenizer")
    (directory / name).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="the tokenizer of small cannot be used: "):
        convert_tokenizer(checkpoint_of(directory), None, None)


@pytest.mark.parametrize(
    ("own", "config", "positions", "places", "limit"),
    [
        (None, {}, None, None, 8192),
        (None, {"model_max_length": 48}, None, None, 48),
        (None, {"model_max_length": 48}, 40, None, 40),
        (None, {"model_max_length": 512}, 514, 512, 512),
        (32, {"model_max_length": 16}, 16, None, 32),
        (600, {}, 514, 512, 512),
        (None, {}, 514, 512, 512),
    ],
)
def test_limit(tmp_path, own, config, positions, places, limit):
    directory = write_tokenizer(tmp_path, "BertTokenizer", config)
    converted = convert_tokenizer(checkpoint_of(directory, max_seq_length=own), positions, places)
    assert converted.max_seq_length == limit


def test_own_limit_and_padding_are_taken_off(tmp_path):
    tokenizer = vocabularies.wordpiece()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    directory = write_tokenizer(tmp_path, "BertTokenizer", tokenizer=tokenizer)
    content = json.loads(convert_tokenizer(checkpoint_of(directory), None, None).json)
    assert (content["truncation"], content["padding"]) == (None, None)


@pytest.mark.parametrize("kind", ["BertTokenizer", "RobertaTokenizer"])
def test_the_checkpoints_own_lower_casing_comes_first(tmp_path, kind):
    directory = write_tokenizer(tmp_path, kind, {"do_lower_case": False})
    cased, lowered = (
        Tokenizer.from_str(convert_tokenizer(checkpoint_of(directory, lowercase=flag), None, None).json)
        for flag in (False, True)
    )
    assert lowered.encode("The HAT").ids == cased.encode("the hat").ids != cased.encode("The HAT").ids


def test_no_second_lower_casing(tmp_path):
    tokenizer = vocabularies.unigram(ROBERTA_SPECIAL, "<s> $A </s>")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    directory = write_tokenizer(tmp_path, "XLMRobertaTokenizer", tokenizer=tokenizer)
    content = json.loads(convert_tokenizer(checkpoint_of(directory, lowercase=True), None, None).json)
    assert [step["type"] for step in content["normalizer"]["normalizers"]] == ["NFC", "Lowercase"]
