"""What the tests of the builder of Lambda zips share: its targets, and small directories."""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.aws_lambda.builder.target import Target

ARCHITECTURES = ("arm64", "x86_64") if platform.machine() == "aarch64" else ("x86_64", "arm64")
HERE, OTHER = (Target(sys.executable, sys.version_info[:2], architecture) for architecture in ARCHITECTURES)


def write_files(directory: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files by their paths in `directory`, and return it."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def names_in(directory: Path) -> list[str]:
    """Return the paths of all files in `directory`."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
