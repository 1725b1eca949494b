"""List the tokenizer classes that are read natively. Each kind has a file, and each class has a row in `CLASSES`.

A class gives the same token ids as in transformers 4.57. The classes of `decoders` give those of transformers 5. To add
a class:

1. Write its `TokenizerClass` in the file of its kind, or in a new file. Compare three things with the class in
   transformers: the default special tokens, the changes in `__init__`, and the converter for checkpoints without
   tokenizer.json.
2. Add a row to `CLASSES`, under the name without "Fast".
3. If it is the class of a family's checkpoints that name no class, make it the `tokenizer_class` of that family.
4. Add a small tokenizer to `MAKERS` in tests/tokenizer_files.py. tests/export/test_tokenizer.py then compares the
   class with transformers under every setting.
"""

from embedder_export.families.table import family_of
from embedder_export.tokenizer.classes.albert import ALBERT
from embedder_export.tokenizer.classes.bert import BERT, DISTILBERT
from embedder_export.tokenizer.classes.clip import CLIP
from embedder_export.tokenizer.classes.decoders import GEMMA, LLAMA, QWEN2, SIGLIP2
from embedder_export.tokenizer.classes.general import GENERAL, GENERAL_OF_5
from embedder_export.tokenizer.classes.mpnet import MPNET
from embedder_export.tokenizer.classes.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from embedder_export.tokenizer.classes.siglip import SIGLIP
from embedder_export.tokenizer.classes.t5 import T5
from embedder_export.tokenizer.classes.tokenizer_class import TokenizerClass

# The only class of transformers 5 that transformers 4 lacks.
CLASS_OF_5 = "TokenizersBackend"

# By the name in transformers, without "Fast".
CLASSES: dict[str, TokenizerClass] = {
    "AlbertTokenizer": ALBERT,
    "BertTokenizer": BERT,
    "CamembertTokenizer": CAMEMBERT,
    "CLIPTokenizer": CLIP,
    "DistilBertTokenizer": DISTILBERT,
    "ElectraTokenizer": BERT,
    "GemmaTokenizer": GEMMA,
    "LlamaTokenizer": LLAMA,
    "MPNetTokenizer": MPNET,
    "PreTrainedTokenizer": GENERAL,
    "Qwen2Tokenizer": QWEN2,
    "RobertaTokenizer": ROBERTA,
    "Siglip2Tokenizer": SIGLIP2,
    "SiglipTokenizer": SIGLIP,
    "T5Tokenizer": T5,
    CLASS_OF_5: GENERAL_OF_5,
    "XLMRobertaTokenizer": XLM_ROBERTA,
}

# transformers 5 gives tokenizers of these model types a class of its own choice, whichever class a file names.
_FIXED_CLASSES = {"mistral": "PreTrainedTokenizer", "qwen2": "Qwen2Tokenizer"}


def effective_class(name: str, model_type: object) -> str:
    """Return the tokenizer class that counts, for a tokenizer of the class `name` beside a model.

    Example:
        >>> effective_class("LlamaTokenizer", "mistral"), effective_class("BertTokenizer", "bert")
        ('PreTrainedTokenizer', 'BertTokenizer')
    """
    if name == CLASS_OF_5 and model_type == "mistral":
        return name
    return _FIXED_CLASSES.get(model_type, name) if isinstance(model_type, str) else name


def splits_white_space(name: str) -> bool:
    """Return whether transformers 5 splits texts at white space first, for the tokenizer class `name`.

    Example:
        >>> splits_white_space("XLMRobertaTokenizerFast"), splits_white_space("BertTokenizer")
        (True, False)
    """
    kind = CLASSES.get(name.removesuffix("Fast"))
    return kind is not None and kind.splits_white_space


def usual_class(model_type: str) -> str | None:
    """Return the tokenizer class of a model type, for checkpoints that name no class. None if it is not known.

    Example:
        >>> usual_class("roberta")
        'RobertaTokenizer'
    """
    return family_of(model_type).tokenizer_class or None
