"""The examples in the docstrings of vectors functions give what they say."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import embedder
import embedder.vectors


class Model:
    """Stands for the model in the example of `paraphrase_mining`."""

    def encode(self, sentences):
        assert len(sentences) == 3
        return np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]], np.float32)


MODULES = [module.name for module in pkgutil.walk_packages(embedder.vectors.__path__, "embedder.vectors.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """The examples of methods go on from the one of their class, so only functions and classes are run."""
    module = importlib.import_module(name)
    if name.endswith("adapters"):
        pytest.importorskip("faiss", reason="faiss is not installed")
        pytest.importorskip("usearch", reason="usearch is not installed")
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder().find(module, extraglobs={"np": np, "model": Model()}):
        if test.name.removeprefix(name).count(".") == 1:
            runner.run(test)
    assert runner.summarize().failed == 0
