"""Read a body of the type multipart/form-data, in which programs and browsers upload files."""

from __future__ import annotations

from email.message import Message
from typing import Any

from embedder.serve.errors import RequestRefused
from embedder.serve.requests import refuse

FORM_TYPE = "multipart/form-data"
# Fields besides the inputs, and lines of the headers of a field.
_SPARE_FIELDS = 100
_MAX_HEADER_BYTES = 4096
_COUNTED = ("dimensions",)


def is_form(content_type: str | None) -> bool:
    """Return whether the header of a body says that it is a form.

    Example:
        >>> is_form("multipart/form-data; boundary=x")
        True
    """
    return content_type is not None and content_type.partition(";")[0].strip().lower() == FORM_TYPE


def parse_form(content: bytes, content_type: str, repeated: str, max_repeated: int) -> dict[str, Any]:
    r"""Return the fields of a form by name, as a JSON object would have them.

    A field with a file name is an image, and becomes bytes. Other fields become strings, or a number where the key
    needs one. Nothing is written to a file.

    Args:
        content: the body.
        content_type: its header, which has the boundary.
        repeated: the field that may occur several times. Its values become a list.
        max_repeated: how often it may occur.

    Raises:
        RequestRefused: 400, the form is malformed, a field is not UTF-8, or another field occurs twice; 413, there are
            too many fields.

    Example:
        >>> body = b'--x\r\nContent-Disposition: form-data; name="input"\r\n\r\na text\r\n--x--'
        >>> parse_form(body, "multipart/form-data; boundary=x", "input", 10)
        {'input': ['a text']}
    """
    values: dict[str, Any] = {}
    for part in _parts(content, _header(content_type).get_param("boundary"), max_repeated + _SPARE_FIELDS):
        name, value = _field(part)
        if name == repeated:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise _malformed(f'the field "{name:.40}" occurs twice')
        elif isinstance(value, bytes):
            raise refuse(f'files belong in the field "{repeated}", not in "{name:.40}"')
        else:
            values[name] = int(value) if name in _COUNTED and value.isdecimal() and len(value) < 10 else value
    return values


def _parts(content: bytes, boundary: object, max_parts: int) -> list[bytes]:
    """Return the parts of a form, without the boundaries between them."""
    if not isinstance(boundary, str) or not boundary.isascii() or not 1 <= len(boundary) <= 70:
        raise _malformed("its Content-Type has no boundary")
    delimiter = b"\r\n--" + boundary.encode("ascii")
    _, *parts = (b"\r\n" + content).split(delimiter, max_parts + 1)
    if len(parts) > max_parts:
        raise RequestRefused(413, "too_many_texts", f"the form has more than {max_parts - 1:,} fields")
    if not parts or not parts[-1].startswith(b"--"):
        raise _malformed("it has no end")
    return parts[:-1]


def _field(part: bytes) -> tuple[str, str | bytes]:
    """Return the name and the value of a field."""
    start, mark, value = part.partition(b"\r\n\r\n")
    if not mark or len(start) > _MAX_HEADER_BYTES or not start.strip(b" \t").startswith(b"\r\n"):
        raise _malformed("a field has no headers")
    for line in start.split(b"\r\n"):
        key, _, disposition = line.partition(b":")
        if key.strip().lower() == b"content-disposition":
            header = _header(disposition.decode("utf-8", "replace").strip())
            name, file_name = header.get_param("name"), header.get_param("filename")
            if isinstance(name, str):
                return name, value if file_name is not None else _text(value, name)
    raise _malformed("a field has no name")


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise refuse(f'the field "{name:.40}" is not UTF-8. Send an image with a file name', name[:40]) from error


def _header(value: str) -> Message:
    """Return a message whose Content-Type is `value`, of which Python's library reads the parameters."""
    message = Message()
    message["Content-Type"] = value.replace("\r", "").replace("\n", "")
    return message


def _malformed(reason: str) -> RequestRefused:
    return refuse(f"the body is not a form: {reason}", code="invalid_form")
