"""The error of a request that the server does not answer with vectors."""

from __future__ import annotations

from embedder.errors import EmbedderError

# A key is missing; and the model is of another kind than the route needs.
MISSING, WRONG_KIND = "missing_key", "wrong_kind_of_model"


class RequestRefused(EmbedderError):  # noqa: N818 (it is no error of the server)
    """A request is refused. Any part of the server may raise it. The answer has the form of the route's API.

    Attributes:
        status: the status of HTTP, 400 or above.
        code: a short word that stays the same between versions, such as "queue_full". Programs may test it.
        param: the key of the request that is wrong, if one is.
        retry_after_s: seconds after which the same request may succeed, for the header Retry-After.

    Example:
        >>> error = RequestRefused(429, "queue_full", "the queue is full", retry_after_s=1.5)
        >>> error.status, error.code, str(error)
        (429, 'queue_full', 'the queue is full')
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after_s = status, code, param, retry_after_s
