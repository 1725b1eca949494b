"""What the commands say: results on standard output, messages on standard error."""

from __future__ import annotations

import io
import os
import sys


def say(message: str) -> None:
    """Print a line for the user on standard error, if there is one."""
    if sys.stderr is not None:
        print(f"embedder: {message}", file=sys.stderr)


def warn_of_image(path: str, reason: str) -> None:
    """Print why an image is left out. The reason may hold a shortened path, so the whole one is added then."""
    say(f"warning: {reason}" if path in reason else f"warning: {path}: {reason}")


def is_watched() -> bool:
    """Tell whether a person sees standard error. Only then is progress shown."""
    return sys.stderr is not None and sys.stderr.isatty()


def escape_unprintable_output() -> None:
    """Print what standard output cannot encode as escapes. Prompts and paths may hold such characters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Send the rest of standard output to nowhere if it takes no more. Python would fail at exit when it flushes it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
