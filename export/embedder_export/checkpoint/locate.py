"""Where a checkpoint lies: a local directory, or a Hub repository that is fetched; and its list of modules."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedder.artifact import hub
from embedder.errors import ModelNotFoundError

from embedder_export.checkpoint.files import SAFETENSORS, TORCH_WEIGHTS, read_json
from embedder_export.checkpoint.layers import WEIGHTLESS
from embedder_export.errors import CheckpointError, NeedsTorchError
from embedder_export.families.table import FAMILIES
from embedder_export.packages import is_installed

# Files that every checkpoint may need. A repository has the same weights in several formats, so torch's own format is
# fetched only for directories that have no other.
_HUB_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.metadata", SAFETENSORS, f"*/{SAFETENSORS}")
# The package of a module's type: `sentence_transformers.models.Pooling`, or since 5.0 a longer path.
_PACKAGE = "sentence_transformers"
# The classes of modules that may stand first.
_FIRST_MODULES = {name for family in FAMILIES.values() for name in family.module_classes}


@dataclass(frozen=True)
class Module:
    """A module of modules.json: the name of its class in sentence-transformers, and its directory."""

    kind: str
    directory: Path


@dataclass(frozen=True)
class Location:
    """Where a checkpoint lies.

    Attributes:
        directory: on this machine.
        name: for the manifest and for messages.
        repository: its id on the Hub and its commit, if it comes from there.
    """

    directory: Path
    name: str
    repository: tuple[str, str] | None


def locate(model: str) -> Location:
    """Find `model`: a local directory, `org/name` on the Hub, or `name` for sentence-transformers/name.

    Raises:
        ModelNotFoundError: there is no such directory or repository.
        CheckpointError: modules.json is damaged.
        NeedsTorchError: the repository has weights in torch's format only, and torch is not installed.
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
    without = [(path / TORCH_WEIGHTS).as_posix() for path in folders if not any((directory / path).glob(SAFETENSORS))]
    if not without:
        return directory
    if not is_installed("torch"):
        raise NeedsTorchError(f"{repository} has no safetensors beside {', '.join(without)}")
    return hub.fetch(repository, [*_HUB_PATTERNS, *without], revision=directory.name)


def read_modules(directory: Path) -> list[Module] | None:
    """Return the modules of modules.json, a transformer first. None if there is no such file.

    Raises:
        CheckpointError: the file is damaged, leads out of the checkpoint, or has a module that is not supported.
    """
    path = directory / "modules.json"
    if not os.path.lexists(path):
        return None
    entries = read_json(path, list)
    modules = [_read_module(path, entry) for entry in entries]
    # sentence-transformers keeps only one module of a name.
    if len({str(entry.get("name")) for entry in entries}) < len(entries):
        raise CheckpointError(f"{path} has several modules of one name")
    if not modules or modules[0].kind not in _FIRST_MODULES:
        first = repr(modules[0].kind) if modules else "none"
        raise CheckpointError(f"the first module should be a Transformer, and is {first}: it is not supported")
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
