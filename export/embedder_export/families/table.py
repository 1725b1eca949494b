"""The table of families. A new family is one file in this folder and one line here."""

from collections.abc import Mapping
from typing import Any

from embedder_export.families.albert import ALBERT
from embedder_export.families.bert import BERT, BertSettings
from embedder_export.families.clip import CLIP
from embedder_export.families.distilbert import DISTILBERT
from embedder_export.families.electra import ELECTRA
from embedder_export.families.family import Family
from embedder_export.families.mpnet import MPNET
from embedder_export.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from embedder_export.families.t5 import T5

# By config.json's model_type.
FAMILIES: Mapping[str, Family[Any]] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "clip": CLIP,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "t5": T5,
    "xlm-roberta": XLM_ROBERTA,
}
# The family of every other model type. It is traced, takes texts, and must name its tokenizer class.
OTHER: Family[Any] = Family("", "", BertSettings, builders={})


def family_of(model_type: object) -> Family[Any]:
    """Return the family of config.json's model_type. For a model type that is not in the table, return `OTHER`.

    Example:
        >>> family_of("mpnet").tokenizer_class
        'MPNetTokenizer'
    """
    return FAMILIES.get(model_type, OTHER) if isinstance(model_type, str) else OTHER
