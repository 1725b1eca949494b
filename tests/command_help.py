"""The help of every command, as docs/command-line.md shows it. Write it there after a change: `make command-help`."""

import contextlib
import io
import os
import re
from pathlib import Path
from unittest import mock

from embedder.cli.main import main

PAGE = Path(__file__).parents[1] / "docs/command-line.md"
MARKERS = ("<!-- help -->\n", "<!-- /help -->\n")


def help_of(*command: str) -> str:
    """Return what `embedder COMMAND --help` prints on a terminal of 80 columns."""
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    return printed.getvalue()


def command_names() -> list[str]:
    """Return the names of all commands, in the order of `embedder --help`."""
    return re.findall(r"^    ([\w-]+)", help_of(), re.MULTILINE)


def with_help(page: str) -> str:
    """Return the page with the help of this version between its markers."""
    before, _, rest = page.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    sections = [f"### embedder {name}\n\n```text\n{help_of(name)}```\n" for name in command_names()]
    return "".join([before, MARKERS[0], "\n", "\n".join(sections), "\n", MARKERS[1], after])


if __name__ == "__main__":
    PAGE.write_text(with_help(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
