"""Install the packages that a function needs, for the target and not for this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from deploy.aws_lambda.builder.errors import BuildError
from deploy.aws_lambda.builder.target import Target

# Their own requirements are not installed. A function that loads a model from a directory imports none of them.
PACKAGES = ("numpy", "onnxruntime", "tokenizers")
_RUNTIME = "embedder"
_GLIBC_TAG = re.compile(r"^Tag: .*manylinux_2_(\d+)_", re.MULTILINE)
_MAX_LINES_SHOWN = 5


def install_packages(target: Target, checkout: Path, directory: Path) -> None:
    """Install the packages, and embedder from `checkout`, into `directory`.

    Their versions are those of this environment, because prepacked weights are for one version of onnxruntime.

    Raises:
        BuildError: pip fails, for example because a package has no wheel for the target.
    """
    requirements = [f"{name}=={version(name)}" for name in PACKAGES]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary=:all:"]
    wanted = ["--implementation", "cp", "--python-version", ".".join(map(str, target.version))]
    for platform in target.platforms:
        wanted += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "install", *options, *wanted, "--target", str(directory), *requirements]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = [line for line in answer.stderr.splitlines() if not line.startswith("WARNING")]
        raise BuildError(
            f"pip cannot install {', '.join(requirements)} for {target.runtime} on {target.architecture}:\n"
            + "\n".join(lines[-_MAX_LINES_SHOWN:])
        )
    shutil.copytree(checkout / _RUNTIME, directory / _RUNTIME, ignore=shutil.ignore_patterns("__pycache__"))


def needed_glibc(directory: Path) -> tuple[int, int]:
    """Return the version of glibc that the packages in `directory` need.

    Example:
        >>> needed_glibc(Path("build"))  # doctest: +SKIP
        (2, 28)
    """
    tags = [_GLIBC_TAG.findall(path.read_text(encoding="utf-8")) for path in directory.glob("*.dist-info/WHEEL")]
    return 2, max((min(map(int, found)) for found in tags if found), default=0)
