"""Say how many there are."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural if it needs one.

    Example:
        >>> counted(1, "text"), counted(2000, "text")
        ('1 text', '2,000 texts')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
