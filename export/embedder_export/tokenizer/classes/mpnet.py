"""MPNetTokenizer: BERT's WordPiece with most of RoBERTa's special tokens."""

from functools import partial

from embedder_export.tokenizer.classes.bert import WORDPIECE_FILES, adapt_case, build_wordpiece
from embedder_export.tokenizer.classes.roberta import ROBERTA_TOKENS
from embedder_export.tokenizer.classes.tokenizer_class import TAKES_SPACE, TokenizerClass, TokenOptions

_TOKENS = ROBERTA_TOKENS | {"unk_token": "[UNK]"}
_OPTIONS: TokenOptions = {role: {} for role in _TOKENS} | {"mask_token": TAKES_SPACE}
_BARE_OPTIONS: TokenOptions = {role: {"special": True} | options for role, options in _OPTIONS.items()}

MPNET = TokenizerClass(
    _TOKENS,
    _OPTIONS,
    _BARE_OPTIONS,
    vocabulary_files=WORDPIECE_FILES,
    build=partial(build_wordpiece, two_separators=True),
    adapt=adapt_case,
)
