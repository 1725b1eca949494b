"""The models that a server serves, by name."""

from __future__ import annotations

from embedder.common.records import frozen


@frozen
class ServedModel:
    """A model that is served.

    Attributes:
        name: the name that requests give.
    """

    name: str


@frozen
class ServedModels:
    """The models of a server. The first one answers requests that name none.

    Attributes:
        models: the models.
    """

    models: tuple[ServedModel, ...]
