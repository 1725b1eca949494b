"""What the integrations share: the model with its options, its prompts, its copies, and what they refuse.

tests/frameworks tests the integrations with the frameworks themselves.
"""

import copy
import importlib
import json
import pickle
import sys

import numpy as np
import pytest

import embedder
from embedder.errors import DependencyError, InputError
from embedder.integrations.text_backend import TextBackend
from embedder.integrations.text_model import TextModel
from tests.tiny import add_int8_graph, expected, ids_of

PROMPTS = {"query": "query: ", "document": "document: "}
# The package that each module needs, and what pip installs.
FRAMEWORKS = {
    "bertopic": ("bertopic", "bertopic"),
    "chroma": ("chromadb", "chromadb"),
    "haystack": ("haystack", "haystack-ai"),
    "keybert": ("keybert", "keybert"),
    "lancedb": ("lancedb", "lancedb"),
    "langchain": ("langchain_core", "langchain-core"),
    "llama_index": ("llama_index", "llama-index-core"),
    "mteb": ("mteb", "mteb"),
    "ray": ("ray", r"ray\[data\]"),
    "spark": ("pyspark", "pyspark"),
}


@pytest.fixture(autouse=True)
def _no_models_afterwards():
    yield
    embedder.release_models()


@pytest.fixture
def prompted(make_artifact):
    return make_artifact("prompted", prompts=PROMPTS)


def assert_vectors(found, *texts):
    np.testing.assert_allclose(found, [expected(ids_of(text)) for text in texts], atol=1e-6)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_missing_framework_is_named(name, monkeypatch):
    package, distribution = FRAMEWORKS[name]
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"embedder.integrations.{name}", raising=False)
    message = (
        rf'embedder.integrations.{name} needs {package}, which is not installed. Run: pip install "{distribution}"'
    )
    with pytest.raises(DependencyError, match=message):
        importlib.import_module(f"embedder.integrations.{name}")


def test_queries_and_documents_have_the_prompts_of_the_model(prompted):
    model = TextModel(prompted)
    assert_vectors(model.encode_queries(["cat"]), "query: cat")
    assert_vectors(model.encode_documents(["cat", "dog"]), "document: cat", "document: dog")
    assert_vectors([model.embed_query("cat")], "query: cat")
    assert_vectors(model.embed_documents(iter(["cat"])), "document: cat")


def test_prompts_that_are_given_replace_those_of_the_model(prompted):
    model = TextModel(prompted, query_prompt="a ", document_prompt="")
    assert_vectors(model.encode_queries(["cat"]), "a cat")
    assert_vectors(model.encode_documents(["cat"]), "cat")


def test_no_text_gives_no_vector(tiny):
    assert TextModel(tiny).encode_documents([]).shape == (0, 8)
    assert TextModel(tiny).embed_documents([]) == []


def test_objects_with_equal_options_share_a_loaded_model(tiny):
    assert TextModel(tiny).embedder is TextModel(tiny, query_prompt="a").embedder
    assert TextModel(tiny).embedder is not TextModel(tiny, model_kwargs={"truncate_dim": 4}).embedder


def test_loaded_model_is_used_and_its_options_are_kept(tiny):
    add_int8_graph(tiny)
    loaded = embedder.Embedder(tiny, dtype="int8", truncate_dim=4)
    model = TextModel(loaded, encode_kwargs={"truncate_dim": 2})
    assert model.embedder is loaded
    assert model.name == str(tiny)
    assert model.model_kwargs == {"dtype": "int8", "truncate_dim": 4}
    copied = pickle.loads(pickle.dumps(model))
    assert copied.embedder.dtype == "int8"
    np.testing.assert_array_equal(copied.embed_query("cat"), loaded.encode("cat", truncate_dim=2))


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_every_option(prompted, copier):
    options = {
        "query_prompt": "a ",
        "document_prompt": "b ",
        "model_kwargs": {"truncate_dim": 4, "local_files_only": True},
        "encode_kwargs": {"normalize_embeddings": True},
    }
    model = TextModel(prompted, **options)
    copied = copier(model)
    assert (copied.name, copied.options()) == (str(prompted), options)
    assert copied.embed_query("cat") == model.embed_query("cat")
    assert TextModel(copied.name, **json.loads(json.dumps(copied.options()))).options() == options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_kwargs": {"graph": "int8"}}, "model_kwargs cannot have 'graph': known are provider, dtype"),
        ({"model_kwargs": {"device": "cpu"}}, "model_kwargs cannot have 'device': pass provider= instead"),
        ({"model_kwargs": {"token": "hf_secret"}}, "cannot have 'token': the framework would save it"),
        ({"model_kwargs": {"backend": object()}}, "cannot have 'backend': the framework saves the options"),
        ({"model_kwargs": {"threads": 0}}, "threads should be a whole number"),
        ({"model_kwargs": {"threads": np.int64(2)}}, "model_kwargs should hold values that JSON can hold"),
        ({"model_kwargs": ["cpu"]}, "model_kwargs should be a dict of options, not"),
        ({"encode_kwargs": {"precision": "int8"}}, "cannot have 'precision': frameworks take float32 vectors"),
        ({"encode_kwargs": {"read_paths": True}}, "cannot have 'read_paths': frameworks pass texts"),
        ({"encode_kwargs": {"prompt": "query: "}}, "cannot have 'prompt': give the prompts to the constructor"),
        ({"encode_kwargs": {"prompt_name": "query"}}, "cannot have 'prompt_name': give the text of the prompt"),
        ({"encode_kwargs": {"convert_to_tensor": True}}, "encode has no option 'convert_to_tensor'"),
        ({"query_prompt": 3}, "prompt should be a string"),
        ({"model": 3}, "model should be a name, a path or an Embedder, not 3"),
    ],
)
def test_wrong_options_are_refused_before_a_model_is_loaded(options, message):
    with pytest.raises(InputError, match=message) as refused:
        TextModel(**options)
    assert "hf_secret" not in str(refused.value)


def test_options_of_a_loaded_model_are_refused(tiny):
    with pytest.raises(InputError, match="model_kwargs has no effect on a loaded model"):
        TextModel(embedder.Embedder(tiny), model_kwargs={"threads": 1})


def test_single_text_in_the_place_of_a_list_is_refused(tiny):
    with pytest.raises(InputError, match="a list of texts is needed here, not the single text 'cat'"):
        TextModel(tiny).embed_documents("cat")


def test_text_that_is_no_string_is_refused(tiny):
    with pytest.raises(InputError, match="3"):
        TextModel(tiny).embed_query(3)


def test_backend_encodes_lists_as_encode_does(prompted, capsys):
    backend = TextBackend(prompted, prompt="a ", truncate_dim=4)
    vectors = backend.embed(np.array(["cat", "dog"]), verbose=True)
    assert "Encoding" in capsys.readouterr().err
    np.testing.assert_array_equal(vectors, backend.embedding_model.encode(["cat", "dog"], prompt="a ", truncate_dim=4))
    assert backend.embedding_model is TextBackend(prompted).embedding_model
    loaded = embedder.Embedder(prompted)
    assert TextBackend(loaded).embedding_model is loaded
    assert pickle.loads(pickle.dumps(backend)).embed(["cat"]).shape == (1, 4)
    with pytest.raises(InputError, match="encode has no option 'device'"):
        TextBackend(prompted, device="cpu")
