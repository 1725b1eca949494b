"""What the export knows of a family of models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import onnx_ir as ir
from embedder.artifact.manifest import TEXT

from embedder_export.body.contract import NATIVE, Body, BodySizes
from embedder_export.body.network import Network
from embedder_export.checkpoint.weights import Weights
from embedder_export.families.settings import read_settings
from embedder_export.graph.operators import new_graph, new_model

SettingsT = TypeVar("SettingsT")
Builder = Callable[[Weights, SettingsT], Body]


@dataclass(frozen=True)
class ImageProcessor:
    """A class of transformers that prepares images.

    Attributes:
        classes: its names, as preprocessor_config.json has them. The first is the default.
        defaults: its settings where the file lacks them.
    """

    classes: tuple[str, ...]
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class TracedTower:
    """One of a model's several transformers, for tracing.

    Attributes:
        model_class: its class in transformers.
        onnx_config: its class in `optimum.exporters.onnx.model_configs`.
        config_name: the attribute of the model's configuration that has its own configuration.
        output: the output to keep.
        sizes: its sizes, from its own configuration.
    """

    model_class: str
    onnx_config: str
    config_name: str
    output: str
    sizes: Callable[[Any], BodySizes]


@dataclass(frozen=True)
class Family(Generic[SettingsT]):
    """A family of models. The table `families.table.FAMILIES` finds it by config.json's model_type.

    Attributes:
        prefix: the first part of its weights' names in the checkpoint of a larger model.
        tokenizer_class: the tokenizer of its checkpoints where no file names one, by transformers' name.
        settings: the dataclass of its settings.
        builders: for each modality, what writes its graph from the weights and the settings. Empty if there is no
            native builder.
        modalities: what it takes.
        aliases: other names that config.json may have for settings.
        read_settings: how the settings are read from config.json.
        own_pooling: how it pools token vectors by itself. None if a head has to pool.
        module_classes: the classes of sentence-transformers that stand first in its modules.json.
        image_processor: how images are prepared, if it takes images.
        towers: for each modality, its transformer, if there are several.
    """

    prefix: str
    tokenizer_class: str
    settings: type[SettingsT]
    builders: Mapping[str, Builder[SettingsT]]
    modalities: tuple[str, ...] = (TEXT,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    read_settings: Callable[[Mapping[str, Any], type[SettingsT]], SettingsT] = read_settings
    own_pooling: str | None = None
    module_classes: tuple[str, ...] = ("Transformer",)
    image_processor: ImageProcessor | None = None
    towers: Mapping[str, TracedTower] = field(default_factory=dict)


def text_builder(
    equations: Callable[[Network, SettingsT], ir.Value], sizes: Callable[[SettingsT], BodySizes]
) -> Mapping[str, Builder[SettingsT]]:
    """Return the builders of a family that takes texts alone and gives token vectors.

    Args:
        equations: writes the token vectors, (batch, sequence, width), into a network.
        sizes: the sizes that follow from the settings.
    """

    def build(weights: Weights, settings: SettingsT) -> Body:
        graph = new_graph()
        tokens = equations(Network(graph, weights), settings)
        found = sizes(settings)
        return Body([(NATIVE, new_model(graph, tokens, found.width))], found)

    return {TEXT: build}
