"""Read a checkpoint's list of modules."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from embedder_export.checkpoint.files import read_json
from embedder_export.errors import CheckpointError
from embedder_export.families.table import FAMILIES

# The list's file. A checkpoint of transformers has none.
MODULES = "modules.json"
# The package of a module's type, such as `sentence_transformers.models.Pooling`.
_PACKAGE = "sentence_transformers"
# PyLate's class of a Dense. It has the settings and the weights of sentence-transformers' class.
_PYLATE_DENSE = "pylate.models.Dense.Dense"
# The classes that the first module may have.
_FIRST_MODULES = {name for family in FAMILIES.values() for name in family.module_classes}


@dataclass(frozen=True)
class Module:
    """A module of modules.json.

    Attributes:
        kind: the name of its class in sentence-transformers.
        directory: its directory.
        is_from_pylate: whether the class is PyLate's.
    """

    kind: str
    directory: Path
    is_from_pylate: bool = False


def read_modules(directory: Path) -> list[Module] | None:
    """Return the modules of modules.json, or None if there is no such file.

    Raises:
        CheckpointError: the file is damaged or empty, leads out of the checkpoint, or has a module of another package.

    Example:
        >>> [module.kind for module in read_modules(Path("checkpoints/all-MiniLM-L6-v2"))]  # doctest: +SKIP
        ['Transformer', 'Pooling', 'Normalize']
    """
    path = directory / MODULES
    if not os.path.lexists(path):
        return None
    entries = read_json(path, list)
    modules = [_read_module(path, entry) for entry in entries]
    # Of several modules with one name, sentence-transformers keeps only one.
    if len({str(entry.get("name")) for entry in entries}) < len(entries):
        raise CheckpointError(f"{path} has several modules of one name")
    if not modules:
        raise CheckpointError(f"{path} is empty: the first module should be a Transformer")
    return modules


def check_first(module: Module) -> None:
    """Check that the first module is a transformer.

    Raises:
        CheckpointError: it is another module.

    Example:
        >>> check_first(Module("Transformer", Path("checkpoint")))
    """
    if module.kind not in _FIRST_MODULES:
        raise CheckpointError(
            f"the first module should be a Transformer; here it is {module.kind!r:.80}, which is not supported"
        )


def _read_module(path: Path, entry: Any) -> Module:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("type", "path")):
        raise CheckpointError(f"{path} is not a list of modules, each with a type and a path")
    package, _, kind = entry["type"].rpartition(".")
    is_from_pylate = entry["type"] == _PYLATE_DENSE
    if package.split(".")[0] != _PACKAGE and not is_from_pylate:
        raise CheckpointError(f"the module {entry['type']!r:.80} is not supported")
    folder = PurePosixPath(entry["path"])
    if folder.is_absolute() or ".." in folder.parts or "\0" in entry["path"]:
        raise CheckpointError(f"{path} leads out of the checkpoint, to {entry['path']!r:.80}")
    return Module(kind, path.parent / folder, is_from_pylate)
