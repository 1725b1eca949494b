"""The kinds of lists that `encode` accepts, and the kinds that it refuses by name."""

import fileinput
import io
import tempfile
from array import array
from collections import OrderedDict, UserDict, deque
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from embedder.encoder import Embedder
from embedder.errors import InputError
from embedder.inputs import ImageItem, InputKinds, check_inputs, check_list, is_single, type_name
from tests.tiny import expected, ids_of, write_tiny_artifact

IMAGES = InputKinds(images=True)
TEXTS = ["the cat", "", "a dog sat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Embedder(write_tiny_artifact(tmp_path_factory.mktemp("model") / "tiny"))


class Text(str):
    """A subclass of str, as some libraries have."""

    __slots__ = ()


class Frame:
    """Like a DataFrame of pandas or polars, or a table of `datasets`: iteration gives the names of the columns."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return len(self.columns)


class Table(Frame):
    """Like a table of pyarrow."""

    column_names = property(lambda self: ["text"])


class Series:
    """Like a Series of pandas: each label is an attribute, and labels may be any words."""

    def __init__(self, values, labels=()):
        self.values = values
        for label, value in zip(labels, values, strict=False):
            setattr(self, label, value)

    def __iter__(self):
        return iter(self.values)


class Sequence:
    """A sequence without `__iter__`."""

    def __getitem__(self, index):
        return TEXTS[index]


class ArrowArray:
    """Like an array of pyarrow: iteration gives scalars of pyarrow."""

    def __init__(self, values):
        self.values = values

    def __iter__(self):
        return map(object, ())

    def to_pylist(self):
        return self.values


ArrowArray.__module__ = "pyarrow.lib"

ACCEPTED = [
    TEXTS,
    tuple(TEXTS),
    deque(TEXTS),
    iter(TEXTS),
    (text for text in TEXTS),
    map(str, TEXTS),
    {1: TEXTS[0], 2: TEXTS[1], 3: TEXTS[2]}.values(),
    np.array(TEXTS),
    np.array(TEXTS, object),
    [Text(text) for text in TEXTS],
    Series(TEXTS),
    Series(TEXTS, ["columns", "read", "column_names"]),
    Sequence(),
    ArrowArray(TEXTS),
]


def lines_of_files():
    """An open file without the method `read`."""
    with fileinput.input() as files:
        return files


def headers():
    """A mapping that is not a `Mapping`. Iteration gives the names of the headers."""
    message = Message()
    message["Subject"] = "a text"
    return message


COLUMN = r'\. Give one of its columns, such as table\["text"\]$'
VALUES = r"\. Give its values as a list, such as list\(texts\.values\(\)\)$"
ORDER = r", which has no order\. Give a list, such as sorted\(texts\)$"
DECODE = r"\. Decode it first, such as data\.decode\(\)$"
READ = r"\. Read it first, such as file\.read\(\)\.splitlines\(\)$"
REFUSED = [
    (Frame(), r"\w+\.?Frame" + COLUMN),
    (Table(), r"\w+\.?Table" + COLUMN),
    ({"a": "b"}, "dict" + VALUES),
    (OrderedDict(a="b"), "collections.OrderedDict" + VALUES),
    (UserDict(a="b"), "collections.UserDict" + VALUES),
    (headers(), "email.Message" + VALUES),
    ({"a"}, "set" + ORDER),
    (frozenset("a"), "frozenset" + ORDER),
    ({"a": 1}.keys(), "dict_keys" + ORDER),
    ({"a": 1}.items(), "dict_items" + ORDER),
    (b"abc", "bytes" + DECODE),
    (bytearray(b"abc"), "bytearray" + DECODE),
    (memoryview(b"abc"), "memoryview" + DECODE),
    (io.StringIO("a\nb"), "_io.StringIO" + READ),
    (io.BytesIO(b"a\nb"), "_io.BytesIO" + READ),
    (lines_of_files(), "fileinput.FileInput" + READ),
    (array("u", "cat"), "array.array$"),
    (None, "NoneType$"),
    (3, "int$"),
    (2.5, "float$"),
    (True, "bool$"),
    (object(), "object$"),
    (str, "type$"),
    (len, "builtin_function_or_method$"),
    (Path("cat.txt"), "pathlib.PosixPath$"),
    (np.array("a"), r"numpy\.ndarray without a dimension\. Give texts\.item\(\)$"),
    (np.array(None), r"numpy\.ndarray without a dimension\. Give texts\.item\(\)$"),
]
BAD_ITEMS = [
    ([*"ab", None], 2, "NoneType: None"),
    ([*"ab", 3], 2, "int: 3"),
    ([*"ab", float("nan")], 2, "float: nan"),
    ([*"ab", b"x"], 2, "bytes: b'x'; this model takes no images"),
    ([["a", "b"]], 0, r"list: \['a', 'b'\]"),
    ([("a", "b")], 0, "tuple"),
    ([{"text": "a"}], 0, "dict"),
    (np.array([["a", "b"], ["c", "d"]]), 0, "ndarray"),
    (np.array([["a"]], object), 0, "ndarray"),
    (np.array([1.5, 2.5]), 0, "float64"),
    (np.zeros((2, 2, 3), np.uint8), 0, "ndarray"),
    (np.array([b"a"]), 0, "bytes_"),
    (range(3), 0, "int: 0"),
    ((number for number in range(3)), 0, "int: 0"),
    (Series(["a", float("nan")]), 1, "float: nan"),
    (ArrowArray(["a", None]), 1, "NoneType"),
    ({"a": 1}.values(), 0, "int: 1"),
    ([Path("cat.png")], 0, "PosixPath: .*; this model takes no images"),
]


@pytest.mark.parametrize("texts", ACCEPTED, ids=lambda texts: type(texts).__name__)
def test_lists_of_texts(model, texts):
    found = model.encode(texts)
    np.testing.assert_allclose(found, [expected(ids_of(text)) for text in TEXTS], atol=1e-6)


@pytest.mark.parametrize("text", ["the cat", Text("the cat"), np.str_("the cat")])
def test_one_text(model, text):
    np.testing.assert_allclose(model.encode(text), expected(ids_of("the cat")), atol=1e-6)


@pytest.mark.parametrize(("bad", "message"), REFUSED, ids=lambda value: type(value).__name__)
def test_inputs_that_are_not_a_list_are_refused_by_name(model, bad, message):
    for call in (
        *(model.encode, model.encode_query, model.encode_document, model.encode_readable),
        *(model.encode_iter, model.iter_results, model.tokenize),
    ):
        with pytest.raises(InputError, match="^texts should be a string or a list of strings, not " + message):
            call(bad)


@pytest.mark.parametrize(("bad", "index", "message"), BAD_ITEMS)
def test_an_input_that_is_not_a_text_is_named_with_its_index(model, bad, index, message):
    with pytest.raises(InputError, match=rf"^texts\[{index}\] should be a string, not {message}"):
        model.encode(bad)


def test_open_files_of_every_kind_are_refused(model, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a\nb\n")
    with path.open() as text, path.open("rb") as binary, tempfile.NamedTemporaryFile("w+") as named:
        for file in (text, binary, named):
            with pytest.raises(InputError, match="not " + type_name(file) + READ):
                model.encode(file)


def test_a_value_with_a_repr_that_raises(model):
    class Broken:
        def __repr__(self):
            raise RuntimeError("no")

    with pytest.raises(InputError, match=r"texts\[0\] should be a string, not Broken: <Broken>"):
        model.encode([Broken()])
    with pytest.raises(InputError, match="batch_size should be a whole number, at least 1, not <Broken>"):
        model.encode(["a"], batch_size=Broken())


def test_lists_of_inputs_with_images():
    assert check_list("cat.png", IMAGES) == ["cat.png"]
    image = np.zeros((2, 2, 3), np.uint8)
    for single in (image, b"data", Path("cat.png"), io.BytesIO()):
        assert is_single(single, IMAGES)
        assert check_list(single, IMAGES) == [ImageItem(single)]
        assert [type(item) for item in check_list([single, "cat"], IMAGES)] == [ImageItem, str]
    assert not is_single(np.zeros((4, 2, 2, 3), np.uint8), IMAGES)
    assert len(check_list(np.zeros((4, 2, 2, 3), np.uint8), IMAGES)) == 4
    for bad in (None, 3, {"a": 1}, {"a"}, Frame()):
        with pytest.raises(InputError, match=r"^inputs should be a string, an image or a list of them, not "):
            check_list(bad, IMAGES)
    with pytest.raises(InputError, match=r"^inputs\[1\] should be a string or an image, not int: 3$"):
        check_list(["a", 3], IMAGES)
    assert check_list(Series(["a", "b"], ["read", "columns"]), IMAGES) == ["a", "b"]


def test_items_are_checked_when_their_turn_comes():
    stream = check_inputs(iter(["a", 3]), InputKinds())
    assert next(stream) == "a"
    with pytest.raises(InputError, match=r"texts\[1\]"):
        next(stream)


def test_containers_of_pandas(model):
    pandas = pytest.importorskip("pandas")
    wanted = model.encode(TEXTS)
    frame = pandas.DataFrame({"text": TEXTS})
    for texts in (
        *(frame["text"], frame["text"].astype("string"), frame["text"].astype("category"), pandas.Index(TEXTS)),
        pandas.Series(TEXTS, index=["columns", "read", "column_names"]),
    ):
        np.testing.assert_array_equal(model.encode(texts), wanted)
    for bad in (frame, frame[[]], pandas.DataFrame({"columns": TEXTS})):
        with pytest.raises(InputError, match=r"not pandas\.DataFrame" + COLUMN):
            model.encode(bad)
    for missing in (None, float("nan"), pandas.NA, pandas.NaT):
        with pytest.raises(InputError, match=r"^texts\[1\] should be a string, not "):
            model.encode(pandas.Series(["a", missing], dtype=object))


def test_containers_of_polars(model):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"text": TEXTS})
    np.testing.assert_array_equal(model.encode(frame["text"]), model.encode(TEXTS))
    for bad in (frame, frame.lazy()):
        with pytest.raises(InputError, match=r"not polars\.\w*Frame" + COLUMN):
            model.encode(bad)
    with pytest.raises(InputError, match=r"^texts\[1\] should be a string, not NoneType"):
        model.encode(polars.Series(["a", None]))


def test_containers_of_pyarrow(model):
    pyarrow = pytest.importorskip("pyarrow")
    wanted = model.encode(TEXTS)
    for texts in (pyarrow.array(TEXTS), pyarrow.chunked_array([TEXTS[:1], TEXTS[1:]])):
        np.testing.assert_array_equal(model.encode(texts), wanted)
    table = pyarrow.table({"text": TEXTS})
    np.testing.assert_array_equal(model.encode(table["text"]), wanted)
    for bad in (table, table.to_batches()[0]):
        with pytest.raises(InputError, match=r"^texts should be .* not pyarrow\.\w+" + COLUMN):
            model.encode(bad)
    for texts in (pyarrow.array(["a", None]), pyarrow.chunked_array([["a"], [None]])):
        with pytest.raises(InputError, match=r"^texts\[1\] should be a string, not NoneType"):
            model.encode(texts)
    with pytest.raises(InputError, match=r"not pyarrow\.StringScalar"):
        model.encode(pyarrow.scalar("a"))
