"""Turn the panics of Rust libraries into exceptions.

A panic is the failed assertion of a Rust library. In Python it is a `PanicException`, which derives from BaseException:
it passes every `except Exception`, and would end a thread or a program. The library also prints it on standard error.
"""

from __future__ import annotations

from types import TracebackType


class PanicError(RuntimeError):
    """A Rust library panicked."""


class panics_as_exceptions:  # noqa: N801  (a context manager, named as those of contextlib are)
    """Raise `PanicError` in the place of a panic in the body. All other exceptions pass, also KeyboardInterrupt.

    Example:
        >>> with panics_as_exceptions():
        ...     "the calls of a library"
        'the calls of a library'
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and _is_panic(error):
            raise PanicError(f"the library panicked: {error}") from error


def _is_panic(error: BaseException) -> bool:
    # Each Rust library makes a class of its own at its first panic. It cannot be imported.
    kind = type(error)
    return (kind.__module__, kind.__name__) == ("pyo3_runtime", "PanicException")
