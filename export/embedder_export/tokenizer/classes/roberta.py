"""RobertaTokenizer: byte-level BPE. XLMRobertaTokenizer and CamembertTokenizer: Unigram.

All three have the same special tokens.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from embedder_export.checkpoint.files import read_text
from embedder_export.tokenizer.classes.tokenizer_class import (
    ADDITIONAL,
    TAKES_SPACE,
    Settings,
    Token,
    TokenizerClass,
    TokenOptions,
    flag,
    vocabulary_entry,
)

ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
BPE_FILES = ("vocab.json", "merges.txt")
_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model",)
_CAMEMBERT_TOKENS = ROBERTA_TOKENS | {ADDITIONAL: ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]}
_OPTIONS: TokenOptions = {"mask_token": TAKES_SPACE | {"normalized": False}}
_BARE_OPTIONS: TokenOptions = {role: {"normalized": True} for role in ROBERTA_TOKENS} | _OPTIONS


def read_bpe(directory: Path) -> tuple[dict[str, int], str]:
    """Return the vocabulary of vocab.json, and the text of merges.txt."""
    vocabulary_file, merges_file = (directory / name for name in BPE_FILES)
    return json.loads(read_text(vocabulary_file)), read_text(merges_file)


def parse_merges(lines: list[str]) -> list[tuple[str, ...]]:
    """Return the pair of tokens of each line. A pair that repeats is listed once.

    Example:
        >>> parse_merges(["t h", "th e", "t h"])
        [('t', 'h'), ('th', 'e')]
    """
    return list(dict.fromkeys(tuple(line.split()) for line in lines))


def _build(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    vocabulary, text = read_bpe(directory)
    # The first line is the version of the format. The last line ends in a newline, so the last part is empty.
    merges = parse_merges(text.split("\n")[1:-1])
    prefix_space = flag(settings, "add_prefix_space", False)
    tokenizer = Tokenizer(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    start = vocabulary_entry(vocabulary, special, "cls_token")
    end = vocabulary_entry(vocabulary, special, "sep_token")
    # Positional, because tokenizers 0.23 renamed the parameter `cls`.
    tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _adapt_post_processor(tokenizer: Tokenizer, settings: Settings) -> None:
    processor = tokenizer.post_processor
    if isinstance(processor, processors.RobertaProcessing | processors.ByteLevel):
        processor.add_prefix_space = flag(settings, "add_prefix_space", False)
        processor.trim_offsets = flag(settings, "trim_offsets", True)
        tokenizer.post_processor = processor


ROBERTA = TokenizerClass(
    ROBERTA_TOKENS,
    _OPTIONS,
    _BARE_OPTIONS,
    vocabulary_files=BPE_FILES,
    build=_build,
    adapt=_adapt_post_processor,
)
XLM_ROBERTA = TokenizerClass(
    ROBERTA_TOKENS,
    {"mask_token": TAKES_SPACE},
    splits_white_space=True,
    vocabulary_files=_SENTENCEPIECE_FILES,
)
CAMEMBERT = TokenizerClass(
    _CAMEMBERT_TOKENS,
    {"mask_token": TAKES_SPACE | {"special": True}},
    splits_white_space=True,
    vocabulary_files=_SENTENCEPIECE_FILES,
)
