"""AWS Lambda: a handler for direct events and for those of HTTP.

HTTP events come from API Gateway (REST and HTTP APIs), function URLs and Application Load Balancers.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

from embedder.functions.function import Function, refusal
from embedder.functions.requests import BAD_REQUEST, RequestError

# Every HTTP event has one of the first two. An event that people write by hand may have the body alone.
_HTTP_KEYS = ("requestContext", "httpMethod", "body")


def lambda_handler(function: Function) -> Callable[[Any, Any], dict[str, Any]]:
    """Return a handler for AWS Lambda.

    A direct event is the request itself, and gets what `Function.reply` returns: the answer or an error object. An HTTP
    event has the request as its body, and gets "statusCode", "headers" and "body". A request is over shortly before
    Lambda's own timeout, with the status 504.

    Example:
        >>> handler = lambda_handler(Function("all-MiniLM-L6-v2"))
        >>> handler({"inputs": 3}, None)
        {'error': {'status': 400, 'message': 'inputs should be a list of strings, not 3'}}
    """

    def handler(event: Any, context: Any) -> dict[str, Any]:
        remaining_s = _remaining_s(context)
        if _is_http(event):
            return _answer_http(function, event, remaining_s)
        return function.reply(event, remaining_s=remaining_s)[1]

    return handler


def _is_http(event: object) -> bool:
    return isinstance(event, dict) and "inputs" not in event and not event.keys().isdisjoint(_HTTP_KEYS)


def _answer_http(function: Function, event: dict[str, Any], remaining_s: float | None) -> dict[str, Any]:
    try:
        answer = function.answer(_body(event), method=_method(event), remaining_s=remaining_s)
    except RequestError as error:
        answer = refusal(error)
    result: dict[str, Any] = {
        "statusCode": answer.status,
        "headers": answer.headers,
        "body": answer.body.decode("ascii"),
    }
    # A load balancer that sends headers as lists reads only lists.
    if "multiValueHeaders" in event and "headers" not in event:
        del result["headers"]
        result["multiValueHeaders"] = {name: [value] for name, value in answer.headers.items()}
    return result


def _method(event: dict[str, Any]) -> object:
    """Return the method. An event that people write by hand may have none, and is taken as a POST."""
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, dict) else None  # of HTTP APIs and function URLs
    return event.get("httpMethod") or (http.get("method") if isinstance(http, dict) else None) or "POST"


def _body(event: dict[str, Any]) -> bytes | str | None:
    body = event.get("body")
    if body is not None and not isinstance(body, str):
        raise RequestError(BAD_REQUEST, "the body of the event should be a string")
    if body is None or not event.get("isBase64Encoded"):
        return body
    try:
        return binascii.a2b_base64(body, strict_mode=True)
    except ValueError as error:  # `binascii.Error` is one
        raise RequestError(BAD_REQUEST, "the body of the event is not base64, and isBase64Encoded is true") from error


def _remaining_s(context: Any) -> float | None:
    """Return the seconds until Lambda ends the call. None if the context does not say, as in a test without one."""
    remaining_ms = getattr(context, "get_remaining_time_in_millis", None)
    return None if remaining_ms is None else float(remaining_ms()) / 1000
