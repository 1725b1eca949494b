"""Show control characters as escapes. Text of a file from a stranger may hold sequences that drive a terminal."""

from __future__ import annotations

# C0 with ESC, DEL, C1 with CSI, the marks and overrides of the direction of writing, and separators of lines.
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_ESCAPES = {code: ascii(chr(code))[1:-1] for code in _CONTROLS}
_ESCAPES_BUT_LAYOUT = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}

_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS if code >= 0x20}  # JSON has the others as escapes already


def escape_line(text: str) -> str:
    r"""Return `text` with an escape in the place of each control character, line feeds and tabs included.

    Example:
        >>> print(escape_line("red: \x1b[31m"))
        red: \x1b[31m
    """
    return text.translate(_ESCAPES)


def escape_message(text: str) -> str:
    r"""Return `text` with an escape in the place of each control character except line feeds and tabs.

    Example:
        >>> print(escape_message("two\nlines\r"))
        two
        lines\r
    """
    return text.translate(_ESCAPES_BUT_LAYOUT)


def escape_json(text: str) -> str:
    r"""Return a JSON text with an escape of JSON in the place of each control character. Its value stays the same.

    Example:
        >>> print(escape_json('{"csi": "\x9b31m"}'))
        {"csi": "\u009b31m"}
    """
    return text.translate(_JSON_ESCAPES)
