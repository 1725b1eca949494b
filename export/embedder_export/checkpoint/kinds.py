"""Find out the task of a checkpoint. Refuse checkpoints that have none of the tasks; the message names their kind.

Without modules.json, sentence-transformers pools the token vectors of any transformer. It would make an embedder of a
token classifier, although nobody trained it as one.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embedder.artifact.manifest import EMBED, MULTI_VECTOR, RANK, SPARSE

from embedder_export.checkpoint.cross_encoder import is_cross_encoder
from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS
from embedder_export.checkpoint.modules import Module
from embedder_export.checkpoint.multi_vector import METADATA, MULTI_VECTOR_TYPE, PYLATE_TYPE, STANFORD
from embedder_export.checkpoint.roles import is_marked
from embedder_export.checkpoint.weights import tensor_names
from embedder_export.errors import CheckpointError

# The tasks that a user may choose for a checkpoint that has several.
TASKS = (EMBED, SPARSE, MULTI_VECTOR)
# The task of each model_type in config_sentence_transformers.json. sentence-transformers' classes have these names.
_DECLARED = {
    "SentenceTransformer": EMBED,
    "CrossEncoder": RANK,
    "SparseEncoder": SPARSE,
    MULTI_VECTOR_TYPE: MULTI_VECTOR,
    PYLATE_TYPE: MULTI_VECTOR,
}
# Only models of a task have these modules. Older checkpoints may lack the declaration.
_MODULES = {
    "SpladePooling": SPARSE,
    "SparseStaticEmbedding": SPARSE,
    "SparseAutoEncoder": SPARSE,
    "MultiVectorMask": MULTI_VECTOR,
}
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
# The kind of model for each prefix of a weight's name. Only models of that kind have such weights.
_WEIGHTS = {
    "classifier.": "a classifier",
    "score.": "a classifier",
    "qa_outputs.": "a question-answering model",
}
# A ColBERT checkpoint has this projection beside the transformer's weights.
_COLBERT_PROJECTION = "linear.weight"
_ADVICE = "it gives no sentence embeddings, so it is not exported"


def task_of(
    declared: Mapping[str, Any],
    modules: Sequence[Module] | None,
    architectures: Sequence[str],
    chosen: str | None = None,
) -> str:
    """Return the task of a checkpoint, one of the manifest's.

    Args:
        declared: the content of config_sentence_transformers.json.
        modules: the modules of modules.json. None if there is no such file.
        architectures: the architectures that config.json names.
        chosen: the task that the user has chosen, one of `TASKS`. None lets the checkpoint decide.

    Raises:
        CheckpointError: the checkpoint is of an unknown kind, or it is for another task than the chosen one. A
            checkpoint that says nothing, or says that it is an embedder, may have other heads too.

    Example:
        >>> task_of({}, None, ["BertForMaskedLM"]), task_of({}, None, ["BertForMaskedLM"], "sparse")
        ('embed', 'sparse')
    """
    own = _own_task(declared, modules, architectures)
    if chosen in (None, own):
        return own
    if own != EMBED:
        raise CheckpointError(f"the checkpoint is for the task {own!r}, so it cannot be exported for {chosen!r}")
    assert chosen is not None  # the first condition made sure
    return chosen


def _own_task(declared: Mapping[str, Any], modules: Sequence[Module] | None, architectures: Sequence[str]) -> str:
    if is_cross_encoder(declared, modules, architectures):
        return RANK
    kind = declared.get("model_type", "SentenceTransformer")
    if not isinstance(kind, str) or kind not in _DECLARED:
        raise CheckpointError(f"the checkpoint is a {kind!s:.80}, which is not supported")
    if "model_type" not in declared and (STANFORD in architectures or _is_from_pylate(declared, modules)):
        return MULTI_VECTOR
    found = [_MODULES[module.kind] for module in modules or () if module.kind in _MODULES]
    return found[0] if found else _DECLARED[kind]


def _is_from_pylate(declared: Mapping[str, Any], modules: Sequence[Module] | None) -> bool:
    """Return whether PyLate saved a checkpoint. Its first versions declared no model type."""
    return modules is not None and (is_marked(declared) or any(module.is_from_pylate for module in modules))


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
    if (directory / METADATA).exists():
        raise CheckpointError(f"the checkpoint is {_COLBERT_KIND}, as its {METADATA} says: {_ADVICE}")
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
