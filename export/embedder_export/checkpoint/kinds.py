"""Refuse checkpoints of models that are neither embedders nor cross-encoders. The message names the kind of model.

Without modules.json, sentence-transformers pools the token vectors of any transformer. It would make an embedder of a
token classifier, although nobody trained it as one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS, read_json
from embedder_export.checkpoint.weights import tensor_names
from embedder_export.errors import CheckpointError

# The kind of model for each ending of an architecture's name. Pretrained models are allowed:
# *Model, *ForMaskedLM, *ForPreTraining, *ForCausalLM, *ForConditionalGeneration.
_KINDS = {
    "ForTokenClassification": "a token classifier",
    "ForQuestionAnswering": "a question-answering model",
    "ForMultipleChoice": "a multiple-choice model",
    "ForNextSentencePrediction": "a next-sentence classifier",
    "Classification": "a classifier",
    "Classifier": "a classifier",
}
_COLBERT = re.compile("colbert", re.IGNORECASE)
_COLBERT_KIND = "a ColBERT (late interaction) model"
_COLBERT_METADATA = "artifact.metadata"
# The kind of model for each prefix of a weight's name. Only models of that kind have such weights.
_WEIGHTS = {
    "classifier.": "a classifier",
    "score.": "a classifier",
    "qa_outputs.": "a question-answering model",
}
# A ColBERT checkpoint has this projection beside the transformer's weights.
_COLBERT_PROJECTION = "linear.weight"
_ADVICE = "it gives no sentence embeddings, so it is not exported"


def check_declared_kind(config: Mapping[str, Any]) -> None:
    """Check config_sentence_transformers.json, the declaration of sentence-transformers' own models.

    Raises:
        CheckpointError: it names another kind than SentenceTransformer or CrossEncoder, such as SparseEncoder.

    Example:
        >>> check_declared_kind({"model_type": "SentenceTransformer"})
    """
    kind = config.get("model_type", "SentenceTransformer")
    if kind not in ("SentenceTransformer", "CrossEncoder"):
        raise CheckpointError(f"the checkpoint is a {kind!s:.80}, not a SentenceTransformer or a CrossEncoder")


def check_bare_kind(directory: Path, config: Mapping[str, Any]) -> None:
    """Check a checkpoint without modules.json that is no cross-encoder.

    Args:
        directory: the checkpoint's directory.
        config: the content of its config.json.

    Raises:
        CheckpointError: its architecture, its weights or its metadata belong to a model of another kind.

    Example:
        >>> check_bare_kind(Path("no such directory"), {"architectures": ["BertModel"]})
    """
    for architecture in architectures_of(config):
        kind = _kind_of(architecture)
        if kind is not None:
            raise CheckpointError(f"the checkpoint is {kind} ({architecture:.80}): {_ADVICE}")
    if (directory / _COLBERT_METADATA).exists():
        raise CheckpointError(f"the checkpoint is {_COLBERT_KIND}, as its {_COLBERT_METADATA} says: {_ADVICE}")
    settings = read_json(directory / "config_sentence_transformers.json", dict, default={})
    check_declared_kind(settings)
    if any(directory.glob(SAFETENSORS)) or any(directory.glob(TORCH_WEIGHTS)):
        _check_weights(tensor_names(directory))


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures that config.json names.

    Example:
        >>> architectures_of({"architectures": ["BertModel"]})
        ['BertModel']
    """
    names = config.get("architectures")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _kind_of(architecture: str) -> str | None:
    if _COLBERT.search(architecture):
        return _COLBERT_KIND
    return next((kind for ending, kind in _KINDS.items() if architecture.endswith(ending)), None)


def _check_weights(names: set[str]) -> None:
    for name in sorted(names):
        kind = next((kind for beginning, kind in _WEIGHTS.items() if name.startswith(beginning)), None)
        kind = _COLBERT_KIND if name == _COLBERT_PROJECTION else kind
        if kind is not None:
            raise CheckpointError(f"the checkpoint is {kind}, as it has the weight {name:.80}: {_ADVICE}")
