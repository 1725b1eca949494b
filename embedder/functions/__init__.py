"""Embeddings in a serverless function: one lazy model, checked requests, JSON answers, and limits.

`Function` is the same on every platform. An adapter hands it the events of one platform: `aws_lambda`, `wsgi` or
`asgi`.

Example:
    >>> from embedder.functions import Function
    >>> from embedder.functions.aws_lambda import lambda_handler
    >>> handler = lambda_handler(Function("all-MiniLM-L6-v2"))  # the model is loaded by the first event
"""

from __future__ import annotations

from embedder.functions.answers import Answer
from embedder.functions.function import Function
from embedder.functions.requests import Limits, RequestError

__all__ = ["Answer", "Function", "Limits", "RequestError"]
