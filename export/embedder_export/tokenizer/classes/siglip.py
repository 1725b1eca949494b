"""SiglipTokenizer: Unigram, on texts in lower case without punctuation.

transformers reads spiece.model with SentencePiece, whatever tokenizer.json says. So do the functions here.
"""

import string
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from embedder_export.errors import NotNativeError
from embedder_export.tokenizer.classes.tokenizer_class import Settings, Token, TokenizerClass, flag, vocabulary_entry
from embedder_export.tokenizer.sentencepiece_file import UnigramModel, read_unigram

_FILES = ("spiece.model",)
_SPACE = "▁"
# A code point that Unicode has set aside for the inner use of programs. No text has it.
_START = "\U0010ffff"
_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
# The punctuation of ASCII, Python's string.punctuation.
_PUNCTUATION = r"[!-/:-@\[-`{-~]"
# White space as Python's regular expressions have it. The library's \s lacks the four separators.
_WHITE_SPACE = "[\\s\x1c-\x1f]+"
# A capital sigma at the end of a word. Python lower-cases it to another letter than elsewhere, as Unicode says
# (https://www.unicode.org/versions/Unicode16.0.0/core-spec/chapter-3/, table 3-17). The library's Lowercase does not.
_FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\KΣ(?!\p{Case_Ignorable}*\p{Cased})"


def _build(directory: Path, settings: Settings, special: dict[str, Token]) -> Tokenizer:
    model = read_unigram(directory / _FILES[0])
    pieces = _reachable_pieces(model)
    tokenizer = Tokenizer(Unigram(pieces, model.unknown_id, model.has_bytes))
    tokenizer.normalizer = _normalizer(model, lowercase=flag(settings, "do_lower_case", True) is True)
    # If no piece has a space inside, words are tokenised alone.
    tokenizer.pre_tokenizer = _pre_tokenizer(by_word=not any(_SPACE in piece[1:] for piece, _ in pieces))
    end = vocabulary_entry({piece: at for at, (piece, _) in enumerate(pieces)}, special, "eos_token")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _reachable_pieces(model: UnigramModel) -> list[tuple[str, float]]:
    """Return the pieces without those at the end that users defined, such as "<extra_id_0>".

    No text has such a piece, because the class removes punctuation. The model has no row for it.

    Raises:
        NotNativeError: a piece that users defined has no punctuation.
    """
    pieces, defined = list(model.pieces), set(model.user_defined)
    if not all(set(pieces[at][0]) & set(string.punctuation) for at in defined):
        raise NotNativeError("its SentencePiece model has pieces that users defined")
    while len(pieces) - 1 in defined:
        pieces.pop()
    return pieces


def _normalizer(model: UnigramModel, *, lowercase: bool) -> normalizers.Normalizer:
    """Return the steps before the pre-tokeniser: those of the class, and then those of SentencePiece.

    The class puts a mark of a space before the text. It keeps a space that the text begins with, also one that
    is left of punctuation there, so there are two marks then. SentencePiece drops all spaces at the end.
    """
    steps = [
        normalizers.Replace(_SPACE, " "),
        normalizers.Prepend(_SPACE),
        *([normalizers.Replace(Regex(_FINAL_SIGMA), "ς"), normalizers.Lowercase()] if lowercase else []),
        normalizers.Replace(Regex(_PUNCTUATION), ""),
        normalizers.Replace(Regex(_WHITE_SPACE), " "),
        normalizers.Strip(left=False, right=True),
        *([normalizers.Precompiled(model.characters)] if model.characters else []),
        normalizers.Replace(Regex("(?<= ) +"), ""),  # the first space stays, so that the start of the text is known
        normalizers.Replace(Regex(f"[ {_SPACE}]+$"), ""),
        normalizers.Replace(" ", _SPACE),
    ]
    return normalizers.Sequence(steps)


def _pre_tokenizer(*, by_word: bool) -> pre_tokenizers.PreTokenizer:
    """Return the steps after the normaliser. They remove the marks before a text that follows a special token.

    Only Metaspace knows where a text begins. So it puts a character of its own there, which is removed again.
    """
    steps = [
        pre_tokenizers.Metaspace(_START, "first", split=False),
        pre_tokenizers.Split(Regex(f"^{_SPACE}+"), behavior="removed"),
        pre_tokenizers.Split(_START, behavior="removed"),
    ]
    if by_word:
        steps.append(pre_tokenizers.Split(_SPACE, behavior="merged_with_next"))
    return pre_tokenizers.Sequence(steps)


def _adapt(tokenizer: Tokenizer, settings: Settings) -> None:
    """Let special tokens take the spaces around them: the class drops spaces at the ends of the texts between them.

    Raises:
        NotNativeError: SentencePiece has settings of its own.
    """
    if settings.get("sp_model_kwargs"):
        raise NotNativeError("it has sp_model_kwargs")
    tokenizer.add_tokens(
        [
            AddedToken(
                token.content,
                single_word=token.single_word,
                lstrip=True,
                rstrip=True,
                normalized=token.normalized,
                special=token.special,
            )
            for token in tokenizer.get_added_tokens_decoder().values()
        ]
    )


SIGLIP = TokenizerClass(
    _TOKENS,
    vocabulary_files=_FILES,
    ignores_tokenizer_json=True,
    build=_build,
    adapt=_adapt,
)
