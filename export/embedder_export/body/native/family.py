"""What a family of models is, to the one who looks it up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from embedder_export.body.native.network import Network
from embedder_export.body.native.settings import Settings


@dataclass(frozen=True)
class Family:
    """One of transformers' base models.

    prefix: what the names of its weights start with in a checkpoint of a model around it.
    build: its equations, of a network and its settings: token vectors of shape (batch, sequence, hidden_size).
    usable_positions: how many tokens its table of positions has rows for, if it has one.
    width: the setting that transformers calls hidden_size.
    aliases: what config.json may call a setting, too.
    """

    prefix: str
    settings: Settings
    build: Callable[[Network, Any], ir.Value]
    usable_positions: Callable[[Any], int | None]
    width: str = "hidden_size"
    aliases: Mapping[str, str] = field(default_factory=dict)
