"""Output of the commands. Results go to standard output, messages go to standard error."""

from __future__ import annotations

import io
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from embedder.common.escapes import escape_line, escape_message
from embedder.common.json_lines import json_line

# The width of a line of output that goes to a pipe or a file, in columns.
_PIPE_COLUMNS = 100
# A text has at least this many columns in a line, however long the words before it are.
_MIN_TEXT_COLUMNS = 40
# A line shows less of a text than this. The rest of a long text is not looked at.
_MAX_CHARACTERS_READ = 10_000


def say(message: str) -> None:
    """Print a message on standard error. It is dropped if standard error is closed."""
    if sys.stderr is not None:
        print(f"embedder: {escape_message(message)}", file=sys.stderr)


def print_text(text: str) -> None:
    """Print a line that quotes an artifact. Control characters are shown as escapes, also in a pipe."""
    _escape_what_cannot_be_encoded()
    print(escape_line(text))


def print_path(text: str) -> None:
    """Print a line with the path of a file.

    On a terminal, control characters are shown as escapes, because a file's name can drive a terminal. In a pipe or a
    file the path stays as it is, so that other programs can open it. `ls` does the same.
    """
    _escape_what_cannot_be_encoded()
    print(escape_line(text) if _is_terminal() else text)


def print_json(fields: Mapping[str, Any]) -> None:
    """Print a line of JSON. Control characters are escapes in it, also in a pipe: the value stays the same."""
    _escape_what_cannot_be_encoded()
    print(json_line(fields))


def print_table(rows: Sequence[tuple[str, object, str]]) -> None:
    """Print rows of a number, a place and a text. The columns are aligned, and the text is cut to the rest of the line.

    Control characters are shown as escapes, also in a pipe: a text may come from a stranger.
    """
    _escape_what_cannot_be_encoded()
    shown = [(number, escape_line(str(place)), text) for number, place, text in rows]
    numbers, places = (max((len(row[column]) for row in shown), default=0) for column in (0, 1))
    text_columns = max(_MIN_TEXT_COLUMNS, _line_columns() - numbers - places - 4)
    for number, place, text in shown:
        print(f"{number:>{numbers}}  {place:<{places}}  {shorten(text, text_columns)}".rstrip())


def shorten(text: str, columns: int) -> str:
    r"""Return `text` on one line that fits `columns` columns of a terminal.

    White space becomes single spaces. Control characters become escapes. An ellipsis stands for what is cut off.

    Example:
        >>> shorten("one two\nthree", 9)
        'one two …'
    """
    line = escape_line(" ".join(text[:_MAX_CHARACTERS_READ].split()))
    used = 0
    for end, character in enumerate(line):
        used += _columns_of(character)
        if used > columns:
            return line[: end - 1] + "…"
    return line + "…" if len(text) > _MAX_CHARACTERS_READ else line


def _columns_of(character: str) -> int:
    """Return how many columns of a terminal a character takes. A Chinese character takes two, an accent none."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _line_columns() -> int:
    """Return the width of the terminal in columns. Output that nobody watches has a fixed width."""
    watched = _is_terminal()
    return shutil.get_terminal_size().columns if watched else _PIPE_COLUMNS


def warn_of_image(path: str, reason: str) -> None:
    """Print why an image is left out. If the reason has a shortened path, the whole path is printed before it."""
    say(f"warning: {reason}" if path in reason else f"warning: {path}: {reason}")


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _escape_what_cannot_be_encoded() -> None:
    """From now on, print escapes for characters that standard output cannot encode."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Send what was printed to the reader. Nothing happens if standard output is closed."""
    if sys.stdout is not None:
        sys.stdout.flush()


def discard_output() -> None:
    """If standard output cannot be written, send the rest of it to the null device.

    Otherwise Python would fail at exit, when it flushes standard output.
    """
    try:
        flush_output()
    except OSError:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
