"""Turn the panics of Rust libraries into exceptions.

A panic is the failed assertion of a Rust library. In Python it is a `PanicException`, which derives from BaseException:
it passes every `except Exception`, and would end a thread or a program. The library also prints it on standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class PanicError(RuntimeError):
    """A Rust library panicked."""


@contextmanager
def panics_as_exceptions() -> Iterator[None]:
    """Raise `PanicError` in the place of a panic in the body. All other exceptions pass, also KeyboardInterrupt.

    Example:
        >>> with panics_as_exceptions():
        ...     "the calls of a library"
        'the calls of a library'
    """
    try:
        yield
    except BaseException as error:
        if _is_panic(error):
            raise PanicError(f"the library panicked: {error}") from error
        raise


def _is_panic(error: BaseException) -> bool:
    # Each Rust library makes a class of its own at its first panic. It cannot be imported.
    kind = type(error)
    return (kind.__module__, kind.__name__) == ("pyo3_runtime", "PanicException")
