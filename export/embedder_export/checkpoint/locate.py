"""Find a checkpoint, a local directory or a Hub repository, and read its list of modules."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedder.artifact import hub
from embedder.errors import ModelNotFoundError

from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS, read_json
from embedder_export.checkpoint.layers import WEIGHTLESS
from embedder_export.errors import CheckpointError
from embedder_export.families.table import FAMILIES

# Files that an export may need. A repository often has the same weights in several formats. Weights in torch's own
# format are fetched only for directories without another format.
_HUB_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.metadata", SAFETENSORS, f"*/{SAFETENSORS}")
# The package of a module's type, such as `sentence_transformers.models.Pooling`.
_PACKAGE = "sentence_transformers"
# The classes that the first module may have.
_FIRST_MODULES = {name for family in FAMILIES.values() for name in family.module_classes}


@dataclass(frozen=True)
class Module:
    """A module of modules.json.

    Attributes:
        kind: the name of its class in sentence-transformers.
        directory: its directory.
    """

    kind: str
    directory: Path


@dataclass(frozen=True)
class Location:
    """The place of a checkpoint.

    Attributes:
        directory: its directory on this machine.
        name: its name in the manifest and in messages.
        repository: its id and its commit on the Hub. None for a local directory.
    """

    directory: Path
    name: str
    repository: tuple[str, str] | None


def locate(model: str) -> Location:
    """Find `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Raises:
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: modules.json is damaged.

    Example:
        >>> locate("checkpoints/all-MiniLM-L6-v2").name  # doctest: +SKIP
        'all-MiniLM-L6-v2'
    """
    path = os.path.expanduser(model)
    if os.path.isdir(path):
        return Location(Path(path), Path(path).resolve().name, None)
    repository = model if "/" in model else hub.DEFAULT_ORGANISATION + model
    if not hub.is_repository_id(repository):
        raise ModelNotFoundError(f"{model!r} is neither a directory nor the name of a Hub repository")
    directory = _fetch(repository)
    return Location(directory, repository.removeprefix(hub.DEFAULT_ORGANISATION), (repository, directory.name))


def _fetch(repository: str) -> Path:
    directory = hub.fetch(repository, _HUB_PATTERNS)
    modules = read_modules(directory) or [Module("Transformer", directory)]
    folders = [module.directory.relative_to(directory) for module in modules if module.kind not in WEIGHTLESS]
    pickles = [(path / TORCH_WEIGHTS).as_posix() for path in folders if not any((directory / path).glob(SAFETENSORS))]
    if not pickles:
        return directory
    return hub.fetch(repository, [*_HUB_PATTERNS, *pickles], hub.HubAccess(directory.name))


def read_modules(directory: Path) -> list[Module] | None:
    """Return the modules of modules.json, or None if there is no such file. The first module is a transformer.

    Raises:
        CheckpointError: the file is damaged, leads out of the checkpoint, or has a module that is not supported.

    Example:
        >>> [module.kind for module in read_modules(Path("checkpoints/all-MiniLM-L6-v2"))]  # doctest: +SKIP
        ['Transformer', 'Pooling', 'Normalize']
    """
    path = directory / "modules.json"
    if not os.path.lexists(path):
        return None
    entries = read_json(path, list)
    modules = [_read_module(path, entry) for entry in entries]
    # Of several modules with one name, sentence-transformers keeps only one.
    if len({str(entry.get("name")) for entry in entries}) < len(entries):
        raise CheckpointError(f"{path} has several modules of one name")
    if not modules or modules[0].kind not in _FIRST_MODULES:
        first = repr(modules[0].kind) if modules else "none"
        raise CheckpointError(f"the first module should be a Transformer; here it is {first}, which is not supported")
    return modules


def _read_module(path: Path, entry: Any) -> Module:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("type", "path")):
        raise CheckpointError(f"{path} is not a list of modules, each with a type and a path")
    package, _, kind = entry["type"].rpartition(".")
    if package.split(".")[0] == "pylate":
        raise CheckpointError("the checkpoint is a ColBERT (late interaction) model of PyLate, which is not supported")
    if package.split(".")[0] != _PACKAGE:
        raise CheckpointError(f"the module {entry['type']!r:.80} is not supported")
    folder = PurePosixPath(entry["path"])
    if folder.is_absolute() or ".." in folder.parts or "\0" in entry["path"]:
        raise CheckpointError(f"{path} leads out of the checkpoint, to {entry['path']!r:.80}")
    return Module(kind, path.parent / folder)
