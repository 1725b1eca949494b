"""The models of a server, by name."""

import pytest

from embedder import InputError
from embedder.serve.errors import RequestRefused
from embedder.serve.models import ServedModel, ServedModels


def served(*names):
    return ServedModels(tuple(ServedModel(name, None, None) for name in names))


def test_models_are_found_by_their_name_or_the_end_of_it():
    models = served("BAAI/bge-small-en-v1.5", "all-MiniLM-L6-v2", "a/twin", "b/twin")
    assert models.get(None).name == models.default.name == "BAAI/bge-small-en-v1.5"
    assert models.get("bge-small-en-v1.5").name == "BAAI/bge-small-en-v1.5"
    assert models.get("sentence-transformers/all-MiniLM-L6-v2").name == "all-MiniLM-L6-v2"
    assert models.get("b/twin").name == "b/twin"


@pytest.mark.parametrize("name", ["gpt", "twin", "c/twin", "", "x" * 1000])
def test_other_names_are_refused_with_the_names_that_there_are(name):
    models = served("a/twin", "b/twin")
    with pytest.raises(RequestRefused, match=r"is served here\. The models are a/twin, b/twin") as refusal:
        models.get(name)
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (404, "model_not_found", "model")
    assert len(str(refusal.value)) < 200


def test_no_model_and_two_of_the_same_name_are_errors():
    with pytest.raises(InputError, match="there is no model to serve"):
        served()
    with pytest.raises(InputError, match="two models have the name 'a'"):
        served("a", "a")
