"""The models that a server serves, by name and by kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from embedder.artifact.hub_access import DEFAULT_ORGANISATION
from embedder.common.checks import shown
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.serve.errors import MISSING, WRONG_KIND, RequestRefused

if TYPE_CHECKING:
    from embedder.cross_encoder import CrossEncoder
    from embedder.encoder import Embedder
    from embedder.serve.batcher import Batcher


@frozen
class ServedEmbedder:
    """An embedding model that is served.

    Attributes:
        name: the name that requests give.
        model: the model. It tokenises texts, and knows the prompts and the dimension.
        batcher: encodes the texts of all requests.
    """

    name: str
    model: Embedder
    batcher: Batcher


@frozen
class ServedCrossEncoder:
    """A cross-encoder that is served.

    Attributes:
        name: the name that requests give.
        model: the model. It tokenises pairs of texts, and knows the labels.
        batcher: scores the pairs of all requests.
    """

    name: str
    model: CrossEncoder
    batcher: Batcher


ServedModel: TypeAlias = ServedEmbedder | ServedCrossEncoder
_M = TypeVar("_M", ServedEmbedder, ServedCrossEncoder)


@frozen
class ServedModels:
    """The models of a server. The first one that fits a route answers requests that name none.

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
        """The names of the models, in their order."""
        return tuple(model.name for model in self.models)

    @property
    def embedders(self) -> tuple[ServedEmbedder, ...]:
        """The embedding models."""
        return tuple(model for model in self.models if isinstance(model, ServedEmbedder))

    @property
    def cross_encoders(self) -> tuple[ServedCrossEncoder, ...]:
        """The cross-encoders."""
        return tuple(model for model in self.models if isinstance(model, ServedCrossEncoder))

    @property
    def rerankers(self) -> tuple[ServedCrossEncoder, ...]:
        """The cross-encoders that give a pair one score."""
        return tuple(served for served in self.cross_encoders if served.model.label_count == 1)

    def get(self, name: str | None) -> ServedModel:
        """Return the model that a request names, of any kind.

        Args:
            name: the name. None takes the first model. The part after the "/" is enough if one model alone has it. A
                model that is served under a name without an organisation also has its name on the Hub.

        Raises:
            RequestRefused: 404 "model_not_found". The message lists the names.
        """
        if name is None:
            return self.models[0]
        found = [model for model in self.models if model.name == name] or [
            model for model in self.models if name in (_short(model.name), _hub_name(model))
        ]
        if len(found) == 1:
            return found[0]
        names = ", ".join(self.names)
        raise RequestRefused(
            404, "model_not_found", f"no model {shown(name)} is served here. The models are {names}", param="model"
        )

    def embedder(self, name: str | None, *, must_name: bool = False) -> ServedEmbedder:
        """Return the embedding model that a request names.

        Args:
            name: see `get`. None takes the first embedding model.
            must_name: refuse None if several models fit.

        Raises:
            RequestRefused: as in `get`; 400 "wrong_kind_of_model", the model is of another kind, or there is none of
                this kind; 400 "missing_key", the name is missing.
        """
        return self._of_kind("an embedding model", self.embedders, name, must_name)

    def cross_encoder(self, name: str | None) -> ServedCrossEncoder:
        """Return the cross-encoder that a request names; see `embedder`."""
        return self._of_kind("a cross-encoder", self.cross_encoders, name)

    def reranker(self, name: str | None, *, must_name: bool = False) -> ServedCrossEncoder:
        """Return the reranker that a request names; see `embedder`. It is a cross-encoder with one label."""
        return self._of_kind("a reranker", self.rerankers, name, must_name)

    def _of_kind(self, kind: str, fitting: tuple[_M, ...], name: str | None, must_name: bool = False) -> _M:
        names = ", ".join(served.name for served in fitting)
        if name is None and fitting:
            if must_name and len(fitting) > 1:
                raise RequestRefused(400, MISSING, f'"model" is missing. The models are {names}', param="model")
            return fitting[0]
        named = None if name is None else self.get(name)
        for served in fitting:
            if served is named:
                return served
        hint = f"Those served here: {names}" if fitting else "None is served here"
        problem = "" if named is None else f", and {named.name} is none"
        raise RequestRefused(400, WRONG_KIND, f"this route needs {kind}{problem}. {hint}", param="model")


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
