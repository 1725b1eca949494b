"""What a zip is built for: a version of Python, and an architecture."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass

from deploy.aws_lambda.builder.errors import BuildError

# Lambda's names of the architectures, and those of Linux.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
_MIN_PYTHON = (3, 11)
# Up to this version, Lambda's own runtimes are Amazon Linux 2. Later ones are Amazon Linux 2023.
_LAST_ON_AMAZON_LINUX_2 = (3, 11)
# The versions of glibc there. A wheel for manylinux_2_28 needs glibc 2.28 or later.
_GLIBC_2, _GLIBC_2023 = (2, 26), (2, 34)
_OLDEST_GLIBC = (2, 17)
_ASK = "import json, sys; print(json.dumps([sys.implementation.name, *sys.version_info[:2]]))"


@dataclass(frozen=True)
class Target:
    """What a zip is built for.

    Attributes:
        python: the path or the name of an interpreter of the right version on this machine.
        version: major and minor version of Python.
        architecture: "x86_64" or "arm64".

    Example:
        >>> Target("python3.13", (3, 13), "arm64").runtime
        'python3.13'
    """

    python: str
    version: tuple[int, int]
    architecture: str

    @property
    def runtime(self) -> str:
        """Lambda's name of the runtime."""
        return f"python{self.version[0]}.{self.version[1]}"

    @property
    def glibc(self) -> tuple[int, int]:
        """The version of glibc in Lambda's own runtime."""
        return _GLIBC_2 if self.version <= _LAST_ON_AMAZON_LINUX_2 else _GLIBC_2023

    @property
    def runs_here(self) -> bool:
        """Whether this machine can run what is built."""
        return sys.platform == "linux" and platform.machine() == MACHINES[self.architecture]

    @property
    def platforms(self) -> list[str]:
        """The platforms of wheels, in pip's words, that fit Amazon Linux 2023."""
        machine = MACHINES[self.architecture]
        versions = range(_GLIBC_2023[1], _OLDEST_GLIBC[1] - 1, -1)
        return [*(f"manylinux_2_{minor}_{machine}" for minor in versions), f"manylinux2014_{machine}"]


def choose_target(python: str, architecture: str | None) -> Target:
    """Return the target for the interpreter `python`.

    Args:
        python: path or name of an interpreter. The zip is for its version.
        architecture: "x86_64" or "arm64"; None takes that of this machine.

    Raises:
        BuildError: there is no such interpreter or architecture, or the interpreter is too old.

    Example:
        >>> choose_target("python3", "arm64").architecture
        'arm64'
    """
    if architecture is None:
        architecture = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    if architecture not in MACHINES:
        raise BuildError(f"Lambda has no architecture {architecture!r}. Set ARCH to one of: {', '.join(MACHINES)}")
    try:
        answer = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{python!r} is no Python ({error}). Set PYTHON to one, such as python3.13") from error
    implementation, major, minor = json.loads(answer)
    if implementation != "cpython" or (major, minor) < _MIN_PYTHON:
        raise BuildError(
            f"{python!r} is {implementation} {major}.{minor}. embedder needs CPython {_MIN_PYTHON[0]}.{_MIN_PYTHON[1]} "
            "or later. Set PYTHON to one, such as python3.13"
        )
    return Target(python, (major, minor), architecture)
