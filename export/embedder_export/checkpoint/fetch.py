"""Fetch a checkpoint from the Hub: its settings, its tokenizer, and its weights in one format.

A repository often has the same weights in many formats. The settings are fetched first, because they say which folders
have weights.

The cache may hold only a part of a repository: a download was interrupted, or another program needed no more. A missing
file can change the meaning of the others: without modules.json, a checkpoint is read as another model. So the export
goes on without a file only if a list of all files of the commit shows that the repository has none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from embedder.artifact import hub
from embedder.artifact.hub_access import HubAccess
from embedder.artifact.hub_errors import HubUnreachableError
from embedder.artifact.hub_listing import Listing

from embedder_export.checkpoint.files import INDEX, SETTINGS, VOCABULARIES, WEIGHTS, read_index, read_json
from embedder_export.checkpoint.layers import WEIGHTLESS
from embedder_export.checkpoint.modules import MODULES, Module, read_modules
from embedder_export.checkpoint.routers import ROUTER_FILES, ROUTERS, read_routes
from embedder_export.errors import CheckpointError
from embedder_export.families.static import STATIC

# It states the licence.
_CARD = "README.md"
# Files that most checkpoints have. If one is missing, a list of the files must say that the repository has none.
_USUAL_OF_CHECKPOINT = (MODULES, "config_sentence_transformers.json")
_USUAL_OF_TRANSFORMER = (
    "sentence_*_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
)  # fmt: skip
# Static embeddings have no other settings.
_USUAL_OF_TABLE = ("tokenizer.json",)
# The heads of BGE-M3, which are beside its modules.
HEADS = ("sparse_linear.pt", "colbert_linear.pt")
# A model of images has this one too.
_USUAL_OF_IMAGES = "preprocessor_config.json"


def fetch_checkpoint(repository: str, access: HubAccess) -> Path:
    """Fetch the files of a checkpoint that an export needs, and check them. Cached files are used offline.

    Args:
        repository: its id, such as "org/name".
        access: the revision, the token, and whether the network may be used.

    Returns:
        The directory of the files. Its name is the commit.

    Raises:
        ModelNotFoundError: the repository or the revision does not exist; or it cannot be reached, and the cache does
            not have all of its files.
        CheckpointError: the repository is no checkpoint, modules.json is damaged, or the cache may be incomplete.
        ArtifactError: a file was damaged during the download. It has been removed, so the next call fetches it again.

    Example:
        >>> fetch_checkpoint("BAAI/bge-small-en-v1.5", HubAccess()).name  # doctest: +SKIP
        '5c38ec7c405ec4b44b94cc5a9bb96e735b38267a'
    """
    listing = hub.list_files(repository, access)
    first = next((name for name in (MODULES, "config.json") if name in listing.names), None)
    if first is None:
        raise CheckpointError(f"{repository} has neither {MODULES} nor config.json, so it is no checkpoint")
    # It is asked for by the branch, so that the cache knows the branch's commit when there is no network.
    directory = _fetch(repository, [first], access)
    access = replace(access, revision=directory.name)
    if directory.name != listing.commit:  # the branch has moved meanwhile
        listing = hub.list_files(repository, access)
    modules = read_modules(directory) or [Module("Transformer", directory)]
    modules = [part for module in modules for part in _with_routes(repository, module, directory, listing, access)]
    folders = [module.directory.relative_to(directory).as_posix() for module in modules]
    of_table = modules[0].kind in STATIC.module_classes
    usual = _USUAL_OF_TABLE if of_table else _USUAL_OF_TRANSFORMER
    transformer = folders[-1] if modules[0].kind in ROUTERS else folders[0]
    _check_complete(repository, listing, directory, transformer, usual)
    _fetch_settings(repository, listing, folders, access)
    for module, folder in zip(modules, folders, strict=True):
        if module.kind not in WEIGHTLESS:
            _fetch_weights(repository, listing.names, module.directory, folder, access)
    heads = [name for name in HEADS if name in listing.names]
    if heads:
        _fetch(repository, heads, access)
    return directory


def _with_routes(repository: str, module: Module, directory: Path, listing: Listing, access: HubAccess) -> list[Module]:
    """Return a module, and after a router the modules of its routes."""
    if module.kind not in ROUTERS:
        return [module]
    folder = module.directory.relative_to(directory).as_posix()
    names = [_join(folder, name) for name in ROUTER_FILES]
    _fetch(repository, [name for name in names if name in listing.names][:1], access)
    routes = read_routes(module.directory)
    return [module, *(part for route in routes.values() for part in route)]


def _fetch(repository: str, names: Sequence[str], access: HubAccess) -> Path:
    directory = hub.fetch(repository, names, access)
    hub.check_fetched(directory, names)
    return directory


def _fetch_settings(repository: str, listing: Listing, folders: Iterable[str], access: HubAccess) -> None:
    places = {".", *folders}
    near = [name for name in listing.names if _folder(name) in places]
    vocabularies = _matching(near, VOCABULARIES)
    needed = _matching(near, SETTINGS)
    has_tokenizer = any(PurePosixPath(name).name == "tokenizer.json" for name in needed)
    useful = [name for name in (_CARD, *vocabularies) if name in listing.names]
    if not has_tokenizer:
        needed += vocabularies
    _fetch(repository, needed, access)
    try:
        _fetch(repository, useful, access)
    except HubUnreachableError:
        if listing.is_current:
            raise


def _fetch_weights(repository: str, names: Iterable[str], directory: Path, folder: str, access: HubAccess) -> None:
    """Fetch the weights of a folder in the format that `find_weights` prefers. A folder without weights stays so."""
    there = {PurePosixPath(name).name for name in names if _folder(name) == folder}
    for name in WEIGHTS:
        if name in there:
            _fetch(repository, [_join(folder, name)], access)
            return
        if name + INDEX in there:
            _fetch(repository, [_join(folder, name + INDEX)], access)
            _fetch(repository, [_join(folder, part) for part in read_index(directory / (name + INDEX))], access)
            return


def _check_complete(
    repository: str, listing: Listing, directory: Path, transformer: str, usual_there: Iterable[str]
) -> None:
    """Check that the cache has the whole checkpoint. Another program may have fetched only a part of it.

    Args:
        repository: its id.
        listing: the files that are known.
        directory: the directory of the files.
        transformer: the folder of its transformer.
        usual_there: the files that most checkpoints have in this folder.

    Raises:
        CheckpointError: a file that most checkpoints have is missing, and nothing says that the repository has none.
    """
    if listing.is_complete:
        return
    takes_images = "vision_config" in read_json(directory / transformer / "config.json", dict, default={})
    of_transformer = [*usual_there, *([_USUAL_OF_IMAGES] if takes_images else [])]
    usual = [*_USUAL_OF_CHECKPOINT, *(_join(transformer, name) for name in of_transformer)]
    for pattern in usual:
        known = any(fnmatchcase(name, pattern) for name in listing.names)
        name = pattern.replace("*", "bert")
        if not known and not hub.is_known_absent(repository, directory.name, name):
            raise CheckpointError(
                f"the Hub's cache may have only a part of {repository}: it has no {name}, and does not say whether the "
                "repository has one. Run this once with a network. If you know that the copy is complete, give its "
                f"path: {directory}"
            )


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(PurePosixPath(name).name, pattern) for pattern in patterns)]


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _join(folder: str, name: str) -> str:
    return (PurePosixPath(folder) / name).as_posix()
