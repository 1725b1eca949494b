"""The public names, the signatures in `help()`, and the tree of errors."""

import inspect
import pydoc
from dataclasses import fields

import pytest

import embedder

EVERY_ERROR = [
    embedder.ModelNotFoundError,
    embedder.ArtifactError,
    embedder.ConflictError,
    embedder.FormatError,
    embedder.InputError,
    embedder.ImageError,
    embedder.ProviderError,
    embedder.DeviceMemoryError,
    embedder.SettingError,
    embedder.DependencyError,
    embedder.WorkerError,
]


def test_public_names():
    assert sorted(embedder.__all__) == [
        "ArtifactError",
        "BatchLimits",
        "Chunk",
        "ConflictError",
        "CrossEncoder",
        "CutTextWarning",
        "DependencyError",
        "DeviceMemoryError",
        "Embedder",
        "EmbedderError",
        "EncodeOptions",
        "EncodeResult",
        "EncodeSettings",
        "EncoderPool",
        "FaissIndex",
        "FormatError",
        "ImageError",
        "IndexEntry",
        "InputError",
        "ModelNotFoundError",
        "MultiVectorEncoder",
        "MultiVectorOptions",
        "PredictOptions",
        "ProviderError",
        "RankedDocument",
        "SettingError",
        "SparseEncoder",
        "SparseIndex",
        "SparseOptions",
        "SparseVectors",
        "Token",
        "TokenizedText",
        "UsearchIndex",
        "VectorIndex",
        "WorkerError",
        "__version__",
        "bitext_mining",
        "community_detection",
        "cos_sim",
        "dot_score",
        "encode",
        "encode_to_file",
        "euclidean_sim",
        "manhattan_sim",
        "maxsim",
        "maxsim_pairwise",
        "mine_hard_negatives",
        "normalize_embeddings",
        "pairwise_cos_sim",
        "pairwise_dot_score",
        "pairwise_euclidean_sim",
        "pairwise_manhattan_sim",
        "paraphrase_mining",
        "paraphrase_mining_embeddings",
        "quantize_embeddings",
        "release_models",
        "semantic_search",
        "semantic_search_quantized",
        "sparse_cos_sim",
        "sparse_dot_score",
        "truncate_embeddings",
    ]


def test_every_name_is_there():
    assert all(hasattr(embedder, name) for name in embedder.__all__)
    assert set(embedder.__all__) <= set(dir(embedder))
    with pytest.raises(AttributeError, match="module 'embedder' has no attribute 'decode'"):
        embedder.decode  # noqa: B018


def test_embedder_has_these_public_names_and_no_others():
    public = {name for name in dir(embedder.Embedder) if not name.startswith("_")}
    assert public == {
        "batch_limits",
        "chunks",
        "close",
        "count_tokens",
        "device",
        "digest",
        "dimension",
        "dtype",
        "encode",
        "encode_batch",
        "encode_document",
        "encode_iter",
        "encode_query",
        "encode_readable",
        "from_token_ids",
        "iter_results",
        "manifest",
        "match_probabilities",
        "max_seq_length",
        "modalities",
        "prompts",
        "similarity",
        "similarity_fn_name",
        "tokenize",
        "tokenize_texts",
        "tokens",
        "truncate_dim",
    }


def test_cross_encoder_has_these_public_names_and_no_others():
    public = {name for name in dir(embedder.CrossEncoder) if not name.startswith("_")}
    assert public == {
        "activation_fn",
        "batch_limits",
        "close",
        "device",
        "digest",
        "dtype",
        "label_count",
        "label_names",
        "manifest",
        "max_seq_length",
        "predict",
        "predict_batch",
        "predict_iter",
        "rank",
        "tokenize_pairs",
    }


def test_multi_vector_encoder_has_these_public_names_and_no_others():
    public = {name for name in dir(embedder.MultiVectorEncoder) if not name.startswith("_")}
    assert public == {
        "batch_limits",
        "close",
        "device",
        "digest",
        "dimension",
        "document_length",
        "dtype",
        "encode",
        "encode_document",
        "encode_query",
        "manifest",
        "max_seq_length",
        "prompts",
        "query_length",
        "rank",
        "similarity",
        "similarity_fn_name",
        "similarity_pairwise",
    }


def test_settings_have_every_option_of_encode_and_errors():
    names = {field.name for field in fields(embedder.EncodeSettings)}
    assert names == {*embedder.EncodeOptions.__annotations__, "errors"}


def public_callables():
    for name in embedder.__all__:
        value = getattr(embedder, name)
        if inspect.isclass(value):
            for attribute, member in inspect.getmembers(value, inspect.isroutine):
                if not attribute.startswith("_") and (inspect.getmodule(member) or embedder).__name__.startswith(
                    "embedder"
                ):
                    yield f"{name}.{attribute}", member
        elif callable(value):
            yield name, value


@pytest.mark.parametrize(("name", "function"), list(public_callables()))
def test_help_shows_short_names_of_types(name, function):
    signature = pydoc.render_doc(function, renderer=pydoc.plaintext).partition("\n\n")[2].partition("\n    ")[0]
    assert "numpy." not in signature, signature
    assert len(signature) < 700, signature


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_error_is_an_embedder_error_and_in_the_tree_of_the_docstring(error):
    assert issubclass(error, embedder.EmbedderError)
    assert error.__name__ in inspect.getmodule(error).__doc__
