"""`MultiVectorEncoder`: a vector for each token, whatever the other texts, and what it refuses."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from embedder import CrossEncoder, CutTextWarning, Embedder, MultiVectorEncoder
from embedder.artifact.multi_vector import QueryExpansion
from embedder.errors import ArtifactError, EmbedderError, InputError
from tests.tiny import MULTI_VECTOR, VOCABULARY, expected_tokens, ids_of, write_tiny_multi_vector

TEXTS = ["the cat", "", "a dog , sat on the mat !", "query : document", "long " * 40, "é 字", "...", "the cat"]
SKIPPED = {VOCABULARY[word] for word in "!,."}
UNKNOWN = VOCABULARY["[UNK]"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny_multi_vector(tmp_path_factory.mktemp("tiny") / "tokens")


@pytest.fixture(scope="module")
def model(path):
    return MultiVectorEncoder(path, threads=2)


def expected_query(text, length=8):
    ids = ids_of(f"query : {text}", length)
    return expected_tokens(ids + [UNKNOWN] * (length - len(ids)), len(ids))


def expected_document(text, prompt="document : ", limit=12):
    ids = ids_of(prompt + text, limit)
    return expected_tokens(ids)[[token not in SKIPPED for token in ids]]


def assert_same(ours, theirs, tolerance=1e-6):
    assert [len(vectors) for vectors in ours] == [len(vectors) for vectors in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def test_queries_are_filled_up(model):
    assert_same(model.encode_query(TEXTS), [expected_query(text) for text in TEXTS])
    assert_same([model.encode_query(TEXTS[0])], [expected_query(TEXTS[0])])


def test_documents_leave_out_punctuation(model):
    assert_same(model.encode_document(TEXTS), [expected_document(text) for text in TEXTS])
    assert_same(model.encode(TEXTS, task="document", prompt=""), [expected_document(text, "") for text in TEXTS])


def test_texts_without_a_task_are_long_documents(model):
    assert model.max_seq_length == 16
    assert_same(model.encode(TEXTS), [expected_document(text, "", 16) for text in TEXTS])


def test_expansion_that_is_attended_to(tmp_path):
    expansion = QueryExpansion(10, VOCABULARY["a"], is_attended=True)
    settings = replace(MULTI_VECTOR, query_length=14, expansion=expansion, skipped_in=("query",), skipped_first=1)
    model = MultiVectorEncoder(write_tiny_multi_vector(tmp_path / "tokens", multi_vector=settings))
    for text in TEXTS:
        ids = ids_of(f"query : {text}", 14)
        ids += [VOCABULARY["a"]] * (10 - len(ids))
        kept = [token not in SKIPPED and place > 0 for place, token in enumerate(ids)]
        assert_same([model.encode_query(text)], [expected_tokens(ids)[kept]])
    assert_same(model.encode_document(["! ."]), [expected_tokens(ids_of("document : ! ."))[1:]])


def test_long_queries_run_alone(tmp_path):
    """The graph may compute attention in another way if a long text has no padding."""
    settings = replace(MULTI_VECTOR, query_length=200, expansion=QueryExpansion(200, UNKNOWN, is_attended=False))
    path = write_tiny_multi_vector(tmp_path / "tokens", multi_vector=settings)
    with MultiVectorEncoder(path, provider="cpu") as model:
        assert_same(model.encode_query(TEXTS), [expected_query(text, 200) for text in TEXTS])


def test_vectors_do_not_depend_on_their_batch(model):
    for encode in (model.encode_query, model.encode_document, model.encode):
        together = encode(TEXTS * 30)
        assert_same(together, encode(TEXTS * 30, batch_size=3))
        assert_same(together[: len(TEXTS)], [encode(text) for text in TEXTS])


def test_copies_of_a_text_have_arrays_of_their_own(model):
    first, *_, last = model.encode_document(TEXTS)
    first[:] = 0
    assert last.any()


def test_many_threads(model):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.encode_query, TEXTS * 5))
    assert_same(found, [expected_query(text) for text in TEXTS * 5])


def test_other_inputs_and_options(model):
    assert model.encode_query([]) == []
    assert_same(model.encode_query(iter(TEXTS)), model.encode_query(np.array(TEXTS)), 0)
    scaled = model.encode_document("a cat", normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)
    assert_same([model.encode_document("a cat", prompt_name="query")], [expected_document("a cat", "query : ")])


def test_a_warning_for_texts_that_are_cut(model):
    with pytest.warns(CutTextWarning, match=r"cut after 12 tokens: 1 of 8 texts, the first is texts\[4\]"):
        model.encode_document(TEXTS, warn_if_cut=True)
    with pytest.warns(CutTextWarning, match=r"cut after 8 tokens: 1 of 2 texts, the first is texts\[1\]"):
        model.encode_query(["a", "a b c d e f"], warn_if_cut=True)
    with pytest.warns(CutTextWarning, match=r"cut after 16 tokens: 1 of 1 texts"):
        model.encode("long " * 40, warn_if_cut=True)


def test_document_length(path):
    with MultiVectorEncoder(path, document_length=6) as model:
        assert (model.document_length, model.query_length) == (6, 8)
        assert_same(model.encode_document(TEXTS), [expected_document(text, limit=6) for text in TEXTS])
        assert model.digest != MultiVectorEncoder(path).digest or model.max_seq_length == 16
    with pytest.raises(InputError, match="document_length should be at least 3, not 2: the model adds 2 special"):
        MultiVectorEncoder(path, document_length=2)
    with pytest.raises(InputError, match="document_length should be at most 16 for this model, not 17"):
        MultiVectorEncoder(path, document_length=17)
    with pytest.raises(InputError, match="document_length should be a whole number"):
        MultiVectorEncoder(path, document_length=0)


def test_scores_and_ranking(model):
    query, documents = model.encode_query("the cat"), model.encode_document(TEXTS)
    expected = [(query @ vectors.T).max(axis=1).sum() for vectors in documents]
    np.testing.assert_allclose(model.similarity(query, documents), [expected], rtol=1e-6)
    pairs = model.similarity_pairwise([query] * len(TEXTS), documents)
    np.testing.assert_allclose(pairs, expected, rtol=1e-6)
    ranked = model.rank("the cat", TEXTS, top_k=3, return_documents=True)
    best = np.argsort(-np.array(expected), kind="stable")[:3]
    assert [found["corpus_id"] for found in ranked] == best.tolist()
    assert [found["text"] for found in ranked] == [TEXTS[row] for row in best]
    assert model.rank("the cat", []) == []


def test_pickle_and_copies(path, model):
    with MultiVectorEncoder(path, document_length=6) as short:
        again = pickle.loads(pickle.dumps(short))
        assert again.document_length == 6
        assert_same(again.encode_document(TEXTS), short.encode_document(TEXTS), 0)
    assert_same(copy.deepcopy(model).encode_query(TEXTS), model.encode_query(TEXTS), 0)


def test_description(model):
    assert repr(model) == (
        "MultiVectorEncoder('tiny-multi-vector', dimension=8, query_length=8, document_length=12, dtype='fp32', "
        "provider='cpu')"
    )
    assert (model.dimension, model.similarity_fn_name) == (8, "maxsim")
    assert model.prompts == {"query": "query : ", "document": "document : "}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode([1]), r"texts\[0\] should be a string, not int: 1"),
        (lambda model: model.encode(None), "texts should be a string or a list of strings, not NoneType"),
        (lambda model: model.encode("a", task="passage"), "task should be one of query, document, not 'passage'"),
        (lambda model: model.encode_query("a", task="query"), "encode_query has no option 'task': call encode_query"),
        (lambda model: model.encode_query("a", token_pooling=2), "encode_query has no option 'token_pooling'"),
        (lambda model: model.encode_document("a", truncate_dim=4), "encode_document has no option 'truncate_dim'"),
        (lambda model: model.encode_query("a", prompt_name="none"), "unknown prompt_name 'none'"),
        (lambda model: model.encode_query("a", batch_size=0), "batch_size should be a whole number"),
        (lambda model: model.rank("a", ["b"], prompt="c"), "rank takes no prompt: the query and the documents have"),
        (lambda model: model.rank("a", ["b"], top_k=0), "top_k should be a whole number"),
        (lambda model: model.rank("a", ["b"], is_query=True), "rank has no option 'is_query': call encode_query"),
        (lambda model: model.rank("a", "b"), "documents should be a list of strings, not str"),
    ],
)
def test_refused_calls(model, call, message):
    with pytest.raises(InputError, match=message):
        call(model)


def test_refused_options_and_assignments(path, model, tiny):
    with pytest.raises(InputError, match="MultiVectorEncoder has no option 'truncate_dim': leave it out"):
        MultiVectorEncoder(path, truncate_dim=4)
    with pytest.raises(InputError, match="MultiVectorEncoder has no option 'batch_size': pass it to encode_query"):
        MultiVectorEncoder(path, batch_size=4)
    with pytest.raises(AttributeError, match=r"document_length.* pass document_length= to MultiVectorEncoder"):
        model.document_length = 3
    with pytest.raises(ArtifactError, match=r"is for the task 'embed'\. MultiVectorEncoder needs a model for"):
        MultiVectorEncoder(tiny)
    for kind in (Embedder, CrossEncoder):
        with pytest.raises(ArtifactError, match=r"for the task 'multi_vector'\..* Use embedder\.MultiVectorEncoder"):
            kind(path)


def test_a_closed_model(path):
    with MultiVectorEncoder(path) as model:
        pass
    with pytest.raises(EmbedderError, match="the model has been closed"):
        model.encode_query("a")
