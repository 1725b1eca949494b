"""Output of the commands. Results go to standard output, messages go to standard error."""

from __future__ import annotations

import io
import os
import sys


def say(message: str) -> None:
    """Print a message on standard error. It is dropped if standard error is closed."""
    if sys.stderr is not None:
        print(f"embedder: {message}", file=sys.stderr)


def warn_of_image(path: str, reason: str) -> None:
    """Print why an image is left out. If the reason has a shortened path, the whole path is printed before it."""
    say(f"warning: {reason}" if path in reason else f"warning: {path}: {reason}")


def is_watched() -> bool:
    """Return whether standard error is a terminal. Progress is shown only there."""
    return sys.stderr is not None and sys.stderr.isatty()


def escape_unprintable_output() -> None:
    """From now on, print escapes for characters that standard output cannot encode.

    Prompts and paths may contain such characters.
    """
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
