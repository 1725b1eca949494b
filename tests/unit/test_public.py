import inspect

import pytest

import embedder

EVERY_ERROR = [
    embedder.ModelNotFoundError,
    embedder.ArtifactError,
    embedder.FormatError,
    embedder.InputError,
    embedder.ImageError,
    embedder.ProviderError,
    embedder.DependencyError,
]


def test_public_names():
    assert sorted(embedder.__all__) == [
        "ArtifactError",
        "DependencyError",
        "Embedder",
        "EmbedderError",
        "EncodeOptions",
        "FormatError",
        "ImageError",
        "InputError",
        "ModelNotFoundError",
        "ProviderError",
        "__version__",
        "encode",
    ]


def test_embedder_has_these_and_no_more():
    public = {name for name in dir(embedder.Embedder) if not name.startswith("_")}
    assert public == {
        "dimension",
        "encode",
        "encode_document",
        "encode_iter",
        "encode_query",
        "max_seq_length",
        "modalities",
        "prompts",
        "similarity",
        "tokenize",
    }


def test_every_option_of_encode_is_in_encode_options():
    for method in (embedder.Embedder.encode, embedder.Embedder.encode_iter):
        options = set(inspect.signature(method).parameters) - {"self", "inputs", "errors"}
        assert options == set(embedder.EncodeOptions.__annotations__)


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_error_is_an_embedder_error_and_in_the_drawing(error):
    assert issubclass(error, embedder.EmbedderError)
    assert error.__name__ in inspect.getmodule(error).__doc__
