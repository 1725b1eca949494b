"""Checkpoints that bring code of their own for their transformer."""

from pathlib import Path

from embedder_export.checkpoint.files import read_json


def note_on_own_code(transformer: Path) -> str:
    """Return the end of a message if config.json names code of the repository, otherwise an empty string.

    Args:
        transformer: the directory of the transformer.

    Example:
        >>> note_on_own_code(Path("checkpoints/all-MiniLM-L6-v2"))
        ''
    """
    if "auto_map" not in read_json(transformer / "config.json", dict, default={}):
        return ""
    return " (the checkpoint has code of its own, auto_map in config.json, and the export never runs it)"
