"""Output of the commands. Results go to standard output, messages go to standard error."""

from __future__ import annotations

import io
import os
import sys

from embedder.common.escapes import escape_line, escape_message


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
    print(escape_line(text) if sys.stdout is not None and sys.stdout.isatty() else text)


def warn_of_image(path: str, reason: str) -> None:
    """Print why an image is left out. If the reason has a shortened path, the whole path is printed before it."""
    say(f"warning: {reason}" if path in reason else f"warning: {path}: {reason}")


def _escape_what_cannot_be_encoded() -> None:
    """From now on, print escapes for characters that standard output cannot encode."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """If standard output cannot be written, send the rest of it to the null device.

    Otherwise Python would fail at exit, when it flushes standard output.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
