"""Checkpoints of strangers: special files, tokenizers that panic or abort, and files that cannot be read."""

import json
import os

import pytest
from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.read import read_checkpoint
from embedder_export.errors import CheckpointError
from embedder_export.samples.texts import text_samples
from embedder_export.tokenizer.contract import ConvertedTokenizer
from embedder_export.tokenizer.convert import convert_tokenizer
from embedder_export.tokenizer.limits import ModelLimits
from tokenizers import Tokenizer

from tests import vocabularies
from tests.checkpoints import write_checkpoint
from tests.tokenizer_files import write_tokenizer

SPECIAL = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "directory": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path.name),
}
FILES = ["config.json", "modules.json", "model.safetensors", "1_Pooling/config.json", "sentence_bert_config.json"]
CHARSMAP = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
PATTERN = {"type": "Split", "pattern": {"Regex": "(x+x+)+y"}, "behavior": "Isolated", "invert": False}
# A normaliser that replaces each text by one on which the pattern backtracks too often.
REPLACE = {"type": "Replace", "pattern": {"Regex": "^.*$"}, "content": "x" * 60}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_of_a_checkpoint(kind, name, tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint") / name
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)
    with pytest.raises(CheckpointError):
        read_checkpoint(str(tmp_path / "checkpoint"))


def test_special_file_that_only_another_library_would_open(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoint") / "vocab.json"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"vocab\.json is not a regular file"):
        read_checkpoint(str(tmp_path / "checkpoint"))


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
def test_special_files_of_a_tokenizer(kind, name, tmp_path):
    directory = write_tokenizer(tmp_path, "BertTokenizer")
    if name == "vocab.txt":
        (directory / "tokenizer.json").unlink()
    (directory / name).unlink(missing_ok=True)
    SPECIAL[kind](directory / name)
    with pytest.raises(CheckpointError):
        convert(directory)


def convert(directory):
    return convert_tokenizer(Checkpoint(directory, directory, "small", None, "", ()), ModelLimits())


FAULTS = {
    "charsmap that announces 4 GB": ({"normalizer": CHARSMAP}, r"tokenizer\.json is damaged: its charsmap of 4 bytes"),
    "charsmap without a trie": ({"normalizer": CHARSMAP | {"precompiled_charsmap": ""}}, "the library panicked"),
    "pattern": ({"pre_tokenizer": PATTERN, "normalizer": REPLACE}, "the library panicked: Onig"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tokenizers_on_which_the_library_panics_or_aborts(fault, tmp_path):
    fields, message = FAULTS[fault]
    tokenizer = json.loads(vocabularies.wordpiece().to_str()) | fields
    directory = write_tokenizer(tmp_path, "PreTrainedTokenizer", tokenizer=vocabularies.wordpiece())
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=message):
        convert(directory)


def test_samples_on_which_the_library_panics():
    tokenizer = json.loads(vocabularies.wordpiece().to_str()) | {"pre_tokenizer": PATTERN, "normalizer": REPLACE}
    with pytest.raises(CheckpointError, match="the checkpoint's tokenizer fails: the library panicked"):
        text_samples(ConvertedTokenizer(Tokenizer.from_str(json.dumps(tokenizer)).to_str(), 16, 0, ()))
