"""AlbertTokenizer: Unigram with BERT's special tokens."""

from embedder_export.tokenizer.classes.bert import BERT_TOKENS
from embedder_export.tokenizer.classes.tokenizer_class import TAKES_SPACE, TokenizerClass

_TOKENS = BERT_TOKENS | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"}

ALBERT = TokenizerClass(
    _TOKENS,
    {"mask_token": TAKES_SPACE | {"normalized": False}},
    has_token_types=True,
    splits_white_space=True,
    vocabulary_files=("spiece.model",),
)
