"""Read the settings of a sentence-transformers checkpoint from its own files, as its task needs them.

A setting that the export cannot honour is refused by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedder.artifact.hub_access import DEFAULT_ACCESS, HubAccess
from embedder.artifact.manifest import EMBED, MULTI_VECTOR, RANK, SPARSE

from embedder_export.checkpoint.checkpoint import Checkpoint
from embedder_export.checkpoint.cross_encoder import (
    check_classifier,
    read_head,
    read_label_names,
    read_scores,
)
from embedder_export.checkpoint.declared import (
    check_no_chat_template,
    digest_modules,
    family_of_first,
    read_prompts,
    read_similarity,
)
from embedder_export.checkpoint.files import check_pointers, check_special_files, digest_weights, read_json
from embedder_export.checkpoint.kinds import architectures_of, check_bare_kind, task_of
from embedder_export.checkpoint.known_checkpoints import IMAGE_MODELS, PROMPT_NOT_POOLED
from embedder_export.checkpoint.layers import Dense, Layer, Normalize, Pooling, Truncate, read_layers
from embedder_export.checkpoint.locate import Location, locate
from embedder_export.checkpoint.modules import Module, check_first, read_modules
from embedder_export.checkpoint.multi_vector import FLAG_PROJECTION, read_bare_parts, read_flag_parts, read_parts
from embedder_export.checkpoint.sparse import read_sparse
from embedder_export.checkpoint.transformer import (
    CLASSIFICATION,
    EXTRACTION,
    check_adapters,
    read_config,
    read_transformer_settings,
)
from embedder_export.errors import CheckpointError
from embedder_export.families.family import Family
from embedder_export.families.static import STATIC
from embedder_export.families.table import family_of_config

_CONFIG = "config_sentence_transformers.json"
# Most tokens of a text, where a config.json of model2vec does not say it.
_MODEL2VEC_TOKENS = 512


def read_checkpoint(model: str, access: HubAccess = DEFAULT_ACCESS, task: str | None = None) -> Checkpoint:
    """Find and read `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Args:
        model: a path or a name.
        access: the revision, the token, and whether the network may be used.
        task: one of `kinds.TASKS`, for a checkpoint that has several. None lets the checkpoint decide.

    Raises:
        InputError: `model` is a directory, and `access` has a revision.
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: a file is missing or damaged, or has something that the export cannot honour.
        ArtifactError: a file was damaged during the download.

    Example:
        >>> read_checkpoint("checkpoints/all-MiniLM-L6-v2").similarity  # doctest: +SKIP
        'cosine'
    """
    return read_located(locate(model, access), task)


def read_located(location: Location, task: str | None = None) -> Checkpoint:
    """Read the checkpoint at `location`. `task` is as in `read_checkpoint`.

    Raises:
        CheckpointError: a file is missing or damaged, or has something that the export cannot honour.

    Example:
        >>> read_located(locate("checkpoints/all-MiniLM-L6-v2")).similarity  # doctest: +SKIP
        'cosine'
    """
    try:
        check_pointers(location.directory)
        config = read_json(location.directory / _CONFIG, dict, default={})
        # Its modules.json names a module of its own code. The adapters are the better reason.
        check_adapters(read_json(location.directory / "config.json", dict, default={}))
        modules = read_modules(location.directory)
        for module in modules or ():
            check_pointers(module.directory)
        checkpoint = _read(location, modules, config, task)
        check_special_files(location.directory)
    except CheckpointError as error:
        raise CheckpointError(f"{location.name}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{location.name}: {error.filename} cannot be read: {error.strerror}") from error
    return checkpoint


def _read(
    location: Location, modules: list[Module] | None, declared: Mapping[str, Any], chosen: str | None
) -> Checkpoint:
    architectures = () if modules else architectures_of(read_json(location.directory / "config.json", dict, default={}))
    task = task_of(declared, modules, architectures, chosen)
    return _READERS[task](location, modules, declared)


def _read_embedder(location: Location, modules: list[Module] | None, declared: Mapping[str, Any]) -> Checkpoint:
    return _read_bare(location) if modules is None else _read_with_modules(location, modules, declared)


def _read_with_modules(location: Location, modules: list[Module], config: Mapping[str, Any]) -> Checkpoint:
    first = modules[0]
    check_first(first)
    if first.kind in STATIC.module_classes:  # it needs no config.json, and has no settings
        family, settings = STATIC, dict[str, Any]()
    else:
        family = family_of_first(first, read_config(location.directory, first.directory))
        settings = read_transformer_settings(first.directory, family)
    layers = _read_all_layers(location, modules[1:], family, config)
    return Checkpoint(
        directory=location.directory,
        transformer=first.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules(modules),
        layers=layers,
        family=family,
        image_model=IMAGE_MODELS.get(location.name),
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity=read_similarity(config, "cosine"),
        prompts=read_prompts(config),
        default_prompt_name=config.get("default_prompt_name"),
    )


def _read_cross_encoder(location: Location, modules: list[Module] | None, declared: Mapping[str, Any]) -> Checkpoint:
    """Read a cross-encoder: a sequence classifier of transformers, or modules of which the last one gives scores."""
    directory = location.directory
    first, *others = modules or [Module("Transformer", directory)]
    check_first(first)
    config = read_config(directory, first.directory)
    family = family_of_first(first, config)
    if modules is None:
        check_no_chat_template(directory)
        check_classifier(architectures_of(config))
        settings, task = dict[str, Any](), CLASSIFICATION
    else:
        settings = read_transformer_settings(first.directory, family, (EXTRACTION, CLASSIFICATION))
        task = settings.get("transformer_task", EXTRACTION)
    if task == EXTRACTION:
        layers = read_layers([(module.kind, module.directory) for module in others], scores=True)
        scoring = layers[-1]
        assert isinstance(scoring, Dense)  # `read_layers` made sure
        names = tuple(f"LABEL_{index}" for index in range(len(scoring.weight)))
    else:
        if others:
            raise CheckpointError(f"the module {others[0].kind!r} after a sequence classifier is not supported")
        names = read_label_names(config, architectures_of(config))
        layers = read_head(first.directory, family, len(names))
    kept = {} if modules is None else declared  # without modules.json, sentence-transformers does not read it
    return Checkpoint(
        directory=directory,
        transformer=first.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules([first, *others]),
        layers=layers,
        family=family,
        task=RANK,
        scores=read_scores(names, config, kept),
        label_count=len(names),
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity=None,
        prompts=read_prompts(kept),
        default_prompt_name=kept.get("default_prompt_name"),
    )


def _read_multi_vector(location: Location, modules: list[Module] | None, declared: Mapping[str, Any]) -> Checkpoint:
    """Read a late-interaction model, in one of the layouts of `checkpoint.multi_vector`."""
    directory = location.directory
    first, *others = modules or [Module("Transformer", directory)]
    check_first(first)
    config = read_config(directory, first.directory)
    family = family_of_first(first, config)
    if family.own_pooling is not None:
        raise CheckpointError("the checkpoint gives one vector for each text, so it has none for each token")
    has_roles = modules is not None
    settings = read_transformer_settings(first.directory, family, has_roles=has_roles) if has_roles else {}
    prompts = read_prompts(declared) if has_roles else {}
    files: list[Path] = []
    if modules is None:
        check_no_chat_template(directory)
        parts = read_bare_parts(directory, architectures_of(config))
    elif (directory / FLAG_PROJECTION).exists():
        parts, files = read_flag_parts(directory), [directory / FLAG_PROJECTION]
    else:
        parts = read_parts(others, declared, settings, architectures_of(config), prompts)
    return Checkpoint(
        directory=directory,
        transformer=first.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_modules([first, *others], files),
        layers=parts.layers,
        family=family,
        task=MULTI_VECTOR,
        roles=parts.roles,
        max_seq_length=settings.get("max_seq_length"),
        lowercase=bool(settings.get("do_lower_case")),
        similarity=parts.similarity,
        prompts=prompts | parts.prompts,
        default_prompt_name=declared.get("default_prompt_name") if has_roles else None,
    )


def _read_all_layers(
    location: Location, modules: list[Module], family: Family[Any], config: Mapping[str, Any]
) -> tuple[Layer, ...]:
    pools_itself = family.own_pooling is not None
    layers = read_layers([(module.kind, module.directory) for module in modules], pooled=pools_itself)
    if location.repository is not None and location.repository[0] in PROMPT_NOT_POOLED:
        layers = tuple(
            replace(layer, include_prompt=False) if isinstance(layer, Pooling) else layer for layer in layers
        )
    dimension = config.get("truncate_dim")
    if dimension is None:
        return layers
    if type(dimension) is not int or dimension < 1:
        raise CheckpointError(f"the checkpoint has {dimension!r:.80} as truncate_dim")
    return (*layers, Truncate(dimension))


def _read_bare(location: Location) -> Checkpoint:
    """Read a checkpoint of transformers, without modules.json, as sentence-transformers does.

    A causal language model is pooled by its last token, any other model by the mean of its tokens. A family that pools
    by itself gets no pooling layer.
    """
    directory = location.directory
    config = read_config(directory, directory)
    check_bare_kind(directory, config)
    family = family_of_config(config)
    if family is STATIC:
        return _read_model2vec(location, config)
    if family.own_pooling is None:
        check_no_chat_template(directory)
    layers = (_bare_pooling(config),) if family.own_pooling is None else ()
    return Checkpoint(
        directory=directory,
        transformer=directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_weights([directory]),
        layers=layers,
        family=family,
    )


def _read_model2vec(location: Location, config: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint in model2vec's layout, without modules.json, as model2vec 0.10 does."""
    normalized, limit = config.get("normalize", False), config.get("max_length", _MODEL2VEC_TOKENS)
    if not isinstance(normalized, bool):
        raise CheckpointError(f"config.json has {normalized!r:.80} as normalize")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise CheckpointError(f"config.json has {limit!r:.80} as max_length")
    return Checkpoint(
        directory=location.directory,
        transformer=location.directory,
        name=location.name,
        repository=location.repository,
        weights_sha256=digest_weights([location.directory]),
        layers=(Normalize(),) if normalized else (),
        family=STATIC,
        is_model2vec=True,
        max_seq_length=limit,
    )


def _bare_pooling(config: Mapping[str, Any]) -> Pooling:
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    causal = architecture.endswith("ForCausalLM") and config.get("is_causal", True)
    return Pooling(("lasttoken" if causal else "mean",), include_prompt=True)


_Reader = Callable[[Location, list[Module] | None, Mapping[str, Any]], Checkpoint]
# By the manifest's task.
_READERS: Mapping[str, _Reader] = {
    EMBED: _read_embedder,
    RANK: _read_cross_encoder,
    SPARSE: read_sparse,
    MULTI_VECTOR: _read_multi_vector,
}
