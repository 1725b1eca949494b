"""Upgrade the JSON of older manifests, one version a step, so that artifacts outlive the program that made them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FORMAT_VERSION = 5
OLDEST_VERSION = 4


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return `content`, the JSON of a manifest of a version from `OLDEST_VERSION` on, in the current version.

    Raises:
        KeyError, TypeError: a field that a step needs is missing or of another type.
    """
    while content["format_version"] < FORMAT_VERSION:
        content = _STEPS[content["format_version"]](content)
    return content


def upgrade_4_to_5(content: dict[str, Any]) -> dict[str, Any]:
    """Version 5 has a task, named outputs of several kinds, and `extra`; `precision` of a graph became `dtype`."""
    upgraded = dict(content)
    dimension = upgraded.pop("dimension")
    graphs = []
    for old in upgraded["graphs"]:
        graph = dict(old)
        graph["dtype"] = graph.pop("precision")
        graph["outputs"] = [{"name": graph.pop("output"), "kind": "dense", "shape": [dimension]}]
        graphs.append(graph)
    return upgraded | {
        "format_version": 5,
        "task": "embed",
        "similarity_fn_name": upgraded.pop("similarity"),
        "graphs": graphs,
        "extra": {},
    }


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {4: upgrade_4_to_5}
