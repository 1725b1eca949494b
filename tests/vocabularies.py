"""Make small tokenizers of each kind. Their vocabularies hold mostly letters. Tests then need no real tokenizers."""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-éß中文字日本語"
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece(
    special: list[str] = BERT_SPECIAL, template: str = "[CLS] $A [SEP]", *, lowercase: bool = True
) -> Tokenizer:
    """Make a WordPiece tokenizer like BERT's."""
    words = [*special, *CHARACTERS, *(f"##{character}" for character in CHARACTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(tokenizer, special, template)


def unigram(special: list[str], template: str = "[CLS] $A [SEP]") -> Tokenizer:
    """Make a Unigram tokenizer like XLM-RoBERTa's."""
    pieces = [*((token, 0.0) for token in special), ("▁", -2.0), ("▁the", -3.0), ("er", -3.0)]
    pieces += [(character, -5.0 - at / 100) for at, character in enumerate(CHARACTERS)]
    unknown = next(at for at, token in enumerate(special) if "unk" in token)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _finished(tokenizer, special, template)


def byte_level_bpe() -> Tokenizer:
    """Make a byte-level BPE tokenizer like RoBERTa's."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
    merges = [("t", "h"), ("th", "e")]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, special, "<s> $A </s>")


CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def clip() -> Tokenizer:
    """Make a BPE tokenizer like CLIP's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("t", "h"), ("th", "e</w>"), ("a", "t")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge) for merge in merges), *CLIP_SPECIAL]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=CLIP_SPECIAL[1]))
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    start, end = ((token, vocabulary[token]) for token in CLIP_SPECIAL)
    tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=False, trim_offsets=False)
    return tokenizer


def _finished(tokenizer: Tokenizer, special: list[str], template: str) -> Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in special if token in template.split()]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer
