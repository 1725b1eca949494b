"""Put the tables of a benchmark into a page. They are between two marks, which are comments."""

from __future__ import annotations


def with_tables(page: str, tables: str, marks: tuple[str, str]) -> str:
    """Return `page` with `tables` between its two marks.

    Example:
        >>> with_tables("a <!-- x --> old <!-- /x --> b", "new", ("<!-- x -->", "<!-- /x -->"))
        'a <!-- x -->\\n\\nnew\\n\\n<!-- /x --> b'
    """
    first, last = marks
    before, after = page.split(first)[0], page.split(last)[1]
    return f"{before}{first}\n\n{tables}\n\n{last}{after}"
