"""Put a server for embeddings under load, and measure it. It asks by OpenAI's interface, `/v1/embeddings`.

The load is closed-loop: each client sends its next request when it has the answer to the last one. The clients often
share the machine with the server, so they take little time. The JSON of the texts is written before the load begins.
The JSON of the answers is not read: a client only counts the vectors in it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from urllib.parse import SplitResult, urlsplit

from embedder.common.checks import check_choice, check_counts, check_number, check_text, shown
from embedder.common.records import frozen
from embedder.errors import EmbedderError, InputError
from embedder.serve.http_client import Answer, Connection, connect

ENCODING_FORMATS = ("float", "base64")
_ROUTE = "/v1/embeddings"
_OK = 200
# Each vector of an answer has this key. The value of "object", "embedding", has no colon after it.
_VECTOR_KEY = b'"embedding":'
_WARM_UP_S = 1.0
# A client that was refused waits, if the server does not say how long.
_RETRY_S = 0.1
_MAX_MESSAGE_BYTES = 300
# How long the last answers may take after the end.
_LAST_ANSWERS_TIMEOUT_S = 60.0


@frozen
class LoadSettings:
    """How to put a server under load.

    Attributes:
        url: the address of the server, such as "http://127.0.0.1:8080". A path that ends with "/embeddings" is asked
            as it is. Other addresses are those of OpenAI's clients, with or without "/v1".
        clients: how many clients ask at the same time. Each has a connection.
        seconds: how long the answers count. Before, the load runs for a second that does not count.
        texts_per_request: how many texts a client sends at once.
        model: the name of the model. None sends no name, so that the server takes its default.
        key: the API key, if the server wants one.
        encoding_format: how the vectors come, "float" or "base64".

    Raises:
        InputError: a value is wrong.

    Example:
        >>> LoadSettings("http://127.0.0.1:8080", clients=4).seconds
        10.0
    """

    url: str
    clients: int = 32
    seconds: float = 10.0
    texts_per_request: int = 1
    model: str | None = None
    key: str | None = None
    encoding_format: str = "float"

    def __post_init__(self) -> None:
        check_counts(clients=self.clients, texts_per_request=self.texts_per_request)
        check_number("seconds", self.seconds)
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"seconds should be more than 0, not {self.seconds}")
        check_choice("encoding_format", self.encoding_format, ENCODING_FORMATS)
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise InputError("an API key has only printable characters of ASCII")
        _parse_url(self.url)


@frozen
class LoadResult:
    """What was measured.

    Attributes:
        seconds: how long the answers counted.
        texts: how many texts were answered in this time.
        requests: how many requests were answered in this time.
        latencies_ms: how long each answered request took that began in this time, sorted.
        failures: how many requests failed that began in this time, by the reason: "status 429", or what happened.

    Example:
        >>> LoadResult(2.0, 40, 20, [1.0, 2.0, 9.0], {}).texts_per_s
        20.0
    """

    seconds: float
    texts: int
    requests: int
    latencies_ms: list[float]
    failures: dict[str, int]

    @property
    def texts_per_s(self) -> float:
        """Texts answered in a second."""
        return self.texts / self.seconds

    @property
    def requests_per_s(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that `percent` % of the requests do not exceed, in milliseconds; NaN without an answer.

        Example:
            >>> LoadResult(2.0, 40, 20, [1.0, 2.0, 9.0], {}).percentile_ms(50)
            2.0
        """
        if not self.latencies_ms:
            return float("nan")
        rank = -(-len(self.latencies_ms) * percent // 100)
        return self.latencies_ms[max(0, int(rank) - 1)]


def check_server(settings: LoadSettings, texts: Sequence[str]) -> None:
    """Send one request, so that a wrong address, model or key is found before the load.

    Raises:
        EmbedderError: the server cannot be reached, refuses the request, or does not answer in OpenAI's form.

    Example:
        >>> check_server(LoadSettings("http://127.0.0.1:8080"), ["a text"])  # doctest: +SKIP
    """
    address = _parse_url(settings.url)
    request = next(_requests(settings, address, texts))
    place = f"{address.scheme}://{_host(address)}{address.path}"
    try:
        answer = asyncio.run(_ask_once(address, request))
    except TimeoutError as error:
        raise EmbedderError(f"{place} gave no answer within {_LAST_ANSWERS_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise EmbedderError(f"{place} cannot be asked: {error.strerror or error}") from error
    if answer.status != _OK:
        raise EmbedderError(f"{place} answers with status {answer.status}: {_message(answer.body)}")
    if not _is_complete(settings, answer):
        raise EmbedderError(f"{place} does not answer as OpenAI's interface does: {_message(answer.body)}")


async def _ask_once(address: SplitResult, request: bytes) -> Answer:
    async with asyncio.timeout(_LAST_ANSWERS_TIMEOUT_S):
        connection = await connect(address)
        try:
            return await connection.ask(request)
        finally:
            connection.close()


def _message(body: bytes) -> str:
    """Return the beginning of a body that says what is wrong."""
    return body[:_MAX_MESSAGE_BYTES].decode("utf-8", "replace") or "the answer is empty"


def _is_complete(settings: LoadSettings, answer: Answer) -> bool:
    """Whether the answer has as many vectors as the request had texts."""
    return answer.body.count(_VECTOR_KEY) == settings.texts_per_request


def measure_load(settings: LoadSettings, texts: Sequence[str]) -> LoadResult:
    """Put the server under load and measure it. It takes a second longer than `settings.seconds`.

    The clients send `texts` in turn, and begin again after the last one.

    Raises:
        InputError: there are no texts, or one is not valid Unicode.

    Example:
        >>> measure_load(LoadSettings("http://127.0.0.1:8080"), ["a text"]).texts_per_s  # doctest: +SKIP
        1034.2
    """
    if not texts:
        raise InputError("there are no texts to send")
    for number, text in enumerate(texts):
        check_text(text, f"texts[{number}]")
    return asyncio.run(_Load(settings, texts).run())


class _Load:
    """What all clients share, and what they have counted."""

    def __init__(self, settings: LoadSettings, texts: Sequence[str]) -> None:
        self._settings = settings
        self._address = _parse_url(settings.url)
        self._requests = _requests(settings, self._address, texts)
        self._start = self._end = 0.0  # the time that counts, on the clock of the event loop
        self._answered = 0
        self._latencies_ms: list[float] = []
        self._failures: Counter[str] = Counter()

    async def run(self) -> LoadResult:
        self._start = asyncio.get_running_loop().time() + _WARM_UP_S
        self._end = self._start + self._settings.seconds
        await asyncio.gather(*(self._run_client() for _ in range(self._settings.clients)))
        return LoadResult(
            seconds=self._settings.seconds,
            texts=self._answered * self._settings.texts_per_request,
            requests=self._answered,
            latencies_ms=sorted(self._latencies_ms),
            failures=dict(self._failures.most_common()),
        )

    async def _run_client(self) -> None:
        """Ask again and again until the end, as one client."""
        now = asyncio.get_running_loop().time
        connection = Connection()
        try:
            async with asyncio.timeout_at(self._end + _LAST_ANSWERS_TIMEOUT_S):
                while (begin := now()) < self._end:
                    pause_s = 0.0
                    try:
                        if not connection.is_open:
                            connection = await connect(self._address)
                        answer = await connection.ask(next(self._requests))
                    except OSError as error:
                        self._count_failure(begin, str(error))
                        pause_s = _RETRY_S
                    else:
                        pause_s = self._count(answer, begin, now())
                    if pause_s:
                        await asyncio.sleep(min(pause_s, max(0.0, self._end - now())))
        except TimeoutError:
            self._count_failure(self._start, "no answer")
        finally:
            connection.close()

    def _count(self, answer: Answer, begin: float, end: float) -> float:
        """Count an answer. Return how many seconds its client should wait."""
        if answer.status != _OK:
            self._count_failure(begin, f"status {answer.status}")
            return _RETRY_S if answer.retry_after_s is None else answer.retry_after_s
        if not _is_complete(self._settings, answer):
            self._count_failure(begin, "another number of vectors than of texts")
            return 0.0
        self._answered += self._start <= end < self._end
        if begin >= self._start:
            self._latencies_ms.append((end - begin) * 1000)
        return 0.0

    def _count_failure(self, begin: float, reason: str) -> None:
        if begin >= self._start:
            self._failures[reason] += 1


def _parse_url(url: str) -> SplitResult:
    """Return the parts of the address to send requests to.

    Raises:
        InputError: it is no address of a server.
    """
    try:
        address = urlsplit(url)
        is_usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:  # the port is no number
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable() or " " in url:
        raise InputError(f"the address should be one such as http://127.0.0.1:8080, not {shown(url)}")
    path = address.path.rstrip("/")
    if not path.endswith("/embeddings"):
        path = path.removesuffix("/v1") + _ROUTE
    return address._replace(path=path)


def _host(address: SplitResult) -> str:
    """Return the host and the port, without the name and the password that an address may have."""
    return address.netloc.rpartition("@")[2]


def _requests(settings: LoadSettings, address: SplitResult, texts: Sequence[str]) -> Iterator[bytes]:
    """Yield requests without end, ready to be sent."""
    fields = {"encoding_format": settings.encoding_format}
    if settings.model is not None:
        fields["model"] = settings.model
    others = json.dumps(fields)[1:].encode()
    head = "\r\n".join(
        [
            f"POST {address.path} HTTP/1.1",
            f"Host: {_host(address)}",
            "Content-Type: application/json",
            *([] if settings.key is None else [f"Authorization: Bearer {settings.key}"]),
            "Content-Length: ",
        ]
    ).encode()
    ring = cycle([json.dumps(text, ensure_ascii=False).encode() for text in texts])
    while True:
        inputs = b",".join(islice(ring, settings.texts_per_request))
        if settings.texts_per_request > 1:
            inputs = b"[%b]" % inputs
        body = b'{"input":%b,%b' % (inputs, others)
        yield b"%b%d\r\n\r\n%b" % (head, len(body), body)
