"""The items that can be added to an index or searched for, and those that are refused."""

import logging
from array import array
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import embedder
from embedder import VectorIndex
from embedder.errors import InputError, SettingError
from tests.vectors import ids_of, random_vectors


class RecordingModel:
    """A model that gives each new input the next unit vector, and records its calls."""

    dimension = 8

    def __init__(self, name="tiny", dtype="fp32", weights="0" * 64):
        self.manifest = SimpleNamespace(source=SimpleNamespace(model=name, weights_sha256=weights))
        self.dtype = dtype
        self.calls = []
        self.known = []

    def _encode(self, inputs):
        self.known += [item for item in inputs if item not in self.known]
        return np.eye(8, dtype=np.float32)[[self.known.index(item) for item in inputs]]

    def encode_document(self, inputs, **options):
        self.calls.append(("document", inputs, options))
        return self._encode(inputs)

    def encode_query(self, inputs, **options):
        self.calls.append(("query", inputs, options))
        return self._encode(inputs)


class NotIterable:
    """Has the method `__iter__`, and refuses to iterate, as accessors of pandas do."""

    def __iter__(self):
        raise TypeError("not iterable")


def test_string_is_a_text_unless_read_paths_is_true():
    model = RecordingModel()
    index = VectorIndex(model=model)
    index.add("cat.png")
    index.add(["cat.png", "dog.png"], read_paths=True)
    index.search("cat.png")
    index.search(("cat.png",), read_paths=True)
    assert model.calls == [
        ("document", ["cat.png"], {}),
        ("document", ["cat.png", "dog.png"], {"read_paths": True}),
        ("query", ["cat.png"], {}),
        ("query", ["cat.png"], {"read_paths": True}),
    ]
    for wrong in (1, "yes", None):
        with pytest.raises(InputError, match="read_paths should be True or False"):
            index.add("cat.png", read_paths=wrong)


def test_a_model_that_returns_another_number_of_vectors():
    model = RecordingModel()
    model._encode = lambda inputs: np.eye(8, dtype=np.float32)[:1]
    index = VectorIndex(model=model)
    for call in (index.add, index.search):
        with pytest.raises(InputError, match="the model returned 1 vectors for 2 items"):
            call(["a", "b"])
    assert len(index) == 0


class Picture:
    """Behaves like a Pillow image: NumPy can read it, but it is not an array and cannot be iterated."""

    __array_interface__ = {"shape": (1, 1), "typestr": "|u1", "data": b"\0", "version": 3}  # noqa: RUF012


def test_images_go_to_the_model(tmp_path):
    model = RecordingModel()
    index = VectorIndex(model=model)
    path, picture = Path("cat.png"), Picture()
    index.add(path)
    index.add(picture)
    index.add([path, picture, "a text", b"\x89PNG"])
    with (tmp_path / "image").open("wb+") as stream:
        index.add(stream)
        assert [call[1] for call in model.calls] == [[path], [picture], [path, picture, "a text", b"\x89PNG"], [stream]]
    assert ids_of(index.search(path, 1)) == [[0]]
    assert ids_of(index.search([picture], 1)) == [[1]]


def test_arrays_of_numbers_are_vectors():
    model = RecordingModel()
    index = VectorIndex(model=model)
    index.add(np.eye(8, dtype=np.uint8)[:3])
    index.add([1.0] * 8)
    index.add([np.ones(8), np.zeros(8)])
    assert len(index) == 6
    assert model.calls == []
    image = np.zeros((4, 5, 3), np.uint8)
    for images in (np.stack([image, image]), [image], [image, image[:2]]):
        with pytest.raises(
            InputError, match=r"items\[0\] should be a vector, not an array of shape \(4, 5, 3\). To add"
        ):
            index.add(images)
    for nothing in ([], np.empty((0, 8)), np.array([], str), iter([])):
        assert len(index.add(nothing)) == 0
        assert index.search(nothing) == []


def test_pillow_image_goes_to_the_model():
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    model = RecordingModel()
    index = VectorIndex(model=model)
    picture = image.new("RGB", (2, 2))
    index.add(picture)
    index.add([picture])
    assert [call[1] for call in model.calls] == [[picture], [picture]]


def test_texts_in_any_sequence():
    for items in (["a", "b"], ("a", "b"), iter(["a", "b"]), np.array(["a", "b"]), np.array(["a", "b"], object)):
        model = RecordingModel()
        assert VectorIndex(model=model).add(items).tolist() == [0, 1]
        assert model.calls == [("document", ["a", "b"], {})]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"a": "text"}, r"items should be vectors or texts, not a dict: pass its values, as in list\(mapping.values"),
        ({"a", "b"}, "items should be vectors or texts, not a set: a set has no order; pass a list"),
        (frozenset("a"), "items should be vectors or texts, not a frozenset: a set has no order; pass a list"),
        ({"a": 1}.keys(), "items should be vectors or texts, not a dict_keys: a set has no order; pass a list"),
        (Message(), r"items should be vectors or texts, not a Message: pass its values, as in list\(mapping.values"),
        (array("u", "ab"), r"items should be vectors or texts, not a array: pass a string, as in items.tounicode\(\)"),
        (b"a text", r"not a bytes: decode it, as in data.decode\(\) for a text, or np.frombuffer\(data, np.float32\)"),
        (bytearray(8), "items should be vectors or texts, not a bytearray: "),
        (memoryview(b"12345678"), "items should be vectors or texts, not a memoryview: "),
    ],
)
def test_other_containers_are_refused_with_their_name(items, message):
    index = VectorIndex(model=RecordingModel())
    for call in (index.add, index.search):
        with pytest.raises(InputError, match=message):
            call(items)
    assert len(index) == 0
    with pytest.raises(InputError, match="embeddings should be an array of numbers, not a "):
        embedder.normalize_embeddings(items)


def test_tables_are_refused_with_their_name():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pandas.DataFrame({"vector": [np.ones(8), np.zeros(8)], "text": ["a", "b"]})
    model = RecordingModel()
    index = VectorIndex(model=model)
    for call in (index.add, index.search):
        with pytest.raises(InputError, match=r'not a DataFrame: pass one column, such as table\["vector"\]'):
            call(table)
    index.add(table["vector"])
    index.add(table["text"])
    assert len(index) == 4
    assert model.calls == [("document", ["a", "b"], {})]


def test_a_table_of_a_subclass_is_refused():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")

    class Measurements(pandas.DataFrame):
        pass

    table = Measurements(np.ones((3, 8)))
    for call in (VectorIndex(8).add, VectorIndex(8).search, embedder.normalize_embeddings):
        with pytest.raises(InputError, match="not a Measurements: pass one column"):
            call(table)


@pytest.mark.parametrize("item", [None, len, NotIterable()], ids=lambda item: type(item).__name__)
def test_what_cannot_be_iterated_is_one_item(item):
    model = RecordingModel()
    VectorIndex(model=model).add(item)
    assert model.calls == [("document", [item], {})]


def test_a_column_of_ids():
    index = VectorIndex(8)
    assert index.add(np.ones((2, 8)), ids=np.array([7, 2**40], object)).tolist() == [7, 2**40]
    with pytest.raises(InputError, match=r"ids should be from -2\*\*63 to below 2\*\*63"):
        index.add(np.ones((2, 8)), ids=np.array([8, 2**70], object))
    with pytest.raises(InputError, match=r"ids\[1\] should be a whole number or a string, not True"):
        index.add(np.ones((2, 8)), ids=np.array([8, True], object))
    assert len(index) == 2


def test_attributes_are_read_only():
    index = VectorIndex(4)
    for name in ("dimension", "precision", "similarity"):
        with pytest.raises(SettingError, match=f"VectorIndex.{name} cannot be set: make another VectorIndex with the"):
            setattr(index, name, 3)
    with pytest.raises(SettingError, match=r"VectorIndex.ids cannot be set: use add, upsert and delete"):
        index.ids = [1]
    with pytest.raises(SettingError, match=r"VectorIndex.model cannot be set: save the index, and load it with Vector"):
        index.model = RecordingModel()
    with pytest.raises(SettingError, match=r"VectorIndex.metric does not exist, and cannot be set"):
        index.metric = "dot"
    index.add(random_vectors(1, 2, 4))
    index.ids[0] = 9  # this changes a copy
    assert index.ids.tolist() == [0, 1]


def test_another_dtype_of_the_same_weights_is_logged(tmp_path, caplog):
    VectorIndex(model=RecordingModel()).save(tmp_path / "index")
    caplog.set_level(logging.WARNING, "embedder")
    VectorIndex.load(tmp_path / "index", model=RecordingModel())
    VectorIndex.load(tmp_path / "index", model=RecordingModel(dtype=None))
    VectorIndex.load(tmp_path / "index")
    assert caplog.messages == []
    index = VectorIndex.load(tmp_path / "index", model=RecordingModel(dtype="int8"))
    assert caplog.messages == [
        f"The vectors of {tmp_path / 'index'} were made with dtype fp32, but this model runs in int8. Their cosines "
        "differ slightly. To get the same vectors, use Embedder(..., dtype='fp32')"
    ]
    index.save(tmp_path / "again")
    caplog.clear()
    VectorIndex.load(tmp_path / "again", model=RecordingModel())
    assert caplog.messages == []


@pytest.mark.parametrize("other", [RecordingModel(name="other"), RecordingModel(weights="1" * 64)])
def test_another_model_is_refused(other, tmp_path):
    VectorIndex(model=RecordingModel()).save(tmp_path / "index")
    with pytest.raises(
        InputError, match=r"index were made by tiny, weights 0{16}\. They cannot be compared with those"
    ):
        VectorIndex.load(tmp_path / "index", model=other)


@pytest.mark.parametrize(
    ("name", "expected"), [("dot", "dot"), ("cosine", "cosine"), ("euclidean", "cosine"), ("manhattan", "cosine")]
)
def test_an_index_compares_by_the_function_of_its_model(name, expected):
    model = RecordingModel()
    model.similarity_fn_name = name
    assert VectorIndex(model=model).similarity == expected
    assert VectorIndex(model=model, similarity="dot").similarity == "dot"
    assert VectorIndex(model=model, similarity="cosine").similarity == "cosine"


def test_an_index_of_vectors_compares_by_cosine():
    assert VectorIndex(3).similarity == "cosine"
