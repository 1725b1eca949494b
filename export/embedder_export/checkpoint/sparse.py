"""Read a sparse model: a SPLADE, a model of static weights, a router between the two, or the sparse head of BGE-M3."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embedder.artifact.manifest import SPARSE

from embedder_export.checkpoint.checkpoint import Checkpoint, QuerySide
from embedder_export.checkpoint.declared import (
    check_no_chat_template,
    digest_modules,
    family_of_first,
    read_prompts,
    read_similarity,
)
from embedder_export.checkpoint.kinds import architectures_of, check_bare_kind
from embedder_export.checkpoint.locate import Location
from embedder_export.checkpoint.modules import Module
from embedder_export.checkpoint.routers import ROUTERS, read_routes
from embedder_export.checkpoint.sparse_heads import (
    SPARSE_LINEAR,
    read_splade_pooling,
    read_static_weights,
    read_token_weights,
    read_word_scores,
)
from embedder_export.checkpoint.sparse_layers import SpladePooling, StaticWeights
from embedder_export.checkpoint.transformer import EXTRACTION, FILL_MASK, read_config, read_transformer_settings
from embedder_export.errors import CheckpointError

_LANGUAGE_MODEL = "ForMaskedLM"
_TRANSFORMERS = ("Transformer", "MLMTransformer")
_STATIC = "SparseStaticEmbedding"
_SIMILARITIES = ("dot", "cosine")


def read_sparse(location: Location, modules: list[Module] | None, declared: Mapping[str, Any]) -> Checkpoint:
    """Read the sparse model at `location`.

    Args:
        location: where the checkpoint is.
        modules: the modules of modules.json. None if there is no such file.
        declared: the content of config_sentence_transformers.json.

    Raises:
        CheckpointError: a file is missing or damaged, or has something that the export cannot honour.

    Example:
        >>> read_sparse(location, modules, {}).task  # doctest: +SKIP
        'sparse'
    """
    if modules is None:
        return _read_bare(location)
    if any(module.kind == "SparseAutoEncoder" for module in modules):
        raise CheckpointError("the checkpoint has a SparseAutoEncoder (CSR), which is not supported")
    if modules[0].kind in ROUTERS:
        checkpoint = _read_router(location, modules, declared)
    elif modules[0].kind == _STATIC:
        checkpoint = _read_static(location, modules)
    elif (location.directory / SPARSE_LINEAR).exists():
        return _read_token_weights(location, modules[0])  # what is declared is about its dense vectors
    else:
        checkpoint = _read_splade(location, modules)
    return replace(
        checkpoint,
        similarity=_read_similarity(declared),
        prompts=read_prompts(declared),
        default_prompt_name=declared.get("default_prompt_name"),
        max_active_dims=_read_max_active_dims(declared),
    )


def _read_similarity(declared: Mapping[str, Any]) -> str:
    similarity = read_similarity(declared, "dot")
    if similarity not in _SIMILARITIES:
        raise CheckpointError(
            f"the checkpoint compares sparse vectors by {similarity!r}; only dot and cosine are supported"
        )
    return similarity


def _read_max_active_dims(declared: Mapping[str, Any]) -> int | None:
    count = declared.get("max_active_dims")
    if count is not None and (type(count) is not int or count < 1):
        raise CheckpointError(f"the checkpoint has {count!r:.80} as max_active_dims")
    return count


def _read_bare(location: Location) -> Checkpoint:
    """Read a masked language model without modules.json, as sentence-transformers' SparseEncoder does."""
    directory = location.directory
    config = read_config(directory, directory)
    check_bare_kind(directory, config)
    names = architectures_of(config)
    if not any(name.endswith(_LANGUAGE_MODEL) for name in names):
        found = ", ".join(names) or "no architecture"
        raise CheckpointError(f"a sparse model needs a masked language model, and config.json has {found:.120}")
    check_no_chat_template(directory)
    first = Module("Transformer", directory)
    return _with_word_scores(location, first, config, {}, SpladePooling(), [first])


def _read_splade(location: Location, modules: list[Module]) -> Checkpoint:
    """Read a transformer with the head of a masked language model, and the pooling of SPLADE after it."""
    kinds = [module.kind for module in modules]
    if len(modules) != 2 or kinds[0] not in _TRANSFORMERS or kinds[1] != "SpladePooling":
        raise CheckpointError(f"the sparse model has the modules {', '.join(kinds):.200}, which are not supported")
    first, pooling = modules
    config = read_config(location.directory, first.directory)
    family = family_of_first(Module("Transformer", first.directory), config)
    is_language_model = first.kind == "MLMTransformer"
    settings = read_transformer_settings(first.directory, family, (EXTRACTION, FILL_MASK))
    if settings.get("transformer_task", FILL_MASK if is_language_model else EXTRACTION) != FILL_MASK:
        raise CheckpointError("the pooling of SPLADE needs a transformer for the task 'fill-mask'")
    return _with_word_scores(location, first, config, settings, read_splade_pooling(pooling.directory), modules)


def _with_word_scores(
    location: Location,
    first: Module,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    pooling: SpladePooling,
    modules: list[Module],
) -> Checkpoint:
    family = family_of_first(Module("Transformer", first.directory), config)
    return Checkpoint(
        directory=location.directory,
        transformer=first.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules(modules),
        layers=(read_word_scores(first.directory, config, family), pooling),
        family=family,
        task=SPARSE,
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity="dot",
    )


def _read_token_weights(location: Location, first: Module) -> Checkpoint:
    """Read the sparse head of BGE-M3, which is beside the modules of an embedder."""
    config = read_config(location.directory, first.directory)
    family = family_of_first(first, config)
    settings = read_transformer_settings(first.directory, family)
    return Checkpoint(
        directory=location.directory,
        transformer=first.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules([first], [location.directory / SPARSE_LINEAR]),
        layers=(read_token_weights(location.directory / SPARSE_LINEAR, first.directory, config),),
        family=family,
        task=SPARSE,
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity="dot",
    )


def _read_static(location: Location, modules: list[Module]) -> Checkpoint:
    """Read a model that has only a weight for each token id."""
    if len(modules) > 1:
        raise CheckpointError(f"the module {modules[1].kind!r:.80} after a {_STATIC} is not supported")
    directory = modules[0].directory
    return Checkpoint(
        directory=location.directory,
        transformer=directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules(modules),
        layers=(StaticWeights(read_static_weights(directory)),),
        task=SPARSE,
        similarity="dot",
    )


def _read_router(location: Location, modules: list[Module], declared: Mapping[str, Any]) -> Checkpoint:
    """Read a model with static weights for queries and a SPLADE for documents."""
    routes = read_routes(modules[0].directory)
    others = [module.kind for module in modules[1:]]
    kinds = {task: [module.kind for module in route] for task, route in routes.items()}
    if others or set(kinds) != {"query", "document"} or kinds["query"] != [_STATIC]:
        described = "; ".join(f"{task}: {', '.join(names)}" for task, names in kinds.items())
        raise CheckpointError(
            f"a router needs static weights for queries and a SPLADE for documents. Here it has {described:.300}"
        )
    query, documents = routes["query"][0], routes["document"]
    checkpoint = _read_splade(location, documents)
    queries = QuerySide(query.directory, read_static_weights(query.directory))
    return replace(checkpoint, weights_sha256=digest_modules([*documents, query]), queries=queries)
