"""The models that a server serves, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedder.artifact.hub_access import DEFAULT_ORGANISATION
from embedder.common.checks import shown
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.serve.errors import RequestRefused

if TYPE_CHECKING:
    from embedder.encoder import Embedder
    from embedder.serve.batcher import Batcher


@frozen
class ServedModel:
    """A model that is served.

    Attributes:
        name: the name that requests give.
        model: the model. It tokenises texts, and knows the prompts and the dimension.
        batcher: encodes the texts of all requests.
    """

    name: str
    model: Embedder
    batcher: Batcher


@frozen
class ServedModels:
    """The models of a server. The first one answers requests that name none.

    Attributes:
        models: the models.

    Raises:
        InputError: there is no model, or two have the same name.
    """

    models: tuple[ServedModel, ...]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if not names:
            raise InputError("there is no model to serve. Name one")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"two models have the name {name!r}. Serve each model once")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, the default one first."""
        return tuple(model.name for model in self.models)

    @property
    def default(self) -> ServedModel:
        """The model of requests that name none."""
        return self.models[0]

    def get(self, name: str | None) -> ServedModel:
        """Return the model that a request names.

        Args:
            name: the name. None takes the default model. The part after the "/" is enough if one model alone has it. A
                model that is served under a name without an organisation also has its name on the Hub.

        Raises:
            RequestRefused: 404 "model_not_found". The message lists the names.
        """
        if name is None:
            return self.default
        found = [model for model in self.models if model.name == name] or [
            model for model in self.models if name in (_short(model.name), _hub_name(model))
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(self.names)
        raise RequestRefused(
            404, "model_not_found", f"no model {shown(name)} is served here. The models are {names}", param="model"
        )


def _short(name: str) -> str:
    """Return a name without its organisation."""
    return name.rpartition("/")[2]


def _hub_name(served: ServedModel) -> str | None:
    """Return the name on the Hub of a model that is served under the part after the "/"; None for other models.

    Models of another organisation may have the same short name. So the manifest must have the organisation. A name
    without one is of sentence-transformers, as everywhere.
    """
    source = served.model.manifest.source.model
    if _short(source) != served.name:
        return None
    return source if "/" in source else DEFAULT_ORGANISATION + source
