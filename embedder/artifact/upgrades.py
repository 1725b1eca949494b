"""Upgrade the JSON of older manifests, one version at a time, so that old artifacts still load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embedder.artifact.scores import default_activation
from embedder.errors import FormatError

FORMAT_VERSION = 7
OLDEST_VERSION = 4


def check_format_version(path: Path, content: object) -> None:
    """Raise FormatError unless `upgrade` can upgrade `content`, the JSON of the manifest at `path`.

    Example:
        >>> check_format_version(Path("embedder.json"), {"format_version": FORMAT_VERSION})
    """
    version = content.get("format_version") if isinstance(content, Mapping) else None
    if type(version) is int and OLDEST_VERSION <= version <= FORMAT_VERSION:
        return
    newer = type(version) is int and version > FORMAT_VERSION
    advice = "upgrade embedder, or export the model again with this version" if newer else "export the model again"
    raise FormatError(
        f"{path} has format version {version!r:.80}; this embedder reads versions {OLDEST_VERSION} to "
        f"{FORMAT_VERSION}: {advice}"
    )


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a manifest in the current format version.

    Args:
        content: the JSON of a manifest of a format version from `OLDEST_VERSION` to `FORMAT_VERSION`.

    Raises:
        KeyError, TypeError: a field that an upgrade needs is missing or has another type.

    Example:
        >>> upgrade({"format_version": FORMAT_VERSION}) == {"format_version": FORMAT_VERSION}
        True
    """
    while content["format_version"] < FORMAT_VERSION:
        content = _STEPS[content["format_version"]](content)
    return content


def upgrade_4_to_5(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrade version 4 to version 5.

    Version 5 adds `task`, `extra`, and named outputs with a kind and a shape. It renames `precision` of a graph to
    `dtype`, and `similarity` to `similarity_fn_name`.

    Raises:
        KeyError, TypeError: a field is missing or of another type.
        ValueError: there is a field that only version 5 has.

    Example:
        >>> upgrade_4_to_5({"dimension": 8, "similarity": "cosine", "graphs": []})["similarity_fn_name"]
        'cosine'
    """
    for name in ("task", "similarity_fn_name", "extra"):
        if name in content:
            raise ValueError(f"{name} is unknown in version 4")
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


def upgrade_5_to_6(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrade version 5 to version 6.

    Version 6 adds `scores`, and `score_quality` of a graph. A model for the task "rank" gets the activation that
    sentence-transformers chooses for its number of labels.

    Raises:
        KeyError, TypeError: a field is missing or of another type.
        ValueError: there is a field that only version 6 has.

    Example:
        >>> upgrade_5_to_6({"task": "embed", "graphs": []})["scores"] is None
        True
    """
    graphs = content["graphs"]
    if "scores" in content or any("score_quality" in graph for graph in graphs):
        raise ValueError(f"{'scores' if 'scores' in content else 'score_quality'} is unknown in version 5")
    scores: dict[str, Any] | None = None
    if content["task"] == "rank":
        shapes = [output["shape"] for graph in graphs for output in graph["outputs"] if output["kind"] == "score"]
        activation_fn = default_activation(1 if shapes[:1] == [[1]] else 2)
        scores = {"activation_fn": activation_fn, "label_names": [], "truncation": "longest_first", "parity": None}
    return content | {
        "format_version": 6,
        "scores": scores,
        "graphs": [graph | {"score_quality": None} for graph in graphs],
    }


def upgrade_6_to_7(content: dict[str, Any]) -> dict[str, Any]:
    """Upgrade version 6 to version 7.

    Version 7 adds `multi_vector`. A model for the task "multi_vector" cuts queries and documents at its limit.

    Raises:
        KeyError, TypeError: a field is missing or of another type.
        ValueError: there is a field that only version 7 has.

    Example:
        >>> upgrade_6_to_7({"task": "embed"})["multi_vector"] is None
        True
    """
    if "multi_vector" in content:
        raise ValueError("multi_vector is unknown in version 6")
    if content["task"] != "multi_vector":
        return content | {"format_version": 7, "multi_vector": None}
    limit = content["tokenizer"]["max_seq_length"]
    settings = {
        "query_length": limit,
        "document_length": limit,
        "expansion": None,
        "skipped_ids": [],
        "skipped_in": [],
        "skipped_first": 0,
    }
    return content | {"format_version": 7, "multi_vector": settings, "similarity_fn_name": "maxsim"}


_STEPS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    4: upgrade_4_to_5,
    5: upgrade_5_to_6,
    6: upgrade_6_to_7,
}
