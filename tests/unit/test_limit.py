"""`max_seq_length=`: a model reads fewer tokens, or more where the manifest says that its graph can."""

import pickle

import numpy as np
import pytest

import embedder
from embedder.artifact.positions import NO_LIMIT, positions
from embedder.cli.main import main
from embedder.errors import InputError
from tests.tiny import expected, ids_of

LONG = "the cat sat on the mat " * 9


@pytest.fixture
def wide(make_artifact):
    """An artifact that cuts texts at 16 tokens. Its graph can read 40."""
    return make_artifact(extra={"positions": 40})


@pytest.mark.parametrize("limit", [3, 16, 17, 40])
def test_texts_are_cut_at_the_limit(wide, limit):
    model = embedder.Embedder(wide, max_seq_length=limit)
    assert model.max_seq_length == limit
    assert f"max_seq_length={limit}," in repr(model)
    np.testing.assert_allclose(model.encode(LONG), expected(ids_of(LONG, limit)), atol=1e-6)
    assert model.tokenize(LONG)["input_ids"].tolist() == [ids_of(LONG, limit)]


def test_a_pickled_model_keeps_its_limit(wide):
    model = pickle.loads(pickle.dumps(embedder.Embedder(wide, max_seq_length=40)))
    np.testing.assert_allclose(model.encode(LONG), expected(ids_of(LONG, 40)), atol=1e-6)


def test_a_limit_that_the_graph_cannot_read_is_refused(wide):
    with pytest.raises(InputError) as raised:
        embedder.Embedder(wide, max_seq_length=1041)
    assert str(raised.value) == (
        "max_seq_length should be at most 40 for this model, not 1,041. To read all of a longer text, cut it into "
        "chunks: model.chunks(text)"
    )


@pytest.mark.parametrize(
    "extra", [{}, {"positions": 15}, {"positions": "40"}, {"positions": True}, {"positions": 2**40}]
)
def test_without_a_plausible_number_in_the_manifest_the_limit_can_only_be_smaller(make_artifact, extra):
    path = make_artifact(extra=extra)
    assert positions(embedder.Embedder(path, max_seq_length=16).manifest) == 16
    with pytest.raises(InputError, match="should be at most 16 for this model, not 17"):
        embedder.Embedder(path, max_seq_length=17)


def test_the_hint_for_an_artifact_that_does_not_know(tiny):
    with pytest.raises(InputError, match=r"does not say whether the graph can read more\. Export the model again"):
        embedder.Embedder(tiny, max_seq_length=17)


def test_a_limit_that_leaves_no_room_is_refused(tiny):
    with pytest.raises(InputError, match="max_seq_length should be at least 3, not 2: the model adds 2 special tokens"):
        embedder.Embedder(tiny, max_seq_length=2)


def test_a_graph_without_positions_has_no_limit(make_artifact):
    model = embedder.Embedder(make_artifact(extra={"positions": NO_LIMIT}), max_seq_length=1000)
    np.testing.assert_allclose(model.encode(LONG), expected(ids_of(LONG, 1000)), atol=1e-6)


def test_info_says_what_the_graph_can_read(wide, capsys):
    assert main(["info", str(wide)]) == 0
    assert "max_seq_length  16 tokens; the graph can read 40\n" in capsys.readouterr().out
