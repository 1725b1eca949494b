"""Read the settings of a router, which sends queries and documents through different modules."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from embedder_export.checkpoint.files import read_json
from embedder_export.checkpoint.modules import Module
from embedder_export.errors import CheckpointError

# sentence-transformers' names of the module, and of its settings file, newest first.
ROUTERS = ("Router", "Asym")
ROUTER_FILES = ("router_config.json", "config.json")


def read_routes(directory: Path) -> dict[str, list[Module]]:
    """Return the modules of each route of a router.

    Args:
        directory: the router's directory.

    Raises:
        CheckpointError: its settings are damaged or lead out of the checkpoint, or the route of inputs without a task
            is not "document".

    Example:
        >>> list(read_routes(Path("opensearch-neural-sparse-encoding-doc-v3-distill")))  # doctest: +SKIP
        ['query', 'document']
    """
    path = next((directory / name for name in ROUTER_FILES if (directory / name).exists()), directory / ROUTER_FILES[0])
    config = read_json(path, dict)
    types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
    if not isinstance(types, dict) or not isinstance(structure, dict) or not isinstance(parameters or {}, dict):
        raise CheckpointError(f"{path} is not the settings of a router: types, structure and parameters")
    parameters = parameters or {}
    default = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(structure), None)
    if default != "document" or parameters.get("route_mappings"):
        raise CheckpointError(f"{path} has the default route {default!r:.80}; only 'document' is supported")
    return {task: [_routed(path, name, types) for name in names] for task, names in structure.items()}


def _routed(path: Path, name: object, types: Mapping[str, Any]) -> Module:
    kind = types.get(name) if isinstance(name, str) else None
    folder = PurePosixPath(str(name))
    if not isinstance(kind, str) or folder.is_absolute() or ".." in folder.parts or "\0" in str(name):
        raise CheckpointError(f"{path} has the module {name!r:.80}, which has no type or no folder")
    return Module(kind.rpartition(".")[2], path.parent / folder)
