"""Check the inputs of `encode` once, and tell texts, pairs and images apart. Each error names the input at fault."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import IO, TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from embedder.common.checks import check_text, shown
from embedder.common.containers import is_file, is_mapping, is_table
from embedder.common.records import frozen
from embedder.errors import InputError
from embedder.images.sources import is_image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Image: TypeAlias = Union[os.PathLike[str], bytes, bytearray, memoryview, IO[bytes], "PillowImage", "NDArray[np.uint8]"]
Input: TypeAlias = str | Image
Inputs: TypeAlias = Input | Iterable[Input]


@frozen
class ImageItem:
    """An image among the inputs: the caller's own object, not yet read.

    Example:
        >>> ImageItem(b"...").source
        b'...'
    """

    source: Any


@frozen
class Pair:
    """Two texts that the model reads together, such as a query and a document.

    Example:
        >>> Pair("a query", "a document").second
        'a document'
    """

    first: str
    second: str


@frozen
class TokenizedText:
    """A text or a pair of texts as the model reads it, for programs that make their own batches.

    `Embedder.tokenize_texts` makes texts, and `Embedder.encode_batch` encodes them. `CrossEncoder.tokenize_pairs` makes
    pairs, and `CrossEncoder.predict_batch` scores them. Two of them are equal only if they are the same object.

    Attributes:
        ids: the token ids, int64 (tokens,), with the prompt and special tokens, cut at the model's limit.
        type_ids: the token type ids, int64 (tokens,). None if the model takes none.
        prompt_token_count: number of tokens at the start that the pooling leaves out.
        cut: whether the text or the pair has more tokens, which the model does not read.

    Example:
        >>> len(TokenizedText(np.int64([101, 7592, 102])))
        3
    """

    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64] | None = None
    prompt_token_count: int = 0
    cut: bool = False

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self.ids)


@frozen
class Token:
    """A token of a text. `Embedder.tokens` lists them.

    Attributes:
        id: its id in the vocabulary.
        name: its name in the vocabulary, such as "##ing".
        start: index of its first character in the text. None for a special token that the tokenizer adds.
        end: index after its last character. None for a special token.

    Example:
        >>> Token(7592, "hello", 0, 5).name
        'hello'
    """

    id: int
    name: str
    start: int | None
    end: int | None


# A checked input. A string is a text.
Item: TypeAlias = str | Pair | ImageItem


@frozen
class InputKinds:
    """The kinds of input that a request accepts.

    Attributes:
        images: whether the model takes images.
        read_paths: whether a string that names an image file is an image.

    Example:
        >>> InputKinds().name, InputKinds(images=True).name
        ('texts', 'inputs')
    """

    images: bool = False
    read_paths: bool = False

    @property
    def name(self) -> str:
        """The word for all inputs in messages."""
        return "inputs" if self.images else "texts"

    @property
    def unit(self) -> str:
        """The word for one input in messages and progress bars."""
        return "input" if self.images else "text"


def is_single(inputs: object, kinds: InputKinds) -> bool:
    """Return whether `inputs` is one text or one image, not a list of them.

    Example:
        >>> is_single("a text", InputKinds()), is_single(["a text"], InputKinds())
        (True, False)
    """
    if isinstance(inputs, np.ndarray):  # an array of one or four dimensions holds many inputs
        return kinds.images and inputs.ndim in (2, 3) and inputs.dtype.kind not in "OSU"
    return isinstance(inputs, str) or (kinds.images and is_image(inputs))


def check_list(inputs: Any, kinds: InputKinds) -> list[Item]:
    """Return the checked `inputs` as a list. A single input becomes a list of one.

    Raises:
        InputError: as in `check_inputs`.

    Example:
        >>> check_list("a text", InputKinds())
        ['a text']
    """
    return [_check(0, inputs, kinds)] if is_single(inputs, kinds) else list(check_inputs(inputs, kinds))


def check_inputs(inputs: Any, kinds: InputKinds) -> Iterator[Item]:
    """Yield the checked `inputs` one by one.

    Raises:
        InputError: `inputs` is not a list of inputs. The call itself raises this, and the message names the type. Or an
            input is neither a text nor an image. The iterator raises this at that input, and the message has its index.

    Example:
        >>> list(check_inputs(("a", "b"), InputKinds()))
        ['a', 'b']
    """
    iterator = _iterator(inputs)
    if iterator is None:
        expected = "a string, an image or a list of them" if kinds.images else "a string or a list of strings"
        raise InputError(f"{kinds.name} should be {expected}, not {type_name(inputs)}{_hint(inputs)}")
    return (_check(index, item, kinds) for index, item in enumerate(iterator))


def is_pair(inputs: object) -> bool:
    """Return whether `inputs` is one pair of texts, not a list of pairs.

    Example:
        >>> is_pair(("a query", "a passage")), is_pair([("a query", "a passage")])
        (True, False)
    """
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1 and len(inputs) > 0 and all(isinstance(text, str) for text in inputs)
    return isinstance(inputs, list | tuple) and len(inputs) > 0 and all(isinstance(text, str) for text in inputs)


def check_pairs(pairs: Any) -> list[Pair]:
    """Return the checked `pairs` as a list. A single pair becomes a list of one.

    Raises:
        InputError: as in `each_pair`.

    Example:
        >>> check_pairs(("a query", "a passage"))
        [Pair(first='a query', second='a passage')]
    """
    return [_check_pair("pair", pairs)] if is_pair(pairs) else list(each_pair(pairs))


def each_pair(pairs: Any) -> Iterator[Pair]:
    """Yield the checked `pairs` one by one.

    Raises:
        InputError: `pairs` is not a list of pairs. The call itself raises this, and the message names the type. Or a
            pair is not two texts. The iterator raises this at that pair, and the message has its index.

    Example:
        >>> list(each_pair([["a query", "a passage"]]))
        [Pair(first='a query', second='a passage')]
    """
    iterator = _iterator(pairs)
    if iterator is None:
        hint = ". Give table[[first, second]].to_numpy()" if is_table(pairs) else ""
        raise InputError(f"pairs should be a pair of two strings or a list of pairs, not {type_name(pairs)}{hint}")
    return (_check_pair(f"pairs[{index}]", pair) for index, pair in enumerate(iterator))


def check_documents(query: Any, documents: Any) -> list[Pair]:
    """Return the pairs of a query with each document.

    Raises:
        InputError: the query or a document is not a text.

    Example:
        >>> check_documents("a query", ["a passage"])
        [Pair(first='a query', second='a passage')]
    """
    first = _checked_text("query", query)
    iterator = _iterator(documents)
    if iterator is None:
        raise InputError(f"documents should be a list of strings, not {type_name(documents)}{_hint(documents)}")
    return [Pair(first, _checked_text(f"documents[{index}]", text)) for index, text in enumerate(iterator)]


def _check_pair(name: str, pair: Any) -> Pair:
    if not isinstance(pair, Sequence | np.ndarray) or isinstance(pair, str | bytes) or len(pair) != 2:
        found = f"{len(pair)} of them" if isinstance(pair, list | tuple) else f"{type_name(pair)}: {shown(pair)}"
        raise InputError(f"{name} should be two strings, not {found}")
    return Pair(*(_checked_text(f"{name}[{side}]", text) for side, text in enumerate(pair)))


def _checked_text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{name} should be a string, not {type(text).__name__}: {shown(text)}")
    if not text.isascii():
        check_text(text, name)
    return str.__str__(text)  # a plain string: those of other types may compare in their own way


def _iterator(inputs: Any) -> Iterable[Any] | None:
    """Return an iterable of the inputs, or None if `inputs` is not a list of inputs."""
    # A caller never wants what these give: bytes give numbers, a mapping its keys, a table its column names, a file its
    # lines with line ends, a set its items in any order.
    if isinstance(inputs, str | bytes | bytearray | memoryview | Set):
        return None
    package = type(inputs).__module__.partition(".")[0]
    if is_table(inputs) or is_mapping(inputs) or is_file(inputs) or package == "array":
        return None
    if package == "pyarrow" and hasattr(inputs, "to_pylist"):
        return list(inputs.to_pylist())  # its own iterator gives scalars of pyarrow, not strings
    try:
        iterator: Iterator[Any] = iter(inputs)
    except TypeError:
        return None
    return iterator


def type_name(value: object) -> str:
    """Return the name of a value's type for messages, with its package unless it is built in.

    Example:
        >>> type_name(3), type_name(np.zeros(2))
        ('int', 'numpy.ndarray')
    """
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package in ("builtins", "__main__") else f"{package}.{kind.__name__}"


def _hint(inputs: object) -> str:
    if is_table(inputs):
        return '. Give one of its columns, such as table["text"]'
    if is_mapping(inputs):
        return ". Give its values as a list, such as list(texts.values())"
    if isinstance(inputs, Set):
        return ", which has no order. Give a list, such as sorted(texts)"
    if isinstance(inputs, bytes | bytearray | memoryview):
        return ". Decode it first, such as data.decode()"
    if is_file(inputs):
        return ". Read it first, such as file.read().splitlines()"
    if isinstance(inputs, np.ndarray):
        return " without a dimension. Give texts.item()"
    return ""


def _check(index: int, item: object, kinds: InputKinds) -> Item:
    if isinstance(item, str) and not (kinds.images and kinds.read_paths and is_image(item, read_paths=True)):
        if not item.isascii():
            check_text(item, f"{kinds.name}[{index}]")
        return item
    if kinds.images and is_image(item, read_paths=kinds.read_paths):
        return ImageItem(item)
    expected = "a string or an image" if kinds.images else "a string"
    hint = "; this model takes no images" if not kinds.images and is_image(item) else ""
    raise InputError(f"{kinds.name}[{index}] should be {expected}, not {type(item).__name__}: {shown(item)}{hint}")
