"""The tokenizer classes that are read natively: a file for each kind, a row in `CLASSES` for each class.

They do what transformers 4.57 does, as far as the token ids of a text depend on it. To add a class:

1. Write its `TokenizerClass` in the file of its kind, or in a new file. Compare with the class in transformers:
   its default special tokens, what its `__init__` changes, and the converter for checkpoints without tokenizer.json.
2. Add a row to `CLASSES`, by the name without "Fast".
3. If a family's checkpoints have the class where no file names one, it is the `tokenizer_class` of the family.
4. Add a small tokenizer to `MAKERS` in tests/tokenizer_files.py. tests/export/test_tokenizer.py then compares the class
   with transformers under every setting.
"""

from embedder_export.families.table import family_of
from embedder_export.tokenizer.classes.albert import ALBERT
from embedder_export.tokenizer.classes.bert import BERT, DISTILBERT
from embedder_export.tokenizer.classes.clip import CLIP
from embedder_export.tokenizer.classes.general import GENERAL, GENERAL_OF_5
from embedder_export.tokenizer.classes.mpnet import MPNET
from embedder_export.tokenizer.classes.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from embedder_export.tokenizer.classes.t5 import T5
from embedder_export.tokenizer.classes.tokenizer_class import TokenizerClass

# The only class that transformers 5 has and transformers 4 has not.
CLASS_OF_5 = "TokenizersBackend"

CLASSES: dict[str, TokenizerClass] = {
    "AlbertTokenizer": ALBERT,
    "BertTokenizer": BERT,
    "CamembertTokenizer": CAMEMBERT,
    "CLIPTokenizer": CLIP,
    "DistilBertTokenizer": DISTILBERT,
    "ElectraTokenizer": BERT,
    "MPNetTokenizer": MPNET,
    "PreTrainedTokenizer": GENERAL,
    "RobertaTokenizer": ROBERTA,
    "T5Tokenizer": T5,
    CLASS_OF_5: GENERAL_OF_5,
    "XLMRobertaTokenizer": XLM_ROBERTA,
}


def usual_class(model_type: str) -> str | None:
    """Return the tokenizer class of a model type of config.json, for checkpoints where no file names a class."""
    return family_of(model_type).tokenizer_class or None
