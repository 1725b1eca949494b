"""Faults of a model hub and of the network before it, for `Hub.faults`. `on` says which answers a fault changes.

Example:
    >>> with serve({"org/tiny": directory}) as hub:  # doctest: +SKIP
    ...     hub.faults.append(on(status(429, Retry_After="1"), "*model.onnx*", times=1))
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import count

from tests.hub_server import Answer, Fault, Request


def on(fault: Fault, path: str = "*", *, method: str = "*", skip: int = 0, times: int | None = None) -> Fault:
    """Restrict a fault to some requests.

    Args:
        fault: the fault.
        path: a pattern for the request's path, such as "*/resolve/*/config.json" or "api/models/*".
        method: a pattern for the request's method, such as "HEAD".
        skip: how many such requests are answered well first.
        times: how many such requests fail. None lets all fail.
    """
    counter = count()

    def limited(request: Request, answer: Answer) -> Answer:
        if not (fnmatchcase(request.path, path) and fnmatchcase(request.method, method)):
            return answer
        number = next(counter) - skip
        return fault(request, answer) if number >= 0 and (times is None or number < times) else answer

    return limited


def status(code: int, content: bytes = b"", **headers: str) -> Fault:
    """Answer with another status and these headers. An underscore stands for a hyphen."""
    return lambda request, answer: Answer(code, content).having(**headers)


def cut(after: int = -1) -> Fault:
    """End the connection after so many bytes of the content. -1 ends it before the answer."""
    return lambda request, answer: replace(answer, cut_after=after)


def stall(after: int = -1) -> Fault:
    """Send nothing more after so many bytes of the content, and leave the connection open. -1 sends nothing at all.

    The client must give up by itself: set HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to a second.
    """
    return lambda request, answer: replace(answer, stall_after=after)


def shorten(count: int) -> Fault:
    """Leave out the last `count` bytes of the content, and announce only those that are sent."""
    return lambda request, answer: replace(answer, content=answer.content[:-count])


def lengthen(content: bytes) -> Fault:
    """Send `content` after the content, and announce both."""
    return lambda request, answer: replace(answer, content=answer.content + content)


def announce(length: int) -> Fault:
    """Announce this length of the content, whatever is sent. The connection ends with the content."""
    return lambda request, answer: replace(
        answer.having(Content_Length=str(length)), cut_after=min(length, len(answer.content))
    )


def damage(offset: int = 0) -> Fault:
    """Change one byte of the content. Its length stays."""

    def apply(request: Request, answer: Answer) -> Answer:
        content = bytearray(answer.content)
        if content:
            content[offset % len(content)] ^= 1
        return replace(answer, content=bytes(content))

    return apply


def exchange(content: bytes) -> Fault:
    """Send another content, such as the page of a proxy."""
    return lambda request, answer: replace(answer, content=content)


def header(**headers: str | None) -> Fault:
    """Replace headers, or leave out those that are None. An underscore stands for a hyphen.

    A wrong ETag is `header(ETag='"..."', X_Linked_Etag='"..."')`.
    """
    changes = {name.replace("_", "-"): value for name, value in headers.items()}

    def apply(request: Request, answer: Answer) -> Answer:
        merged: Mapping[str, str | None] = {**answer.headers, **changes}
        return replace(answer, headers={name: value for name, value in merged.items() if value is not None})

    return apply


def redirect_for_ever() -> Fault:
    """Redirect to the same address again."""
    return lambda request, answer: Answer(307).having(Location=f"/{request.path}")


def relist(change: Callable[[list[dict[str, object]]], object]) -> Fault:
    """Change the list of a repository's files in place, in both of its forms. Its items have `path` or `rfilename`.

    Wrong sizes are `relist(lambda files: [file.update(size=1) for file in files])`.
    """

    def apply(request: Request, answer: Answer) -> Answer:
        try:
            listing = json.loads(answer.content)
        except ValueError:
            return answer
        files = listing.get("siblings") if isinstance(listing, dict) else listing
        if not isinstance(files, list):
            return answer
        change(files)
        return replace(answer, content=json.dumps(listing).encode())

    return apply
