"""Read and check the values of a request. Each refusal names the key at fault."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson

from embedder.common.json_text import has_more_values
from embedder.common.json_values import unknown_keys, wrong_choice, wrong_value
from embedder.serve.bodies import read_body
from embedder.serve.errors import MISSING, RequestRefused
from embedder.serve.images import decode_data_uri
from embedder.serve.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.requests import Request

# An input of a request: a text, the token ids of a text, or the bytes of an image.
Item: TypeAlias = str | list[Any] | bytes

# Most JSON values of a body. A value of two bytes needs fifty in memory. OpenAI's limit of token ids is the same.
MAX_VALUES = 300_000

# The event loop parses bodies of up to so many bytes itself. A larger one would stop all other requests meanwhile.
_MAX_LOOP_BYTES = 65_536

INVALID, INVALID_JSON, EMPTY = "invalid_value", "invalid_json", "empty_input"
TOO_LARGE = 413
_JSON_TYPES = ("application/json", "text/json")
# A string, and what makes it a key.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"([ \t\r\n]*+:)?', re.DOTALL)


def refuse(message: str, param: str | None = None, *, code: str = INVALID) -> RequestRefused:
    """Return the refusal of a value.

    Example:
        >>> refuse("dimensions should be at most 384, not 500", "dimensions").status
        400
    """
    return RequestRefused(400, code, message, param=param)


def check_content_type(content_type: str | None) -> None:
    """Raise RequestRefused, 415, unless the body is JSON by its header. No header at all is fine.

    Example:
        >>> check_content_type("application/json; charset=utf-8")
    """
    kind = "application/json" if content_type is None else content_type.partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES and not kind.endswith("+json"):
        raise RequestRefused(
            415, "unsupported_media_type", 'the body should be JSON, with the header "Content-Type: application/json"'
        )


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object of the body of a request.

    Raises:
        RequestRefused: as in `parse_object`, `check_content_type` and `read_body`.
        ClientGone: the client closed the connection.

    Example:
        >>> value = asyncio.run(read_object(request))  # doctest: +SKIP
    """
    check_content_type(request.headers.get("content-type"))
    content = await read_body(request)
    if len(content) <= _MAX_LOOP_BYTES:
        return parse_object(content)
    return await asyncio.to_thread(parse_object, content)


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        RequestRefused: 400, there is no body, or it is not a JSON object, or one of its keys occurs twice; 413, it has
            more than 300,000 values.

    Example:
        >>> parse_object(b'{"input": "a text"}')
        {'input': 'a text'}
    """
    if not content:
        raise refuse("there is no body. Send a JSON object", code=INVALID_JSON)
    if has_more_values(content, MAX_VALUES):
        raise RequestRefused(
            TOO_LARGE, "too_many_values", f"the body has more than {MAX_VALUES:,} JSON values. Send fewer at a time"
        )
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise refuse(f"the body is not JSON: {error}", code=INVALID_JSON) from error
    if not isinstance(value, dict):
        raise refuse(wrong_value("the body", "a JSON object", value), code=INVALID_JSON)
    written = sum(1 for match in _STRINGS.finditer(content) if match[1])
    if written != len(value) and written != _key_count(value):
        raise refuse("a key of the body occurs twice", code=INVALID_JSON)
    return value


def _key_count(value: dict[str, Any]) -> int:
    """Return the number of keys of all objects in `value`."""
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            count += len(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return count


def check_keys(
    value: dict[str, Any], keys: tuple[str, ...], hints: Mapping[str, str], *, needed: tuple[str, ...] = ()
) -> None:
    """Raise RequestRefused if a key is unknown, or if one of the keys `needed` is missing or null.

    Example:
        >>> check_keys({"input": "a text"}, ("input", "model"), {}, needed=("input",))
    """
    if (message := unknown_keys(value, keys, hints)) is not None:
        raise refuse(message, code="unknown_key")
    for key in needed:
        if value.get(key) is None:
            raise refuse(f'"{key}" is missing', key, code=MISSING)


def read_items(value: object, name: str, settings: ServerSettings) -> list[Item]:
    """Return the checked inputs of a request.

    Args:
        value: a string; token ids; an object with "text" or "image"; or a list of such inputs.
        name: the key, for messages.
        settings: the limits.

    Raises:
        RequestRefused: 400, a value has a wrong type, or there is no input; 413, there are too many, or a text is too
            long.

    Example:
        >>> read_items(["a text", {"text": "another"}], "input", ServerSettings())
        ['a text', 'another']
    """
    values: list[Any] = [value] if _is_single(value) else value  # type: ignore[assignment]
    name_of = item_names(value, name)
    check_count(len(values), name, settings)
    return [
        item
        if type(item) is str and len(item) <= settings.max_characters
        else _read_item(item, name_of(index), settings)
        for index, item in enumerate(values)
    ]


def item_names(value: object, name: str) -> Callable[[int], str]:
    """Return the function that names the inputs in messages, by their index.

    Example:
        >>> item_names(["a text", "another"], "input")(1), item_names("a text", "input")(0)
        ('input[1]', 'input')
    """
    return (lambda index: name) if _is_single(value) else (lambda index: f"{name}[{index}]")


def _is_single(value: object) -> bool:
    """Return whether the value is one input: no list, or the token ids of one text."""
    return not isinstance(value, list) or (len(value) > 0 and isinstance(value[0], int))


def check_count(count: int, name: str, settings: ServerSettings) -> None:
    """Raise RequestRefused if a request has no input, or too many.

    Example:
        >>> check_count(2, "input", ServerSettings())
    """
    if not count:
        raise refuse(f"{name} is empty. Send at least one text", name, code=EMPTY)
    if count > settings.max_texts:
        raise RequestRefused(
            TOO_LARGE,
            "too_many_texts",
            f"{name} has {count:,} texts, and the limit is {settings.max_texts:,}. Send fewer at a time",
            param=name,
        )


def _read_item(item: object, name: str, settings: ServerSettings) -> Item:
    if isinstance(item, dict):
        return _read_object(item, name, settings)
    if isinstance(item, str):
        return read_text(item, name, settings)
    if isinstance(item, bytes) or (isinstance(item, list) and item and isinstance(item[0], int)):
        return item
    expected = 'a string, a list of token ids, or an object such as {"text": "a text"} or {"image": "data:image/..."}'
    raise refuse(wrong_value(name, expected, item), name)


def _read_object(item: dict[str, Any], name: str, settings: ServerSettings) -> Item:
    if item.keys() == {"text"}:
        return read_text(item["text"], f"{name}.text", settings)
    if item.keys() == {"image"}:
        return decode_data_uri(item["image"], f"{name}.image")
    raise refuse(f'{name} should have one key, "text" or "image"', name)


def read_text(text: object, name: str, settings: ServerSettings) -> str:
    """Return a checked text.

    Raises:
        RequestRefused: 400, it is not a string; 413, it is too long.

    Example:
        >>> read_text("a text", "inputs.source_sentence", ServerSettings())
        'a text'
    """
    if not isinstance(text, str):
        raise refuse(wrong_value(name, "a string", text), name)
    if len(text) > settings.max_characters:
        raise RequestRefused(
            TOO_LARGE,
            "text_too_long",
            f"{name} has {len(text):,} characters, and the limit is {settings.max_characters:,}. Split it",
            param=name,
        )
    return text


def read_texts(texts: object, name: str, settings: ServerSettings) -> list[str]:
    """Return a checked list of texts.

    Raises:
        RequestRefused: 400, it is no list of strings, or empty; 413, it has too many texts, or a text is too long.

    Example:
        >>> read_texts(["a text"], "texts", ServerSettings())
        ['a text']
    """
    if not isinstance(texts, list):
        raise refuse(wrong_value(name, "a list of strings", texts), name)
    check_count(len(texts), name, settings)
    return [read_text(text, f"{name}[{row}]", settings) for row, text in enumerate(texts)]


def read_string(value: Mapping[str, Any], key: str) -> str | None:
    """Return the string under `key`; None if it is missing or null.

    Example:
        >>> read_string({"model": "all-MiniLM-L6-v2"}, "model")
        'all-MiniLM-L6-v2'
    """
    string = value.get(key)
    if string is not None and not isinstance(string, str):
        raise refuse(wrong_value(key, "a string", string), key)
    return string


def read_flag(value: Mapping[str, Any], key: str) -> bool | None:
    """Return the boolean under `key`; None if it is missing or null.

    Example:
        >>> read_flag({"normalize": True}, "normalize")
        True
    """
    flag = value.get(key)
    if flag is not None and not isinstance(flag, bool):
        raise refuse(wrong_value(key, "true or false", flag), key)
    return flag


def read_choice(value: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str | None:
    """Return the string under `key`, which is one of `known`; None if it is missing or null.

    Example:
        >>> read_choice({"encoding_format": "base64"}, "encoding_format", ("float", "base64"))
        'base64'
    """
    choice = value.get(key)
    if choice is not None and (message := wrong_choice(key, choice, known)) is not None:
        raise refuse(message, key)
    return choice


def read_count(value: Mapping[str, Any], key: str) -> int | None:
    """Return the whole number under `key`, which is at least 1; None if it is missing or null.

    Example:
        >>> read_count({"dimensions": 64}, "dimensions")
        64
    """
    count = value.get(key)
    whole = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and (not whole or count < 1):
        raise refuse(wrong_value(key, "a whole number, at least 1", count), key)
    return count
