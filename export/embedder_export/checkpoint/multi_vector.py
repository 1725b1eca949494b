"""Read what only a late-interaction checkpoint has: the layers of its token vectors, and how its texts become tokens.

There are four layouts, and sentence-transformers 6.2's MultiVectorEncoder reads three of them:

- its own: the modules Transformer, Dense, Normalize and MultiVectorMask;
- PyLate's: the modules Transformer and Dense, and settings in config_sentence_transformers.json;
- that of Stanford's ColBERT: `linear.weight` among the transformer's weights, and settings in artifact.metadata;
- that of BAAI/bge-m3: colbert_linear.pt beside an embedder, as FlagEmbedding reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from embedder.artifact.manifest import MAXSIM_FUNCTIONS
from embedder.artifact.multi_vector import DOCUMENT, QUERY, ROLES

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.layers import SENTENCE, TOKENS, Dense, Layer, Normalize, read_dense, read_normalize
from embedder_export.checkpoint.modules import Module
from embedder_export.checkpoint.roles import (
    PUNCTUATION,
    Expansion,
    TextRoles,
    is_marked,
    read_expansion,
    read_length,
    read_prefixes,
    read_pylate_settings,
    read_words,
)
from embedder_export.checkpoint.torch_format.read import read_torch_file
from embedder_export.checkpoint.weights import BlankWeights, Floats, read_weights
from embedder_export.errors import CheckpointError, NotNativeError

# The model types of config_sentence_transformers.json: sentence-transformers' and PyLate's.
MULTI_VECTOR_TYPE, PYLATE_TYPE = "MultiVectorEncoder", "ColBERT"
# The architecture in config.json, and the file of settings, of Stanford's ColBERT.
STANFORD = "HF_ColBERT"
METADATA = "artifact.metadata"
# The projection of Stanford's ColBERT, and that of BAAI/bge-m3.
_PROJECTION = "linear.weight"
FLAG_PROJECTION = "colbert_linear.pt"
_STANFORD_MARKERS = {QUERY: ("query_token_id", "[unused0]"), DOCUMENT: ("doc_token_id", "[unused1]")}
_STANFORD_EXPANSION = 32
_MASK = "MultiVectorMask"
_POOLED = "Pooling"


@dataclass(frozen=True)
class MultiVectorParts:
    """The parts of a checkpoint that only late interaction has.

    Attributes:
        layers: the layers after the transformer. All of them take the vectors of tokens.
        roles: how queries and documents become tokens.
        similarity: one of `MAXSIM_FUNCTIONS`.
        prompts: the prompts that are not in config_sentence_transformers.json, by name.
    """

    layers: tuple[Layer, ...]
    roles: TextRoles
    similarity: str = MAXSIM_FUNCTIONS[0]
    prompts: dict[str, str] = field(default_factory=dict)


def read_bare_parts(directory: Path, architectures: Sequence[str]) -> MultiVectorParts:
    """Read a checkpoint without modules.json: Stanford's ColBERT.

    Raises:
        CheckpointError: it is another model, whose vectors of tokens nobody trained for late interaction; or a file is
            missing or damaged.

    Example:
        >>> read_bare_parts(Path("colbertv2.0"), ["HF_ColBERT"]).roles.expansion.length  # doctest: +SKIP
        32
    """
    if STANFORD not in architectures:
        if (directory / FLAG_PROJECTION).exists():
            return read_flag_parts(directory)
        raise _untrained()
    metadata = read_json(directory / METADATA, dict, default={})
    prompts = {role: f"{metadata.get(key) or usual} " for role, (key, usual) in _STANFORD_MARKERS.items()}
    length = read_length(metadata, "query_maxlen") or _STANFORD_EXPANSION
    roles = TextRoles(
        document_length=read_length(metadata, "doc_maxlen"),
        expansion=Expansion(length, is_attended=bool(metadata.get("attend_to_mask_tokens"))),
        skipped_words=PUNCTUATION if metadata.get("mask_punctuation", True) else (),
        markers=tuple(prompts.values()),
    )
    dense = Dense(_read_projection(directory), None, "Identity", TOKENS)
    return MultiVectorParts((dense, Normalize(TOKENS)), roles, prompts=prompts)


def read_parts(
    modules: Sequence[Module],
    declared: Mapping[str, Any],
    settings: Mapping[str, Any],
    architectures: Sequence[str],
    prompts: Mapping[str, str],
) -> MultiVectorParts:
    """Read a checkpoint with modules.json.

    Args:
        modules: the modules after the transformer.
        declared: the content of config_sentence_transformers.json.
        settings: sentence-transformers' settings of the transformer.
        architectures: the architectures that config.json names.
        prompts: the prompts of config_sentence_transformers.json, by name.

    Raises:
        CheckpointError: a module or a setting is not supported, a file is missing or damaged; or the checkpoint is an
            embedder without a layer for late interaction.

    Example:
        >>> read_parts(modules, {"model_type": "ColBERT"}, {}, ["ModernBertModel"], {}).similarity  # doctest: +SKIP
        'maxsim'
    """
    kind = declared.get("model_type")
    is_own = kind == MULTI_VECTOR_TYPE or (kind is None and STANFORD in architectures)
    if not is_own and kind != PYLATE_TYPE and not is_marked(declared):
        raise _untrained()
    layers = _read_layers(modules, pooled=not is_own and kind != PYLATE_TYPE)
    if not any(isinstance(layer, Dense) for layer in layers) and not is_own:
        raise _untrained()
    prefixes = read_prefixes(declared)
    given = read_pylate_settings(declared) | dict(settings)
    mask = _read_mask(modules)
    if mask is None and not is_own:  # sentence-transformers adds these two
        words = declared.get("skiplist_words")
        mask = {"skiplist_words": list(PUNCTUATION) if words is None else words}
        layers = (*layers, Normalize(TOKENS))
    expansion = read_expansion(given.get("query_expansion"))
    if mask is None and expansion is not None:
        raise CheckpointError(f"the checkpoint has query_expansion and no {_MASK}, which is not supported")
    roles = TextRoles(
        query_length=read_length(given, "query_length"),
        document_length=read_length(given, "document_length"),
        expansion=expansion,
        skipped_words=read_words((mask or {}).get("skiplist_words"), "skiplist_words"),
        skipped_in=_read_tasks((mask or {}).get("skiplist_tasks")),
        markers=tuple(prefixes.values()),
    )
    _check_lengths(roles)
    similarity = declared.get("similarity_fn_name")
    own = {role: prefix + prompts.get(role, "").removeprefix(prefix) for role, prefix in prefixes.items()}
    return MultiVectorParts(layers, roles, similarity if similarity in MAXSIM_FUNCTIONS else MAXSIM_FUNCTIONS[0], own)


def read_flag_parts(directory: Path) -> MultiVectorParts:
    """Read the third head of BAAI/bge-m3: a linear layer over all tokens but the first.

    The formula is that of `BGEM3FlagModel` in FlagEmbedding (https://github.com/FlagOpen/FlagEmbedding). The score of a
    query is the mean over its tokens.

    Raises:
        CheckpointError: the file is missing or damaged.

    Example:
        >>> read_flag_parts(Path("bge-m3")).roles.skipped_first  # doctest: +SKIP
        1
    """
    path = directory / FLAG_PROJECTION
    tensors = {name: tensor.numpy().astype(np.float32) for name, tensor in read_torch_file(path).items()}
    weight, bias = tensors.get("weight"), tensors.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise CheckpointError(f"{path} should hold the weight and the bias of a linear layer")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CheckpointError(f"the weights are not finite: {path} has NaN or infinity in it")
    dense = Dense(weight, bias, "Identity", TOKENS)
    return MultiVectorParts((dense, Normalize(TOKENS)), TextRoles(skipped_first=1), MAXSIM_FUNCTIONS[1])


def _untrained() -> CheckpointError:
    return CheckpointError(
        "the checkpoint has no layer for late interaction. Its vectors of tokens were not trained for it, so it is not "
        "exported for the task 'multi_vector'"
    )


def _read_layers(modules: Sequence[Module], *, pooled: bool) -> tuple[Layer, ...]:
    """Read the layers of the vectors of tokens.

    Args:
        modules: the modules after the transformer.
        pooled: whether there may be a pooling and layers after it, which sentence-transformers leaves out.
    """
    layers: list[Layer] = []
    for module in modules:
        if module.kind == "Dense":
            layer = read_dense(module.directory, TOKENS)
            if layer.feature != TOKENS or layer.gives_scores:
                raise CheckpointError(f"{module.directory} is a Dense of pooled vectors, in a late-interaction model")
            layers.append(layer)
        elif module.kind == "Normalize":
            if read_normalize(module.directory).feature != SENTENCE:  # there is no pooled vector to scale
                layers.append(Normalize(TOKENS))
        elif module.kind not in (_MASK, "Dropout") and not (pooled and module.kind == _POOLED):
            raise CheckpointError(f"the module {module.kind!r:.80} is not supported in a late-interaction model")
    return tuple(layers)


def _read_mask(modules: Sequence[Module]) -> dict[str, Any] | None:
    """Return the settings of the MultiVectorMask, or None if there is none."""
    found = [module for module in modules if module.kind == _MASK]
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(f"the checkpoint has {len(found)} modules {_MASK}; it should have one")
    path = found[0].directory / "config.json"
    settings: dict[str, Any] = read_json(path, dict, default={})
    if settings.get("keep_only_token_ids"):
        raise CheckpointError(f"{path} has keep_only_token_ids, which is for images and not supported")
    return settings


def _read_tasks(tasks: Any) -> tuple[str, ...]:
    if tasks is None:
        return (DOCUMENT,)
    names = (tasks,) if isinstance(tasks, str) else read_words(tasks, "skiplist_tasks")
    return tuple(role for role in ROLES if role in names)


def _check_lengths(roles: TextRoles) -> None:
    expansion, length = roles.expansion, roles.query_length
    if expansion is not None and length is not None and length < expansion.length:
        raise CheckpointError(
            f"the checkpoint has a query_length of {length}, which is below that of its query_expansion, "
            f"{expansion.length}"
        )


def _read_projection(directory: Path) -> Floats:
    """Return the projection of Stanford's ColBERT, float32 (dimension, width)."""
    try:
        weights = read_weights(directory)
    except NotNativeError as error:
        raise CheckpointError(str(error)) from error
    if isinstance(weights, BlankWeights):
        return weights.zeros(1, 1).numpy()
    if _PROJECTION not in weights:
        raise CheckpointError(f"the weights lack {_PROJECTION}, the projection of a ColBERT model")
    weight: Floats = weights[_PROJECTION].numpy()
    if weight.ndim != 2 or not np.isfinite(weight).all():
        raise CheckpointError(f"the weights have {_PROJECTION}, which is no finite matrix")
    return weight
