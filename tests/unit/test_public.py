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
    embedder.WorkerError,
]


def test_public_names():
    assert sorted(embedder.__all__) == [
        "ArtifactError",
        "DependencyError",
        "Embedder",
        "EmbedderError",
        "EncodeOptions",
        "EncoderPool",
        "FaissIndex",
        "FormatError",
        "ImageError",
        "InputError",
        "ModelNotFoundError",
        "ProviderError",
        "UsearchIndex",
        "VectorIndex",
        "WorkerError",
        "__version__",
        "bitext_mining",
        "community_detection",
        "cos_sim",
        "dot_score",
        "encode",
        "encode_multi_process",
        "euclidean_sim",
        "manhattan_sim",
        "mine_hard_negatives",
        "normalize_embeddings",
        "pairwise_cos_sim",
        "pairwise_dot_score",
        "pairwise_euclidean_sim",
        "pairwise_manhattan_sim",
        "paraphrase_mining",
        "paraphrase_mining_embeddings",
        "quantize_embeddings",
        "semantic_search",
        "semantic_search_quantized",
        "start_multi_process_pool",
        "stop_multi_process_pool",
        "truncate_embeddings",
    ]


def test_every_name_is_there():
    assert all(hasattr(embedder, name) for name in embedder.__all__)
    assert set(embedder.__all__) <= set(dir(embedder))
    with pytest.raises(AttributeError, match="module 'embedder' has no attribute 'decode'"):
        embedder.decode  # noqa: B018


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
