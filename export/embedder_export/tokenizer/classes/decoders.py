"""Qwen2Tokenizer, LlamaTokenizer, GemmaTokenizer and Siglip2Tokenizer, the classes of language models: BPE.

They give the token ids of transformers 5. It builds their normaliser and pre-tokeniser anew, and leaves the tokens at
the start and the end of a text as tokenizer.json has them. transformers 4 does the opposite. So a tokenizer.json is
read here only if it has the normaliser and the pre-tokeniser that transformers 5 builds, or those of an older Llama.
"""

import json
from dataclasses import replace
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import Settings, TokenizerClass, TokenOptions, flag

_SPACE = "▁"
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_STEPS = [
    pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
]
_BYTE_LEVEL = "ByteLevel"
# How older versions of transformers marked the beginnings of words in Llama's tokenizers.
_OLD_MARKS = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
# How Gemma's tokenizers mark the beginnings of words, without and with lower-casing.
_MARKING = normalizers.Replace(" ", _SPACE)
_LOWERCASING = normalizers.Sequence([normalizers.Lowercase(), _MARKING])


def _content(part: Any) -> Any:
    """Return the settings of a normaliser or a pre-tokeniser, without those that change no token. None for None."""
    return None if part is None else _without_offsets(json.loads(part.__getstate__()))


def _without_offsets(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_offsets(value) for key, value in content.items() if key != "trim_offsets"}
    return [_without_offsets(value) for value in content] if isinstance(content, list) else content


def _check_steps(tokenizer: Tokenizer, normalizer: normalizers.Normalizer | None, words: PreTokenizer) -> None:
    """Check that a tokenizer has this normaliser and this pre-tokeniser.

    Raises:
        NotNativeError: it has others.
    """
    found = _content(tokenizer.normalizer), _content(tokenizer.pre_tokenizer)
    if found != (_content(normalizer), _content(words)):
        raise NotNativeError("it has another normaliser or pre-tokeniser than its class")


def _adapt_qwen2(tokenizer: Tokenizer, settings: Settings) -> None:
    if settings.get("add_prefix_space"):
        raise NotNativeError("it has add_prefix_space")
    _check_steps(tokenizer, normalizers.NFC(), pre_tokenizers.Sequence(_QWEN_STEPS))


def _adapt_gemma(tokenizer: Tokenizer, settings: Settings) -> None:
    """Let a tokenizer leave the case as it is, also if its tokenizer.json lower-cases, as one of SigLIP 2 may."""
    if _content(tokenizer.normalizer) == _content(_LOWERCASING):
        tokenizer.normalizer = _MARKING
    split = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    _check_steps(tokenizer, _MARKING, split)


def _adapt_siglip2(tokenizer: Tokenizer, settings: Settings) -> None:
    """Let a tokenizer lower-case, also if its tokenizer.json does not."""
    _adapt_gemma(tokenizer, settings)
    tokenizer.normalizer = _LOWERCASING


def _adapt_llama(tokenizer: Tokenizer, settings: Settings) -> None:
    """Let a tokenizer mark the beginnings of words as transformers 5 does.

    Raises:
        NotNativeError: it marks them neither as transformers 5 does nor as older versions do.
        CheckpointError: a setting has a wrong type.
    """
    scheme = "always" if settings.get("legacy", False) else "first"
    if flag(settings, "add_prefix_space", None) is False:
        scheme = "never"
    marks = pre_tokenizers.Metaspace(_SPACE, scheme, split=False)
    if _content(tokenizer.normalizer) == _content(_OLD_MARKS) and tokenizer.pre_tokenizer is None:
        tokenizer.normalizer = None
        tokenizer.pre_tokenizer = marks
    _check_steps(tokenizer, None, marks)


def has_byte_level(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is byte-level BPE, as that of Llama 3 is."""
    return f'"{_BYTE_LEVEL}"' in json.dumps(_content(tokenizer.pre_tokenizer))


def _options(*roles: str) -> TokenOptions:
    return {role: {"special": True, "normalized": False} for role in roles}


QWEN2 = TokenizerClass(
    {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    _options("bos_token", "eos_token", "unk_token", "pad_token"),
    vocabulary_files=("vocab.json", "merges.txt"),
    adapt=_adapt_qwen2,
)
LLAMA = TokenizerClass(
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    vocabulary_files=("tokenizer.model",),
    adapt=_adapt_llama,
)
GEMMA = TokenizerClass(
    {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    padding_side="left",
    vocabulary_files=("tokenizer.model",),
    adapt=_adapt_gemma,
)
# The tokenizer of SigLIP 2. Most of its checkpoints name the class of Gemma instead, which does not lower-case.
SIGLIP2 = replace(GEMMA, vocabulary_files=(), adapt=_adapt_siglip2)
