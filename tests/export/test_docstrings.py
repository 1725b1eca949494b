"""The examples in the exporter's docstrings give what they show.

Examples that need a real checkpoint are marked `# doctest: +SKIP`. They are only compiled.
"""

import doctest
import importlib
from pathlib import Path

import embedder_export
import numpy as np
import pytest

ROOT = Path(embedder_export.__file__).parent


def names_of_modules_with_examples():
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(names_of_modules_with_examples()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    for found in doctest.DocTestFinder().find(module):
        for example in found.examples:
            compile(example.source, found.name, "single")
    names = {"np": np, "Path": Path}
    assert doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
