"""BertTokenizer and its equals: WordPiece after BERT's normaliser."""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from embedder_export.checkpoint.files import read_text
from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import Settings, Token, TokenizerClass, flag, vocabulary_entry

BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
WORDPIECE_FILES = ("vocab.txt",)


def build_wordpiece(
    directory: Path, settings: Settings, special: dict[str, Token], *, two_separators: bool = False
) -> Tokenizer:
    """Build the tokenizer from vocab.txt. Each line is a token, and the line's number, from 0, is the token's id.

    Args:
        directory: the directory of vocab.txt.
        settings: the tokenizer's settings.
        special: the special tokens by role.
        two_separators: whether two separators are between the texts of a pair.

    Raises:
        NotNativeError: basic tokenisation is turned off, or a special token is not in the vocabulary.
        CheckpointError: a setting has a wrong type.
    """
    if settings.get("do_basic_tokenize", True) is not True:
        raise NotNativeError("it has no basic tokenisation")
    lines = read_text(directory / WORDPIECE_FILES[0]).split("\n")
    if not lines[-1]:  # the last line ends in a newline
        lines.pop()
    vocabulary = {line: number for number, line in enumerate(lines)}
    unknown, _ = vocabulary_entry(vocabulary, special, "unk_token")
    start = vocabulary_entry(vocabulary, special, "cls_token")
    end = vocabulary_entry(vocabulary, special, "sep_token")
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=flag(settings, "tokenize_chinese_chars", True),
        strip_accents=flag(settings, "strip_accents", None),
        lowercase=flag(settings, "do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    middle = f"{end[0]}:0 " if two_separators else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]}:0 $A:0 {end[0]}:0",
        pair=f"{start[0]}:0 $A:0 {end[0]}:0 {middle}$B:1 {end[0]}:1",
        special_tokens=[start, end],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def adapt_case(tokenizer: Tokenizer, settings: Settings) -> None:
    """Set whether the tokenizer lower-cases and strips accents. Other normalisers than BERT's stay unchanged.

    Raises:
        NotNativeError: the tokenizer has no normaliser.
        CheckpointError: a setting has a wrong type.
    """
    normalizer = tokenizer.normalizer
    if normalizer is None:
        raise NotNativeError("it has no normaliser")
    if isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.lowercase = flag(settings, "do_lower_case", True)
        normalizer.strip_accents = flag(settings, "strip_accents", None)
        tokenizer.normalizer = normalizer


def _adapt_normalizer(tokenizer: Tokenizer, settings: Settings) -> None:
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        normalizer.handle_chinese_chars = flag(settings, "tokenize_chinese_chars", True)
        tokenizer.normalizer = normalizer
    adapt_case(tokenizer, settings)


BERT = TokenizerClass(
    BERT_TOKENS,
    has_token_types=True,
    has_pair_types=True,
    vocabulary_files=WORDPIECE_FILES,
    build=build_wordpiece,
    adapt=_adapt_normalizer,
)
DISTILBERT = replace(BERT, has_token_types=False, has_pair_types=False)
