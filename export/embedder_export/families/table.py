"""The table of families. A new family is one file in this folder and one line here."""

from collections.abc import Mapping
from typing import Any

from embedder_export.errors import CheckpointError
from embedder_export.families.albert import ALBERT
from embedder_export.families.bert import BERT, BertSettings
from embedder_export.families.clip import CLIP
from embedder_export.families.distilbert import DISTILBERT
from embedder_export.families.electra import ELECTRA
from embedder_export.families.eurobert import EUROBERT
from embedder_export.families.family import Family
from embedder_export.families.gemma3 import GEMMA3
from embedder_export.families.gte import GTE
from embedder_export.families.jina_bert import JINA_BERT
from embedder_export.families.jina_v3 import JINA_V3
from embedder_export.families.llama import LLAMA
from embedder_export.families.mistral import MISTRAL
from embedder_export.families.modernbert import MODERNBERT
from embedder_export.families.mpnet import MPNET
from embedder_export.families.nomic_bert import NOMIC_BERT
from embedder_export.families.qwen2 import QWEN2
from embedder_export.families.qwen3 import QWEN3
from embedder_export.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from embedder_export.families.siglip import SIGLIP
from embedder_export.families.static import STATIC
from embedder_export.families.t5 import T5

# By config.json's model_type.
FAMILIES: Mapping[str, Family[Any]] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": CAMEMBERT,
    "clip": CLIP,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "eurobert": EUROBERT,
    "gemma3_text": GEMMA3,
    "gte": GTE,
    "jina_embeddings_v3": JINA_V3,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "model2vec": STATIC,
    "modernbert": MODERNBERT,
    "mpnet": MPNET,
    "new": GTE,
    "nomic_bert": NOMIC_BERT,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "roberta": ROBERTA,
    "siglip": SIGLIP,
    "t5": T5,
    "xlm-roberta": XLM_ROBERTA,
}
# Model types that are refused, each with the reason.
_ONE_TOWER = "it is one tower of a SigLIP. Export the whole model, which has a tower for texts and one for images"
_REFUSED: Mapping[str, str] = {
    "siglip2": (
        "it is a NaFlex model of SigLIP 2, whose images have many sizes and shapes. embedder prepares all images of a "
        "model in one size. Take a SigLIP 2 with a fixed size, such as google/siglip2-base-patch16-224"
    ),
    "siglip_text_model": _ONE_TOWER,
    "siglip_vision_model": _ONE_TOWER,
}
# By the name of a class in the code of a repository on the Hub.
# Jina v2 has no model type of its own.
_REMOTE = {name: family for family in (*FAMILIES.values(), JINA_BERT) for name in family.remote_classes}
# Entries of auto_map that name no model.
_NO_MODELS = ("AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
# The family of every other model type. It is traced, takes texts, and must name its tokenizer class.
OTHER: Family[Any] = Family("", "", BertSettings, builders={})


def family_of(model_type: object) -> Family[Any]:
    """Return the family of config.json's model_type. For a model type that is not in the table, return `OTHER`.

    Example:
        >>> family_of("mpnet").tokenizer_class
        'MPNetTokenizer'
    """
    return FAMILIES.get(model_type, OTHER) if isinstance(model_type, str) else OTHER


def family_of_config(config: Mapping[str, Any]) -> Family[Any]:
    """Return the family of a checkpoint from the content of its config.json.

    A checkpoint with auto_map is a model of the code in its repository. Its model_type may be that of another
    architecture. So the names of the classes decide, and the code is never run.

    Raises:
        CheckpointError: auto_map names a class that is not known, or the model type is refused.

    Example:
        >>> auto_map = {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"}
        >>> family_of_config({"model_type": "nomic_bert", "auto_map": auto_map}).prefix
        'nomic_bert'
    """
    auto_map = config.get("auto_map") or {}
    if not isinstance(auto_map, Mapping):
        raise CheckpointError(f"config.json has {auto_map!r:.80} as auto_map")
    found = {}
    for key, reference in auto_map.items():
        if key in _NO_MODELS:
            continue
        family = _REMOTE.get(str(reference).rpartition(".")[2])
        if family is None:
            raise CheckpointError(
                f"config.json names {reference!r:.120}, a class of the repository's own code (auto_map). That code is "
                "never run, and the export does not know this class"
            )
        found[id(family)] = family
    if len(found) > 1:
        raise CheckpointError(f"config.json names classes of different models (auto_map): {dict(auto_map)!r:.200}")
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in _REFUSED:
        raise CheckpointError(f"config.json has {model_type!r} as model_type: {_REFUSED[model_type]}")
    return next(iter(found.values()), None) or family_of(model_type)
