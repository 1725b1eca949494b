"""Tokenizers that transformers 5 saved equal the tokenizers that transformers 4 reads from rewritten settings."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.cli import main
from embedder_export.errors import CheckpointError, NotNativeError
from embedder_export.tokenizer.contract import EffectiveTokenizer
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.limits import ModelLimits
from embedder_export.tokenizer.native import read_natively
from embedder_export.tokenizer.transformers5 import needs_version_5
from embedder_export.verify.own_graph import OWN_GRAPH
from tokenizers import AddedToken, pre_tokenizers

from embedder import Embedder
from embedder.artifact.manifest import Manifest
from tests import families
from tests.checkpoints import edit_json, write_checkpoint, write_json, write_own_graph
from tests.clips import write_clip
from tests.exports import export_fp32
from tests.tokenizer_files import (
    MAKERS,
    TEXTS,
    assert_same,
    byte_level_bpe,
    change_files,
    copy_real,
    token,
    write_bare,
    write_tokenizer,
)

# Settings that transformers 5 adds to every tokenizer_config.json. Special tokens are plain texts there.
OF_5 = {"backend": "tokenizers", "is_local": True, "local_files_only": True, "mask_token": "[MASK]"}
SENTINELS = [f"<extra_id_{at}>" for at in range(100)]


def assert_as_version_4(directory: Path, **changes: object) -> EffectiveTokenizer:
    """Check that the tokenizer equals what transformers 4 reads after `changes` of the settings. Return it."""
    native = read_natively(directory)
    edit_json(directory / "tokenizer_config.json", **({"extra_special_tokens": {}} | changes))
    assert_same(native, transformers.AutoTokenizer.from_pretrained(directory))
    return native


@pytest.mark.parametrize("tokens", [[], ["new1", "[new3]"], ["the", "<s>", "<extra_id_0>"]])
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_list_of_special_tokens_of_transformers_5(tmp_path, kind, tokens):
    directory = write_tokenizer(tmp_path, kind, OF_5 | {"extra_special_tokens": tokens, "extra_ids": 100})
    assert_as_version_4(directory, additional_special_tokens=tokens, extra_ids=0)


def test_sentinels_of_t5_in_transformers_5(tmp_path):
    config = OF_5 | {"extra_special_tokens": SENTINELS, "extra_ids": 100}
    assert_as_version_4(write_tokenizer(tmp_path, "T5Tokenizer", config), additional_special_tokens=SENTINELS)


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("config", [{}, {"add_prefix_space": True}, {"extra_special_tokens": ["new1"]}])
@pytest.mark.parametrize("maker", ["BertTokenizer", "RobertaTokenizer", "T5Tokenizer"])
def test_general_class_of_transformers_5(tmp_path, maker, config, saved):
    """TokenizersBackend keeps the prefix space and gives no token types. Otherwise it equals transformers 4's class."""
    tokenizer = MAKERS[maker]()
    if maker == "RobertaTokenizer":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=saved)
    config = OF_5 | {"pad_token": "new2"} | config
    native = assert_as_version_4(
        write_tokenizer(tmp_path, "TokenizersBackend", config, tokenizer=tokenizer),
        tokenizer_class="PreTrainedTokenizerFast",
        additional_special_tokens=config.get("extra_special_tokens"),
        add_prefix_space=saved,
        model_input_names=["input_ids", "attention_mask"],
    )
    assert not native.has_token_types


def test_file_of_an_older_checkpoint_that_transformers_5_left(tmp_path):
    """When transformers 5 overwrites an older checkpoint, special_tokens_map.json stays. It repeats the settings."""
    tokenizer = MAKERS["BertTokenizer"]()
    tokenizer.add_special_tokens([AddedToken("[MASK]", rstrip=True), "new1"])
    config = OF_5 | {"extra_special_tokens": ["new1"]}
    directory = write_tokenizer(tmp_path, "BertTokenizer", config, tokenizer=tokenizer)
    special = {"mask_token": token("[MASK]", lstrip=True), "additional_special_tokens": ["new1"]}
    write_json(directory / "special_tokens_map.json", special)
    assert_as_version_4(directory, additional_special_tokens=["new1"])
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
        # tokenizer.json does not have this token among its added tokens.
        ({}, {"special_tokens_map": {"mask_token": "[MASK]"}}, r"its special_tokens_map\.json"),
        ({"image_token": "<image>", "additional_special_tokens": ["x"]}, {}, "both additional_special_tokens and"),
        ({"model_specific_special_tokens": ["x"]}, {}, r"it has \['x'\] as model_specific_special_tokens"),
        ({"model_specific_special_tokens": {"x": 1}}, {}, "tokens in the form of transformers 4"),
    ],
)
def test_settings_that_transformers_5_never_writes_are_unknown(tmp_path, kind, config, files, reason):
    config = OF_5 | {"extra_special_tokens": []} | config
    directory = write_tokenizer(tmp_path, kind, config, tokenizer=byte_level_bpe())
    change_files(directory, **files)
    with pytest.raises(NotNativeError, match=reason):
        read_natively(directory)


def test_transformers_5_without_tokenizer_json_is_unknown(tmp_path):
    with pytest.raises(NotNativeError, match=r"it has no tokenizer\.json"):
        read_natively(write_bare(tmp_path, "BertTokenizer", {"extra_special_tokens": ["a"]}))


def test_real_t5_of_transformers_5(tmp_path):
    config = OF_5 | {"tokenizer_class": "T5Tokenizer", "extra_special_tokens": SENTINELS, "extra_ids": 100}
    del config["mask_token"]
    directory = copy_real(tmp_path / "t5", "t5-small/tokenizer.json", config=config)
    assert_as_version_4(directory, additional_special_tokens=SENTINELS)


NAMED = {"image_token": "<image>", "boi_token": "[new3]"}


@pytest.mark.parametrize(
    "named",
    [
        NAMED | {"model_specific_special_tokens": NAMED},  # what transformers 5 writes
        {"model_specific_special_tokens": NAMED},
        NAMED,
        {"extra_special_tokens": NAMED},
    ],
)
@pytest.mark.parametrize("maker", ["BertTokenizer", "RobertaTokenizer", "T5Tokenizer"])
def test_named_special_tokens(tmp_path, maker, named):
    """Named tokens get their ids after the tokens with a role."""
    config = OF_5 | {"pad_token": "new2", "tokenizer_class": "TokenizersBackend"} | named
    directory = write_tokenizer(tmp_path, "TokenizersBackend", config, tokenizer=MAKERS[maker]())
    size = MAKERS[maker]().get_vocab_size()
    native = read_natively(directory)
    added = [str(token) for at, token in sorted(native.backend.get_added_tokens_decoder().items()) if at >= size]
    assert added == [*(["new2"] if maker == "BertTokenizer" else ["new2", "[MASK]"]), "<image>", "[new3]"]
    assert {native.backend.token_to_id(token) for token in NAMED.values()} <= {*native.special_ids}
    assert "<image>" in native.backend.encode("x<image>").tokens


def test_named_and_other_special_tokens(tmp_path):
    config = OF_5 | {"image_token": "<image>", "extra_special_tokens": ["new1", "new2"]}
    backend = read_natively(write_tokenizer(tmp_path, "XLMRobertaTokenizer", config)).backend
    ids = [backend.token_to_id(token) for token in ("[MASK]", "<image>", "new1", "new2")]
    assert ids == [*range(ids[0], ids[0] + 4)]


def test_no_special_tokens_at_all(tmp_path):
    """transformers 5 reads null as an empty list. transformers 4 fails on it."""
    plain = read_natively(write_tokenizer(tmp_path / "plain", "BertTokenizer"))
    null = read_natively(write_tokenizer(tmp_path / "null", "BertTokenizer", {"extra_special_tokens": None}))
    assert null.backend.to_str() == plain.backend.to_str()


FORMS = [
    {"tokenizer_class": "TokenizersBackend"},
    {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": []},
    {"extra_special_tokens": []},
]
MAKERS_OF_CHECKPOINTS = [
    families.instructor,
    families.mpnet,
    families.multilingual_mpnet,
    lambda directory, full: write_clip(directory),
]


def as_version_5(checkpoint: Path, form: dict[str, object]) -> Path:
    """Rewrite the tokenizer's settings as transformers 5 writes them. tokenizer.json would be the same."""
    file = checkpoint / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    old = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "extra_ids")
    write_json(file, {name: value for name, value in config.items() if name not in old} | form)
    (checkpoint / "special_tokens_map.json").unlink()
    return checkpoint


@pytest.mark.parametrize(
    ("make", "form"), [(families.bert, form) for form in FORMS] + [(make, FORMS[1]) for make in MAKERS_OF_CHECKPOINTS]
)
def test_export_of_a_checkpoint_of_transformers_5(tmp_path, make, form):
    checkpoint = families.seeded(make, tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "before")
    manifest, lines = export(as_version_5(checkpoint, form), tmp_path / "after")
    assert manifest.parity is None
    (line,) = (line for line in lines if "cannot load" in line)
    assert line == (
        "sentence-transformers cannot load checkpoint: transformers 5 saved it, and transformers "
        f"{transformers.__version__} is installed"
    )
    before, after = (Embedder(tmp_path / name).encode(TEXTS) for name in ("before", "after"))
    np.testing.assert_array_equal(before, after)


def export(checkpoint: Path, output: Path, **settings: str) -> tuple[Manifest, list[str]]:
    """Export the fp32 graph. Return the manifest and the reported lines."""
    lines: list[str] = []
    return export_fp32(checkpoint, output, lines.append, **settings), lines


def test_traced_export_of_a_checkpoint_of_transformers_5(tmp_path):
    checkpoint = as_version_5(write_checkpoint(tmp_path / "checkpoint"), FORMS[0])
    manifest, _ = export(checkpoint, tmp_path / "artifact", converter="optimum")
    assert manifest.tokenizer.max_seq_length == 32


def test_own_graph_is_the_reference_of_a_checkpoint_of_transformers_5(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    write_own_graph(checkpoint)
    manifest, _ = export(as_version_5(checkpoint, FORMS[0]), tmp_path / "artifact")
    assert manifest.parity.reference == OWN_GRAPH


def test_sentence_transformers_is_demanded(tmp_path, capsys):
    checkpoint = as_version_5(write_checkpoint(tmp_path / "checkpoint"), FORMS[0])
    assert main([str(checkpoint), "--output", str(tmp_path / "artifact"), "--verify", "reference"]) == 1
    assert f"transformers 5 saved it, and transformers {transformers.__version__} is" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


@pytest.mark.parametrize(
    ("config", "model", "needed"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {}, True),
        ({}, {"tokenizer_class": "TokenizersBackend"}, True),
        ({"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "TokenizersBackend"}, False),
        ({"extra_special_tokens": []}, {}, True),
        ({"extra_special_tokens": None}, {}, True),
        ({"extra_special_tokens": {}}, {}, False),
        ({"tokenizer_class": "BertTokenizer"}, None, False),
    ],
)
def test_settings_on_which_transformers_4_fails(tmp_path, config, model, needed):
    write_tokenizer(tmp_path, "BertTokenizer")
    write_json(tmp_path / "tokenizer_config.json", config)
    if model is not None:
        write_json(tmp_path / "config.json", {"model_type": "bert"} | model)
    assert needs_version_5(tmp_path) == needed
    if needed:
        with pytest.raises((AttributeError, ValueError)):
            transformers.AutoTokenizer.from_pretrained(tmp_path)
    else:
        assert transformers.AutoTokenizer.from_pretrained(tmp_path).is_fast


def test_message_does_not_suggest_a_useless_installation(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    config = OF_5 | {"added_tokens_decoder": {}}
    write_tokenizer(tmp_path, "TokenizersBackend", config, tokenizer=MAKERS["BertTokenizer"]())
    message = "the transformers that the extra \\[torch\\] brings cannot read it either"
    with pytest.raises(CheckpointError, match=message):
        convert_tokenizer(Checkpoint(tmp_path, tmp_path, "small", None, "", ()), ModelLimits())
