"""The files of a small tokenizer of each class, and what a tokenizer is compared by."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from embedder_export.tokenizer.contract import EffectiveTokenizer
from embedder_export.tokenizer.native import read_natively
from tokenizers import Tokenizer, processors

from tests import vocabularies
from tests.checkpoints import write_json
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
    """Write tokenizer.json, and a tokenizer_config.json that names the class `kind`."""
    directory.mkdir(parents=True, exist_ok=True)
    (tokenizer or MAKERS[kind]()).save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": kind} | (config or {}))
    return directory


def write_bare(directory: Path, kind: str, config: dict[str, object] | None = None) -> Path:
    """Write vocab.txt, or vocab.json and merges.txt, in place of tokenizer.json."""
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
    for content in (ours, theirs):  # the template for pairs of texts, which are not embedded
        (content["post_processor"] or {}).pop("pair", None)
    assert ours == theirs
    # The runtime reads the tokenizer from JSON once more.
    ours, theirs = (Tokenizer.from_str(backend.to_str()) for backend in (native.backend, judge.backend_tokenizer))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs.encode(text).ids


def assert_as_transformers(directory: Path) -> EffectiveTokenizer:
    native = read_natively(directory)
    assert_same(native, transformers.AutoTokenizer.from_pretrained(directory))
    return native


def token(content: str, **options: bool) -> dict[str, object]:
    """A token with its options, as special_tokens_map.json and added_tokens_decoder hold it."""
    defaults = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": content} | defaults | options


def change_files(directory: Path, **contents: object) -> None:
    for name, content in contents.items():
        write_json(directory / f"{name}.json", content)


def copy_real(
    directory: Path, *sources: str, config: dict[str, object] | None = None, model: str | None = None
) -> Path:
    """Copy files of real tokenizers. Skip the test where these are not."""
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
