"""API keys: who may ask."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import TYPE_CHECKING

from embedder.errors import InputError
from embedder.serve.errors import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a header can hold without quotes.
_KEY = re.compile(rb"[!-~]+")
_SCHEME = b"bearer "
# The pages ask for the key themselves. Probes have none.
_OPEN_PATHS = frozenset({"/", "/docs", "/openapi.json", "/health", "/ready"})
_READING_METHODS = ("GET", "HEAD")


class ApiKeys:
    """The keys of a server. Without keys, everybody may ask.

    Example:
        >>> ApiKeys([b"secret"]).check("POST", "/embed", [(b"authorization", b"Bearer secret")])
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def read(cls, path: str) -> ApiKeys:
        """Return the keys of a file; see `read_keys`."""
        return cls(read_keys(path))

    def check(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise RequestRefused, 401, unless the request has one of the keys or needs none.

        The time does not depend on how much of a key is right.
        """
        if not self._keys or (method in _READING_METHODS and path in _OPEN_PATHS):
            return
        given = next((value for name, value in headers if name == b"authorization"), None)
        if given is None:
            raise RequestRefused(401, "missing_api_key", 'this server asks for the header "Authorization: Bearer KEY"')
        key = given[len(_SCHEME) :].strip() if given[: len(_SCHEME)].lower() == _SCHEME else b""
        # All keys are compared, so that the time does not tell which one was right.
        if not sum(hmac.compare_digest(key, known) for known in self._keys):
            raise RequestRefused(401, "invalid_api_key", "the API key is wrong")


def read_keys(path: str) -> tuple[bytes, ...]:
    r"""Return the keys of a file, one a line. Blank lines do not count.

    Raises:
        InputError: the file cannot be read, or has no key, or a line is no key.

    Example:
        >>> Path("keys").write_bytes(b"secret\n\n") and read_keys("keys")
        (b'secret',)
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the file of API keys cannot be read: {path}: {error.strerror}") from error
    keys = {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}
    for number, key in keys.items():
        if not _KEY.fullmatch(key):
            raise InputError(
                f"{path}, line {number}: a key should have the visible characters of ASCII alone, without spaces"
            )
    if not keys:
        raise InputError(f"the file of API keys is empty: {path}. Write one key a line")
    return tuple(keys.values())
