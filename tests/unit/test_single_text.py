"""One text goes a shorter way through the engine than many. The result is the same, bit for bit."""

import numpy as np
import pytest

import embedder
from embedder.backends.cpu import CpuDevice
from embedder.errors import ArtifactError
from tests.tiny import add_image_graph, add_int8_graph

TEXTS = ["the cat sat on the mat", "", "a " * 1000, np.str_("dog"), "é 字"]


class OneArray:
    """A backend that writes into its inputs, and gives one array that it fills anew in each call."""

    def __init__(self, value=1.0):
        self.device, self.value = CpuDevice(2), value
        self.array = np.zeros((1, 8), np.float32)

    def run(self, feeds, *, single_batch=False):
        assert single_batch
        self.array[:] = feeds["attention_mask"].sum() * self.value
        for array in feeds.values():
            array[:] = 0
        return {"embedding": self.array}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "query : "},
        {"prompt_name": "document"},
        {"truncate_dim": 3, "normalize_embeddings": True},
        {"precision": "ubinary"},
        {"batch_size": 1},
    ],
)
@pytest.mark.parametrize("kind", ["fp32", "int8", "with images", "prompt not pooled"])
def test_the_vector_is_that_of_a_stream(make_artifact, kind, options):
    tiny = make_artifact(include_prompt=kind != "prompt not pooled", prompts={"document": "document : "})
    if kind == "int8":
        add_int8_graph(tiny)
    if kind == "with images":
        add_image_graph(tiny)
    model = embedder.Embedder(tiny, dtype="auto")
    for text in TEXTS:
        (expected,) = model.encode_iter([text], **options)
        for found in (model.encode([text], **options), model.encode(text, **options)[np.newaxis]):
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.tobytes() == expected.tobytes()
            assert found.flags.writeable


def test_no_window_and_no_plan(tiny, monkeypatch):
    model = embedder.Embedder(tiny)
    expected = model.encode(["cat", "dog"])[0]
    for step in ("embedder.engine.engine.windows", "embedder.engine.text_side.plan_batches"):
        monkeypatch.delattr(step)
    np.testing.assert_array_equal(model.encode("cat"), expected)
    np.testing.assert_array_equal(model.encode(["cat"]), [expected])


def test_the_vector_is_the_callers_own(tiny):
    """A backend may keep the array that it gives, and may write into its inputs."""
    model = embedder.Embedder(tiny, backend=OneArray())
    vectors = [model.encode(text) for text in ("cat", "the cat", "cat")]
    assert [vector[0] for vector in vectors] == [3, 4, 3]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_are_checked(tiny, value):
    with pytest.raises(ArtifactError, match=r"NaN or infinity for input 0 \(counted from 0\)"):
        embedder.Embedder(tiny, backend=OneArray(value)).encode("cat")


def test_the_shape_is_checked(tiny):
    backend = OneArray()
    backend.array = np.zeros((1, 7), np.float32)
    with pytest.raises(ArtifactError, match=r"the output 'embedding' as float32 \(1, 7\)"):
        embedder.Embedder(tiny, backend=backend).encode("cat")


def test_progress_is_shown(tiny, capsys):
    embedder.Embedder(tiny).encode("cat", show_progress_bar=True)
    assert "1/1" in capsys.readouterr().err
