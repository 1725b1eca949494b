"""What tests of pages share: the blocks of code on a page, how they are run, and how their output is compared."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
# Another CPU may round differently.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Block:
    """A block of code on a page, and the output that the page shows for it. Without output, `output` is empty."""

    page: Path
    language: str
    code: str
    output: str

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.code.splitlines()[0]}"


def code_blocks(page):
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for (language, code), (following, output) in zip(found, [*found, ("", "")][1:], strict=True):
        if language == "console":
            for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                yield Block(page, language, command, output)
        else:
            yield Block(page, language, code, output if following == "text" else "")


def hard_link(source, target):
    """Copy a file by a hard link. No command changes these files in place."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def output_of(command, **options):
    """Run a command, check that it succeeds, and return its output."""
    answer = subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, **options)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stdout


def assert_same(printed, shown):
    """Check that the texts are equal, and that their numbers are nearly equal."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown)
    found, expected = ([float(number) for number in NUMBER.findall(text)] for text in (printed, shown))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
