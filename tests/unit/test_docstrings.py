"""The examples in the runtime's docstrings give what they show.

The example of a method goes on from the example of its class. Examples that need a real model are marked
`# doctest: +SKIP`, and are only compiled.
"""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import embedder
from embedder.errors import DependencyError

ROOT = Path(embedder.__file__).parent


class Model:
    """Stands for the model in the example of `paraphrase_mining`."""

    def encode(self, sentences):
        assert len(sentences) == 3
        return np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], np.float32)


def module_names():
    for path in sorted(ROOT.rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", list(module_names()))
def test_examples(name, tmp_path, monkeypatch):
    for library in ("faiss", "usearch"):
        if name.endswith(f"{library}_index"):
            pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"embedder": embedder, "np": np, "Path": Path, "model": Model()}
    try:
        module = importlib.import_module(name)
    except DependencyError as error:  # an integration, whose framework is not here
        pytest.skip(str(error))
    found = doctest.DocTestFinder().find(module, extraglobs=names)
    examples = {each.name: each.examples for each in found}
    assert any(examples.values())
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    output = []
    for each in found:
        for example in each.examples:
            compile(example.source, each.name, "single")
        if each.examples:
            each.examples = [*examples.get(each.name.rpartition(".")[0], []), *each.examples]
        runner.run(each, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
