"""The models of a server, by name."""

from types import SimpleNamespace

import pytest

from embedder import InputError
from embedder.serve.errors import RequestRefused
from embedder.serve.models import ServedCrossEncoder, ServedEmbedder, ServedModels


def served(*names, **sources):
    """Serve models. `sources` has what a model was made from, where that is not its name."""
    return ServedModels(
        tuple(ServedEmbedder(name, made_from(sources.get(name.replace("-", "_"), name)), None) for name in names)
    )


def made_from(source):
    return SimpleNamespace(manifest=SimpleNamespace(source=SimpleNamespace(model=source)))


def test_models_are_found_by_their_name_or_the_end_of_it():
    models = served("BAAI/bge-small-en-v1.5", "all-MiniLM-L6-v2", "a/twin", "b/twin")
    assert models.get(None).name == models.embedder(None).name == "BAAI/bge-small-en-v1.5"
    assert models.get("bge-small-en-v1.5").name == "BAAI/bge-small-en-v1.5"
    assert models.get("b/twin").name == "b/twin"


@pytest.mark.parametrize(
    ("source", "full"),
    [
        ("sentence-transformers/minilm-l6", "sentence-transformers/minilm-l6"),
        ("BAAI/minilm-l6", "BAAI/minilm-l6"),
        ("minilm-l6", "sentence-transformers/minilm-l6"),  # made from a directory, or named without an organisation
    ],
)
def test_model_with_a_short_name_has_its_name_on_the_hub_and_no_other(source, full):
    models = served("minilm-l6", "other", minilm_l6=source)
    assert models.get("minilm-l6").name == models.get(full).name == "minilm-l6"
    for wrong in ("nobody/minilm-l6", f"x/{full}", "/minilm-l6", f"{full}/minilm-l6", "minilm-l6/", full.upper()):
        with pytest.raises(RequestRefused, match="The models are minilm-l6, other"):
            models.get(wrong)


def test_name_of_the_checkpoint_does_not_reach_a_model_that_has_another_name():
    with pytest.raises(RequestRefused, match="The models are tuned"):
        served("tuned", tuned="BAAI/base").get("BAAI/base")


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


def cross_encoder(name, labels=1):
    model = made_from(name)
    model.label_count = labels
    return ServedCrossEncoder(name, model, None)


def test_a_route_takes_the_first_model_of_its_kind():
    models = ServedModels((cross_encoder("nli", 3), cross_encoder("org/ranker"), *served("a", "b").models))
    assert models.get(None) is models.cross_encoder(None) is models.cross_encoder("nli")
    assert models.reranker(None) is models.reranker("ranker", must_name=True) is models.reranker(None, must_name=True)
    assert models.reranker(None).name == models.cross_encoder("org/ranker").name == "org/ranker"
    assert models.embedder(None).name == "a"


def test_model_of_another_kind_is_refused_with_those_that_fit():
    models = ServedModels((cross_encoder("nli", 3), *served("a", "b").models))
    for ask, message in (
        (
            lambda: models.embedder("nli"),
            "this route needs an embedding model, and nli is none. Those served here: a, b",
        ),
        (lambda: models.cross_encoder("a"), "this route needs a cross-encoder, and a is none. Those served here: nli"),
        (lambda: models.reranker("nli"), "this route needs a reranker, and nli is none. None is served here"),
        (lambda: models.reranker(None), "this route needs a reranker. None is served here"),
    ):
        with pytest.raises(RequestRefused) as refusal:
            ask()
        assert str(refusal.value) == message
        assert (refusal.value.status, refusal.value.code) == (400, "wrong_kind_of_model")
    with pytest.raises(RequestRefused, match=r'"model" is missing\. The models are a, b'):
        models.embedder(None, must_name=True)
    with pytest.raises(RequestRefused, match="no model 'x' is served here"):
        models.reranker("x")
