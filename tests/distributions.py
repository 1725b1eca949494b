"""The two distributions: their names, their extras, and the commands that install them."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# The directory of each distribution, and its package there.
DIRECTORIES = {"embedder-onnx": ROOT, "embedder-export": ROOT / "export"}
PACKAGES = {"embedder-onnx": "embedder", "embedder-export": "embedder_export"}
# tests/end_to_end/test_dist.py runs these.
INSTALLS = ('pip install "embedder-onnx[cpu]"', 'pip install "embedder-onnx[cpu,export]"')


def project(name: str) -> dict[str, Any]:
    """Return the table `project` of a distribution's pyproject.toml."""
    text = (DIRECTORIES[name] / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def version(name: str) -> str:
    """Return the version of a distribution."""
    module = DIRECTORIES[name] / PACKAGES[name] / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"$', module.read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]
