"""Read and check a request before the model is used. Each error has a status of HTTP and names the value at fault."""

from __future__ import annotations

import math
from typing import Any

from embedder.common.json_text import has_more_values, parse_json
from embedder.common.json_values import unknown_keys, wrong_choice, wrong_value
from embedder.common.records import frozen
from embedder.errors import EmbedderError, InputError

BAD_REQUEST = 400
METHOD_NOT_ALLOWED = 405
TOO_LARGE = 413
FAILED = 500
TIMED_OUT = 504

KEYS = ("inputs", "task", "truncate_dim", "encoding_format")
TASKS = ("query", "document")
FORMATS = ("float", "base64")

# What other services call these keys. The value completes "unknown key 'input': ".
_HINTS = {
    **dict.fromkeys(("input", "text", "texts", "sentences", "documents"), 'the texts belong under "inputs"'),
    **dict.fromkeys(("dimensions", "dimension"), 'use "truncate_dim"'),
    **dict.fromkeys(("prompt_name", "input_type"), 'use "task", which is "query" or "document"'),
    "model": "this function has one model",
}
# A body may have this many JSON values besides the texts. To parse millions takes a hundred times the body's memory.
_SPARE_VALUES = 100_000


class RequestError(EmbedderError):
    """A request cannot be answered. The caller gets the status and the message.

    Attributes:
        status: the status of HTTP: 400, 405, 413 or 504.

    Example:
        >>> RequestError(400, "there is no body").status
        400
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle both arguments. By default pickle keeps the message alone."""
        return type(self), (self.status, *self.args)


@frozen
class Limits:
    """What a function accepts.

    Attributes:
        max_inputs: most texts of a request.
        max_characters: most characters of a text. The model reads only the first `max_seq_length` tokens of it.
        max_body_bytes: most bytes of a request's body, and of an answer's body.
        timeout_s: seconds that a request may take. None sets no limit. If the platform says how much time remains, the
            shorter time counts.

    Raises:
        InputError: a count is not a whole number of at least 1, or the time is not a number above 0.

    Example:
        >>> Limits(max_inputs=100, timeout_s=20).max_characters
        100000
    """

    max_inputs: int = 1000
    max_characters: int = 100_000
    max_body_bytes: int = 6_000_000
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_inputs", "max_characters", "max_body_bytes"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise InputError(f"{name} should be a whole number, at least 1, not {count!r:.80}")
        seconds = self.timeout_s
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (number and 0 < seconds < math.inf):
            raise InputError(f"timeout_s should be a number of seconds above 0, or None, not {seconds!r:.80}")


@frozen
class Request:
    """A checked request.

    Attributes:
        texts: the texts to encode.
        task: "query", "document", or None for the model's default prompt.
        truncate_dim: how many dimensions of each vector to keep. None keeps all.
        base64: whether the answer has each vector as base64 instead of numbers.
    """

    texts: list[str]
    task: str | None
    truncate_dim: int | None
    base64: bool


def parse_body(body: bytes | str | None, limits: Limits) -> Any:
    """Return the JSON value of a request's body.

    Raises:
        RequestError: 400, there is no body, or it is not JSON; 413, it is too large.

    Example:
        >>> parse_body(b'{"inputs": ["a text"]}', Limits())
        {'inputs': ['a text']}
    """
    # A lone surrogate of a string becomes bytes that are not UTF-8. The parser refuses them.
    content = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not content:
        raise RequestError(BAD_REQUEST, 'there is no body. Send a JSON object such as {"inputs": ["a text"]}')
    if len(content) > limits.max_body_bytes:
        raise body_too_large(limits)
    if has_more_values(content, limits.max_inputs + _SPARE_VALUES):
        raise RequestError(
            TOO_LARGE,
            f"the body has more than {limits.max_inputs + _SPARE_VALUES:,} JSON values, and the limit for inputs is "
            f"{limits.max_inputs:,} texts. Send fewer at a time",
        )
    try:
        return parse_json(content)
    except UnicodeDecodeError as error:
        raise RequestError(BAD_REQUEST, f"the body is not UTF-8: byte {error.start} cannot be decoded") from error
    except ValueError as error:
        raise RequestError(BAD_REQUEST, f"the body is not JSON: {error}") from error


def body_too_large(limits: Limits) -> RequestError:
    """Return the error for a body of more bytes than the limit.

    Example:
        >>> print(body_too_large(Limits(max_body_bytes=1000)))
        the body has more than 1,000 bytes, which is the limit. Send fewer texts at a time
    """
    return RequestError(
        TOO_LARGE,
        f"the body has more than {limits.max_body_bytes:,} bytes, which is the limit. Send fewer texts at a time",
    )


def read_request(value: object, limits: Limits) -> Request:
    """Return the checked request.

    Raises:
        RequestError: 400, a key is unknown, or a value has a wrong type or is out of range; 413, there are too many
            texts, or one is too long.

    Example:
        >>> read_request({"inputs": "a text", "task": "query"}, Limits())
        Request(texts=['a text'], task='query', truncate_dim=None, base64=False)
    """
    if not isinstance(value, dict):
        raise _wrong("the request", 'a JSON object such as {"inputs": ["a text"]}', value)
    _check_keys(value)
    texts = _texts(value["inputs"], limits)
    task, truncate_dim, form = (value.get(key) for key in KEYS[1:])
    if task is not None:
        _check_choice("task", task, TASKS)
    if truncate_dim is not None:
        check_truncate_dim(truncate_dim)
    if form is not None:
        _check_choice("encoding_format", form, FORMATS)
    return Request(texts, task, truncate_dim, form == "base64")


def check_truncate_dim(value: Any, dimension: int | None = None) -> None:
    """Raise RequestError unless `value` is a whole number from 1 to `dimension`, which is the length of a vector.

    Example:
        >>> check_truncate_dim(64, 384)
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 1 or (dimension is not None and value > dimension):
        upper = "" if dimension is None else f" and at most {dimension}"
        raise _wrong("truncate_dim", f"a whole number, at least 1{upper}", value)


def _check_keys(value: dict[Any, Any]) -> None:
    if (message := unknown_keys(value, KEYS, _HINTS)) is not None:
        raise RequestError(BAD_REQUEST, message)
    if "inputs" not in value:
        raise RequestError(BAD_REQUEST, '"inputs" is missing. It should be a list of texts')


def _texts(inputs: object, limits: Limits) -> list[str]:
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list):
        raise _wrong("inputs", "a list of strings", inputs)
    if len(texts) > limits.max_inputs:
        raise RequestError(
            TOO_LARGE, f"inputs has {len(texts):,} texts, and the limit is {limits.max_inputs:,}. Send fewer at a time"
        )
    for index, text in enumerate(texts):
        _check_text(text, "inputs" if isinstance(inputs, str) else f"inputs[{index}]", limits)
    return texts


def _check_text(text: object, name: str, limits: Limits) -> None:
    if not isinstance(text, str):
        raise _wrong(name, "a string", text)
    if len(text) > limits.max_characters:
        raise RequestError(
            TOO_LARGE, f"{name} has {len(text):,} characters, and the limit is {limits.max_characters:,}. Split it"
        )
    try:
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise RequestError(
            BAD_REQUEST, f"{name} is not valid Unicode: it has the lone surrogate {half} at character {error.start}"
        ) from error


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if (message := wrong_choice(name, value, known)) is not None:
        raise RequestError(BAD_REQUEST, message)


def _wrong(name: str, expected: str, value: object) -> RequestError:
    return RequestError(BAD_REQUEST, wrong_value(name, expected, value))
