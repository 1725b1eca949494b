"""The examples in the runtime's docstrings give what they show.

Each example stands for itself. Those that need a real model, or what another example made, are marked
`# doctest: +SKIP`. They are only compiled.
"""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import embedder

ROOT = Path(embedder.__file__).parent


def module_names():
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(module_names()))
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"embedder": embedder, "np": np, "Path": Path}
    examples = doctest.DocTestFinder().find(importlib.import_module(name), extraglobs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    for each in examples:
        for example in each.examples:
            compile(example.source, each.name, "single")
        runner.run(each, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert sum(len(each.examples) for each in examples) > 0
