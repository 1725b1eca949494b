"""The answer for an error, in the form of the route's API."""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from embedder.errors import DeviceMemoryError
from embedder.serve import cohere_api, openai_api, tei_api
from embedder.serve.answers import json_response
from embedder.serve.bodies import ClientGone
from embedder.serve.errors import RequestRefused
from embedder.serve.request_record import RequestRecord

if TYPE_CHECKING:
    from starlette.types import Scope

    from embedder.serve.access_log import ServerLog

_OPENAI_PATHS = "/v1/"
_METHOD_NOT_ALLOWED = 405


def answer_error(error: Exception, scope: Scope, log: ServerLog) -> Response | None:
    """Return the answer for an error of a request. None: nobody is there to read it.

    An unexpected error is logged. The answer says no more of it than the request's id.
    """
    if isinstance(error, ClientGone):
        return None
    record = RequestRecord.of_scope(scope)
    refusal, headers = _refusal(error, scope, record, log)
    record.code = refusal.code
    response = json_response(_body(refusal, scope["path"]))
    response.status_code = refusal.status
    response.headers.update(headers)
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if refusal.status == 408:  # the rest of the body may still come, and is no request
        response.headers["Connection"] = "close"
    return response


def _body(refusal: RequestRefused, path: str) -> dict[str, Any]:
    """Return the JSON object of an error in the form of the route's interface."""
    if path in cohere_api.PATHS:
        return cohere_api.error_body(refusal)
    if path.startswith(_OPENAI_PATHS):
        return openai_api.error_body(refusal)
    return tei_api.error_body(refusal)


def _refusal(
    error: Exception, scope: Scope, record: RequestRecord, log: ServerLog
) -> tuple[RequestRefused, dict[str, str]]:
    """Return the refusal that stands for an error, and its headers."""
    if isinstance(error, RequestRefused):
        return error, {}
    if isinstance(error, HTTPException):  # of Starlette: no route, or not with this method
        headers = dict(error.headers or {})
        if error.status_code == _METHOD_NOT_ALLOWED:
            allowed = headers.get("Allow") or headers.get("allow") or "another"
            message = f"{scope['path']} takes the method {allowed}, not {scope['method']}"
            return RequestRefused(error.status_code, "method_not_allowed", message), headers
        return RequestRefused(
            error.status_code, "not_found", f"there is no {scope['path']} here. /docs has the routes"
        ), headers
    if isinstance(error, (MemoryError, DeviceMemoryError)):
        log.say(str(error) or "out of memory", "error", id=record.id)
        return RequestRefused(503, "out_of_memory", "the server has not enough memory for this request"), {}
    log.say("".join(traceback.format_exception(error)).rstrip(), "error", id=record.id)
    message = f"the server failed. Its log has the reason under the request's id, {record.id}"
    return RequestRefused(500, "internal_error", message), {}
