"""What the server notes of a request while it answers it: for the access log, the metrics and the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request

_KEY = "embedder.record"


class RequestRecord:
    """The record of one request. A route sets `model`, `texts` and `tokens` as soon as it knows them.

    Attributes:
        id: name of the request in the log and in the header X-Request-Id.
        model: name of the model that answers.
        texts: number of texts and images.
        tokens: number of tokens of the texts, special tokens included.
        status: status of the answer. 0 if there is none yet, 499 if the client left before there was one.
        code: why the request was refused; see `RequestRefused`.
        body_bytes: bytes of the body that were read.
        answer_bytes: bytes of the answer's body.
        held_bytes: bytes of memory that are counted for this request.

    Example:
        >>> record = RequestRecord("4f2a")
        >>> record.model, record.texts = "all-MiniLM-L6-v2", 2
    """

    __slots__ = ("answer_bytes", "body_bytes", "code", "held_bytes", "id", "model", "status", "texts", "tokens")

    def __init__(self, id: str) -> None:
        self.id = id
        self.model: str | None = None
        self.code: str | None = None
        self.texts = self.tokens = self.status = self.body_bytes = self.answer_bytes = self.held_bytes = 0

    @classmethod
    def of(cls, request: Request) -> RequestRecord:
        """Return the record of `request`."""
        return cls.of_scope(request.scope)

    @classmethod
    def of_scope(cls, scope: Any) -> RequestRecord:
        """Return the record of the request of `scope`."""
        record = scope[_KEY]
        assert isinstance(record, cls)
        return record

    def put(self, scope: Any) -> None:
        """Make this the record of the request of `scope`."""
        scope[_KEY] = self
