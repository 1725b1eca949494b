"""The settings of the server, checked once."""

from __future__ import annotations

import math
import re

from embedder.common.checks import check_choice, check_count, check_counts, check_number, read_assignments, shown
from embedder.common.records import frozen
from embedder.errors import InputError

LOG_FORMATS = ("plain", "json")
_MAX_PORT = 65_535
# What browsers send as Origin. With a path or a slash at its end, an origin would match no page.
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s]+")
# This many of the largest bodies may be in memory at once.
_LARGEST_BODIES_HELD = 16
# Answers are counted too. They may be large where bodies are small.
_MIN_BODY_MEMORY_BYTES = 128_000_000


@frozen
class ServerSettings:
    """The options of `embedder serve`. `embedder serve --help` describes them for users.

    Attributes:
        models: names or paths of the models. The first one answers requests that name none.
        host: the address to listen on.
        port: the port to listen on. 0 takes a free one.
        uds: path of a Unix socket to listen on, instead of host and port.
        workers: number of processes. Each loads all models.
        threads: most threads that compute for a model in each process. None shares the cores among the processes.
        dtype: which graph runs; see `Embedder`.
        provider: the device; see `Embedder`.
        provider_options: options of onnxruntime's provider, such as "gpu_mem_limit=4000000000,use_tf32=0".
        max_batch_tokens: most padded tokens of a batch. None takes the token budget of the device.
        queue_size: most texts that wait or are computed, of all requests of a model. More get the status 429.
        cache_size: number of vectors that a model keeps for texts that come again. 0 keeps none.
        max_texts: most texts and images of a request.
        max_characters: most characters of a text.
        max_body_bytes: most bytes of the body of a request.
        max_connections: most open connections of a process. More are closed at once.
        read_timeout_s: seconds that a client has to send the headers, then to send the body, and then to read the
            answer.
        request_timeout_s: seconds from the end of the body to the answer. Later answers have the status 504.
        drain_s: seconds that the server still accepts connections after the first signal, while /ready gives 503.
        api_key_file: path of a file with API keys, one a line. None asks for no key.
        cors_origins: origins whose pages may read the answers in a browser, such as "https://example.org".
        log_format: "plain" or "json".

    Raises:
        InputError: a value has a wrong type or is out of range.

    Example:
        >>> ServerSettings(port=9000).max_body_memory_bytes
        160000000
    """

    models: tuple[str, ...] = ("all-MiniLM-L6-v2",)
    host: str = "127.0.0.1"
    port: int = 8080
    uds: str | None = None
    workers: int = 1
    threads: int | None = None
    dtype: str | None = "auto"
    provider: str | None = None
    provider_options: str | None = None
    max_batch_tokens: int | None = None
    queue_size: int = 16_384
    cache_size: int = 0
    max_texts: int = 2048
    max_characters: int = 100_000
    max_body_bytes: int = 10_000_000
    max_connections: int = 1000
    read_timeout_s: float = 30.0
    request_timeout_s: float = 60.0
    drain_s: float = 0.0
    api_key_file: str | None = None
    cors_origins: tuple[str, ...] = ()
    log_format: str = "plain"

    def __post_init__(self) -> None:
        check_counts(
            workers=self.workers,
            queue_size=self.queue_size,
            max_texts=self.max_texts,
            max_characters=self.max_characters,
            max_body_bytes=self.max_body_bytes,
            max_connections=self.max_connections,
        )
        check_count("port", self.port, _MAX_PORT, smallest=0)
        check_count("cache_size", self.cache_size, smallest=0)
        check_count("threads", self.threads)
        check_count("max_batch_tokens", self.max_batch_tokens)
        if self.provider_options is not None:
            read_assignments("provider_options", self.provider_options)
        check_choice("log_format", self.log_format, LOG_FORMATS)
        _check_seconds("read_timeout_s", self.read_timeout_s)
        _check_seconds("request_timeout_s", self.request_timeout_s)
        _check_seconds("drain_s", self.drain_s, zero=True)
        if self.uds == "":  # Linux would listen on a path that nobody knows
            raise InputError("uds should be a path, not ''")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f'an origin is such as "https://example.org", without a path, or "*", not {shown(origin)}'
                )
        if not self.models:
            raise InputError("there is no model to serve. Name one")

    @property
    def max_body_memory_bytes(self) -> int:
        """Most bytes of all bodies and large answers that a process holds at once."""
        return max(_LARGEST_BODIES_HELD * self.max_body_bytes, _MIN_BODY_MEMORY_BYTES)


def _check_seconds(name: str, value: object, *, zero: bool = False) -> None:
    expected = "a number of seconds, at least 0" if zero else "a number of seconds above 0"
    check_number(name, value, expected)
    assert isinstance(value, int | float)
    if not (0 < value < math.inf or (zero and value == 0)):
        raise InputError(f"{name} should be {expected}, not {shown(value)}")
