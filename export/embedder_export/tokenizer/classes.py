"""What each of transformers' classes of tokenizers does in its own way: the table is `CLASSES`.

It is what transformers 4.57 does, as far as the ids of a text's tokens depend on it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from embedder_export.errors import NotNativeError

Settings: TypeAlias = dict[str, Any]
# A special token is an object if the checkpoint has its options, else a name; transformers holds the two for different.
Token: TypeAlias = str | AddedToken

# The two names of the same list: transformers 4's and 5's. Transformers 4, too, has the second, for an object.
ADDITIONAL, EXTRA = "additional_special_tokens", "extra_special_tokens"


@dataclass(frozen=True)
class TokenizerClass:
    """A class of tokenizers.

    tokens: the special tokens that it has where the checkpoint names no others.
    options: how a special token matches that the checkpoint has by name alone.
    bare_options: the same where there is no tokenizer.json.
    has_token_types: whether it gives token types to the model.
    complete: the settings with what it adds to them.
    build: a tokenizer from a bare vocabulary, for a checkpoint without tokenizer.json.
    adapt: brings a tokenizer.json in line with the settings.
    """

    tokens: Settings = field(default_factory=dict)
    options: dict[str, dict[str, bool]] = field(default_factory=dict)
    bare_options: dict[str, dict[str, bool]] = field(default_factory=dict)
    has_token_types: bool = False
    complete: Callable[[Settings], Settings] = lambda settings: settings
    build: Callable[[Path, Settings, dict[str, Token]], Tokenizer] | None = None
    adapt: Callable[[Tokenizer, Settings], None] = lambda backend, settings: None


def flag(settings: Settings, name: str, default: bool | None) -> bool | None:
    """The setting `name`: true, false or, where that is the default, null.

    Raises:
        NotNativeError: it is something else.
    """
    value = settings.get(name, default)
    if not isinstance(value, bool) and value is not default:
        raise NotNativeError(f"it has {value!r:.80} as {name}")
    return value


def _build_wordpiece(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    if settings.get("do_basic_tokenize", True) is not True:
        raise NotNativeError("it has no basic tokenisation")
    with (directory / "vocab.txt").open(encoding="utf-8") as lines:
        vocabulary = {line.rstrip("\n"): at for at, line in enumerate(lines)}
    unknown, _ = _entry(vocabulary, special, "unk_token")
    start, end = _entry(vocabulary, special, "cls_token"), _entry(vocabulary, special, "sep_token")
    backend = Tokenizer(WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=flag(settings, "tokenize_chinese_chars", True),
        strip_accents=flag(settings, "strip_accents", None),
        lowercase=flag(settings, "do_lower_case", True),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start[0]}:0 $A:0 {end[0]}:0", special_tokens=[start, end]
    )
    backend.decoder = decoders.WordPiece()
    return backend


def _build_byte_level_bpe(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    # The first line is the format's version; what follows the last line's end is nothing.
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    merges = list(dict.fromkeys(tuple(line.split()) for line in lines))
    prefix_space = flag(settings, "add_prefix_space", False)
    backend = Tokenizer(BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    start, end = _entry(vocabulary, special, "cls_token"), _entry(vocabulary, special, "sep_token")
    # By position, for tokenizers 0.23 gave `cls` another name.
    backend.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _build_clip(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    lines = (directory / "merges.txt").read_text(encoding="utf-8").strip().split("\n")[1 : _CLIP_MERGES + 1]
    merges = list(dict.fromkeys(tuple(line.split()) for line in lines))
    start, end = _entry(vocabulary, special, "bos_token"), _entry(vocabulary, special, "eos_token")
    backend = Tokenizer(
        BPE(
            vocabulary,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=str(special["unk_token"]),
        )
    )
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    backend.normalizer = normalizers.Sequence(steps)
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    # By position, as above.
    backend.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False, trim_offsets=False)
    return backend


def _check_clip(backend: Tokenizer, settings: Settings) -> None:
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.Sequence):
        raise NotNativeError("it is a CLIP tokenizer of before transformers 4.17")


def _entry(vocabulary: dict[str, int], special: dict[str, Token], name: str) -> tuple[str, int]:
    token = str(special.get(name))
    if token not in vocabulary:
        raise NotNativeError(f"its vocabulary has no {name}")
    return token, vocabulary[token]


def _adapt_normalizer(backend: Tokenizer, settings: Settings) -> None:
    normalizer = backend.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.handle_chinese_chars = flag(settings, "tokenize_chinese_chars", True)
        backend.normalizer = normalizer
    _adapt_case(backend, settings)


def _adapt_case(backend: Tokenizer, settings: Settings) -> None:
    normalizer = backend.normalizer
    if normalizer is None:
        raise NotNativeError("it has no normaliser")
    if isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.lowercase = flag(settings, "do_lower_case", True)
        normalizer.strip_accents = flag(settings, "strip_accents", None)
        backend.normalizer = normalizer


def _adapt_offsets(backend: Tokenizer, settings: Settings) -> None:
    processor = backend.post_processor
    if isinstance(processor, processors.RobertaProcessing | processors.ByteLevel):
        processor.add_prefix_space = flag(settings, "add_prefix_space", False)
        processor.trim_offsets = flag(settings, "trim_offsets", True)
        backend.post_processor = processor


def _with_sentinels(settings: Settings) -> Settings:
    """T5's: its sentinels are additional special tokens, and a prefix space makes transformers build it anew."""
    count, given = settings.get("extra_ids", 100), settings.get(ADDITIONAL)
    if type(count) is not int or settings.get("add_prefix_space") is not None:
        raise NotNativeError("it has unusual extra_ids, or add_prefix_space")
    sentinels = [token for token in given or [] if "<extra_id_" in str(token)]
    if sentinels and count > 0 and len(sentinels) != count:
        raise NotNativeError(f"it has {len(sentinels)} of its {count} extra_ids as {ADDITIONAL}")
    made = [] if sentinels else [f"<extra_id_{at}>" for at in range(count)]
    return settings | {ADDITIONAL: [*(given or []), *made], "add_prefix_space": None}


def _with_saved_prefix_space(settings: Settings) -> Settings:
    """Transformers 5's general class: no setting changes the pre-tokeniser that tokenizer.json has."""
    return settings | {"add_prefix_space": None}


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_MPNET_TOKENS = _ROBERTA_TOKENS | {"unk_token": "[UNK]"}
_ALBERT_TOKENS = _BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"}
_T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_CAMEMBERT_TOKENS = _ROBERTA_TOKENS | {ADDITIONAL: ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]}
_CLIP_TOKENS = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_CLIP_BARE_OPTIONS: dict[str, dict[str, bool]] = {name: {} for name in ("bos_token", "eos_token", "unk_token")}
# A word of CLIP's, and how many merges it reads (Radford et al., 2021, and its code).
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_CLIP_MERGES = 49152 - 256 - 2
# The space before a mask belongs to it.
_MASK = {"mask_token": {"lstrip": True}}
_EXACT_MASK = {"mask_token": {"lstrip": True, "normalized": False}}
_SPECIAL_MASK = {"mask_token": {"lstrip": True, "special": True}}
_MPNET_OPTIONS: dict[str, dict[str, bool]] = {name: {} for name in _MPNET_TOKENS} | _MASK
_MPNET_BARE_OPTIONS: dict[str, dict[str, bool]] = {name: {"special": True} for name in _MPNET_TOKENS} | _SPECIAL_MASK
_ROBERTA_BARE_OPTIONS = {name: {"normalized": True} for name in _ROBERTA_TOKENS} | _EXACT_MASK

_BERT = TokenizerClass(_BERT_TOKENS, has_token_types=True, build=_build_wordpiece, adapt=_adapt_normalizer)
TOKENIZERS_BACKEND = TokenizerClass(complete=_with_saved_prefix_space)
CLASSES = {
    "AlbertTokenizer": TokenizerClass(_ALBERT_TOKENS, _EXACT_MASK, has_token_types=True),
    "BertTokenizer": _BERT,
    "CamembertTokenizer": TokenizerClass(_CAMEMBERT_TOKENS, _SPECIAL_MASK),
    "CLIPTokenizer": TokenizerClass(_CLIP_TOKENS, {}, _CLIP_BARE_OPTIONS, build=_build_clip, adapt=_check_clip),
    "DistilBertTokenizer": replace(_BERT, has_token_types=False),
    "ElectraTokenizer": _BERT,
    "MPNetTokenizer": TokenizerClass(
        _MPNET_TOKENS, _MPNET_OPTIONS, _MPNET_BARE_OPTIONS, build=_build_wordpiece, adapt=_adapt_case
    ),
    "PreTrainedTokenizer": TokenizerClass(has_token_types=True),
    "RobertaTokenizer": TokenizerClass(
        _ROBERTA_TOKENS, _EXACT_MASK, _ROBERTA_BARE_OPTIONS, build=_build_byte_level_bpe, adapt=_adapt_offsets
    ),
    "T5Tokenizer": TokenizerClass(_T5_TOKENS, complete=_with_sentinels),
    "TokenizersBackend": TOKENIZERS_BACKEND,
    "XLMRobertaTokenizer": TokenizerClass(_ROBERTA_TOKENS, _MASK),
}
# By config.json's model_type, where no file names the class.
CLASS_OF_MODEL = {
    "albert": "AlbertTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "clip": "CLIPTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
