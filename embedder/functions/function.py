"""`Function`: one lazy model, and the answers to requests for its vectors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from embedder.common.load_once import LoadOnce
from embedder.functions.answers import OK, Answer, check_base64_size, check_method, check_size, error_value
from embedder.functions.deadline import Deadline, chunks_in_time
from embedder.functions.requests import (
    FAILED,
    Limits,
    Request,
    RequestError,
    check_truncate_dim,
    parse_body,
    read_request,
)

if TYPE_CHECKING:
    from embedder.encoder import Embedder


class Function:
    """A model that is loaded when it is first needed, and answers requests. Safe to call from many threads.

    A request is a JSON object with "inputs", a list of texts or one text, and the optional keys "task" ("query" or
    "document"), "truncate_dim" and "encoding_format" ("float" or "base64"). The answer is an object with "embeddings",
    a list of vectors in the order of the texts, and "dimension".

    Attributes:
        limits: what the function accepts.

    Example:
        >>> function = Function("all-MiniLM-L6-v2", threads=1)
        >>> function.embed({"inputs": ["a text", "another"]})["dimension"]  # doctest: +SKIP
        384
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        dtype: str = "auto",
        threads: int | None = None,
        verify: bool = True,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
    ) -> None:
        """Describe the function. No model is loaded yet.

        Args:
            model: a path or a name; see `Embedder`.
            dtype: which graph runs; see `Embedder`. "auto" takes the fastest one that the artifact has.
            threads: most threads that compute; see `Embedder`.
            verify: compare the SHA-256 of the model's files when they are loaded; see `Embedder`.
            limits: what the function accepts.
        """
        self.limits = limits

        def load() -> Embedder:
            from embedder.encoder import Embedder  # here, as it imports NumPy

            return Embedder(model, dtype=dtype, threads=threads, verify=verify)

        self._model = LoadOnce(load)

    def load(self) -> None:
        """Load the model now, unless it is loaded. Without this, the first request loads it.

        Raises:
            EmbedderError: the model cannot be loaded; see `Embedder`. The next call tries again.

        Example:
            >>> function.load()  # doctest: +SKIP
        """
        self._model.get()

    def embed(self, request: object, *, remaining_s: float | None = None) -> dict[str, Any]:
        """Return the answer to a request.

        Args:
            request: the request, as parsed JSON.
            remaining_s: seconds until the platform ends the call, if it says so. `limits.timeout_s` counts too.

        Returns:
            "embeddings", for each text a list of numbers, or base64 of little-endian float32; and "dimension", the
            length of a vector.

        Raises:
            RequestError: 400, the request is malformed; 413, it or its answer is too large; 504, the time is over.
            EmbedderError: the model cannot be loaded, or fails.

        Example:
            >>> function.embed({"inputs": "a text", "encoding_format": "base64"})  # doctest: +SKIP
            {'embeddings': ['...'], 'dimension': 384}
        """
        deadline = Deadline.after(remaining_s, self.limits.timeout_s)
        checked = read_request(request, self.limits)
        model = self._model.get()
        if checked.truncate_dim is not None:
            check_truncate_dim(checked.truncate_dim, model.dimension)
        dimension = checked.truncate_dim or model.dimension
        if checked.base64:
            check_base64_size(len(checked.texts), dimension, self.limits)
        embeddings = _encode(model, checked, dimension, deadline)
        answer = {"embeddings": embeddings, "dimension": dimension}
        if not checked.base64:
            check_size(answer, len(embeddings) * dimension, self.limits)
        return answer

    def reply(self, request: object, *, remaining_s: float | None = None) -> tuple[int, dict[str, Any]]:
        """Return the status, and what `embed` returns or an error object. Never raises an Exception.

        An unexpected failure has the status 500 and says nothing of the machine. The log has its details.

        Example:
            >>> function.reply({"inputs": 3})
            (400, {'error': {'status': 400, 'message': 'inputs should be a list of strings, not 3'}})
        """
        try:
            return OK, self.embed(request, remaining_s=remaining_s)
        except Exception as error:
            return _failure(error)

    def answer(self, body: bytes | str | None, *, method: object = "POST", remaining_s: float | None = None) -> Answer:
        """Return the answer to a request of HTTP. Never raises an Exception.

        Args:
            body: the body of the request, JSON.
            method: the method of the request. All but "POST" have the status 405.
            remaining_s: seconds until the platform ends the call, if it says so.

        Example:
            >>> function.answer(b"[]").body
            b'{"error":{"status":400,"message":"the request should be a JSON object such as ...
        """
        try:
            check_method(method)
            value = self.embed(parse_body(body, self.limits), remaining_s=remaining_s)
            return Answer.of(OK, value)
        except Exception as error:
            return Answer.of(*_failure(error))


def refusal(error: RequestError) -> Answer:
    """Return the answer for a request that an adapter refuses.

    Example:
        >>> refusal(RequestError(400, "the body ended early")).status
        400
    """
    return Answer.of(*_failure(error))


def _encode(model: Embedder, request: Request, dimension: int, deadline: Deadline) -> list[Any]:
    """Return the vectors of a request as JSON values."""
    from embedder.common.vector_text import to_base64, to_numbers
    from embedder.options import EncodeSettings

    settings = EncodeSettings(prompt_name=request.task, truncate_dim=request.truncate_dim)
    convert = to_base64 if request.base64 else to_numbers
    numbers = 0 if request.base64 else len(request.texts) * dimension
    embeddings: list[Any] = [None] * len(request.texts)
    for rows in chunks_in_time(request.texts, model.max_seq_length, numbers, deadline):
        vectors = model.encode([request.texts[row] for row in rows], settings=settings)
        for row, vector in zip(rows, convert(vectors), strict=True):
            embeddings[row] = vector
    return embeddings


def _failure(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the status and the error object for an error. Unexpected errors are logged."""
    if isinstance(error, RequestError):
        return error.status, error_value(error.status, str(error))
    import logging  # here, as most calls log nothing

    logging.getLogger("embedder.functions").error("the request failed", exc_info=error)
    return FAILED, error_value(FAILED, "the function failed. Its log has the reason")
