"""CLIPTokenizer (Radford et al., 2021: https://arxiv.org/abs/2103.00020): BPE over bytes, with an end-of-word mark."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes.roberta import BPE_FILES, parse_merges, read_bpe
from embedder_export.tokenizer.classes.tokenizer_class import (
    Settings,
    Token,
    TokenizerClass,
    TokenOptions,
    vocabulary_entry,
)

_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_BARE_OPTIONS: TokenOptions = {role: {} for role in ("bos_token", "eos_token", "unk_token")}
# The pattern of a word in CLIP's code. The number of merges that CLIP reads: its vocabulary without the 256 bytes and
# the 2 special tokens.
_WORD_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MERGE_COUNT = 49152 - 256 - 2


def _build(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    vocabulary, text = read_bpe(directory)
    merges = parse_merges(text.strip().split("\n")[1 : _MERGE_COUNT + 1])
    start = vocabulary_entry(vocabulary, special, "bos_token")
    end = vocabulary_entry(vocabulary, special, "eos_token")
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=str(special["unk_token"]),
        )
    )
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    words = pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    # Positional, because tokenizers 0.23 renamed the parameter `cls`.
    tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False, trim_offsets=False)
    return tokenizer


def _check_version(tokenizer: Tokenizer, settings: Settings) -> None:
    if not isinstance(tokenizer.pre_tokenizer, pre_tokenizers.Sequence):
        raise NotNativeError("it is a CLIP tokenizer from before transformers 4.17")


CLIP = TokenizerClass(
    _TOKENS,
    bare_token_options=_BARE_OPTIONS,
    vocabulary_files=BPE_FILES,
    build=_build,
    adapt=_check_version,
)
