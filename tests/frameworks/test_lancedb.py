"""An embedding function in LanceDB."""

import numpy as np
import pytest

TEXTS = ["the cat sat", "a dog", "long words"]


@pytest.fixture
def make_table(lancedb, tmp_path):
    """A function that makes a table with a column of texts and the vectors of `function`."""
    from lancedb import connect
    from lancedb.pydantic import LanceModel, Vector

    def make(function):
        class Note(LanceModel):
            text: str | None = function.SourceField()
            vector: Vector(function.ndims()) = function.VectorField(default=None)

        return connect(tmp_path / "lance").create_table("notes", schema=Note)

    return make


def test_example_on_the_page(lancedb, check_page):
    check_page("lancedb")


def test_vectors_are_those_of_encode(lancedb, prompted, model):
    function = lancedb.EmbedderFunction.create(name=str(prompted))
    assert function.ndims() == 8
    np.testing.assert_array_equal(function.compute_source_embeddings(TEXTS), model.encode_document(TEXTS))
    np.testing.assert_array_equal(function.compute_query_embeddings("cat"), model.encode_query(["cat"]))


def test_table_is_searched_and_opened_again_with_its_options(lancedb, prompted, model, make_table, tmp_path):
    from lancedb import connect
    from lancedb.embeddings import get_registry

    function = (
        get_registry()
        .get("embedder")
        .create(
            name=str(prompted), query_prompt="a ", model_kwargs={"truncate_dim": 6}, encode_kwargs={"truncate_dim": 4}
        )
    )
    assert function.ndims() == 4
    table = make_table(function)
    table.add([{"text": text} for text in TEXTS])
    vectors = model.encode_document(TEXTS, truncate_dim=4)
    np.testing.assert_array_equal(table.to_arrow()["vector"].to_pylist(), vectors)
    distances = ((vectors - model.encode("dog", prompt="a ", truncate_dim=4)) ** 2).sum(axis=1)
    for opened in (table, connect(tmp_path / "lance").open_table("notes")):
        found = opened.search("dog").limit(3).to_list()
        assert [row["text"] for row in found] == [TEXTS[row] for row in np.argsort(distances)]
        np.testing.assert_allclose([row["_distance"] for row in found], sorted(distances), atol=1e-5)
        (config,) = opened.embedding_functions.values()
        assert config.function.safe_model_dump() == function.safe_model_dump()


def test_row_without_a_text_has_no_vector(lancedb, prompted, model, make_table):
    table = make_table(lancedb.EmbedderFunction.create(name=str(prompted)))
    table.add([{"text": "cat"}, {"text": None}], on_bad_vectors="null")
    first, second = table.to_arrow()["vector"].to_pylist()
    np.testing.assert_array_equal(first, model.encode_document("cat"))
    assert second is None


def test_error_comes_at_once_and_is_not_retried(lancedb, prompted):
    function = lancedb.EmbedderFunction.create(name=str(prompted))
    with pytest.raises(Exception, match=r"Maximum number of retries \(0\) exceeded"):
        function.compute_source_embeddings_with_retry([3])
