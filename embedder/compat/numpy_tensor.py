"""`NumpyTensor`: a NumPy array that answers as a tensor of torch does, for programs that run without torch.

Many methods of a tensor have a namesake in NumPy that gives another result. `std` divides by n - 1, `max(1)` returns
values and indices, and `transpose(0, 1)` swaps the axes. An array would silently give the other result. So this class
has the methods of a tensor and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

from embedder.compat.device import CPU, Device
from embedder.compat.refusals import UnsupportedError
from embedder.errors import InputError

_Method = TypeVar("_Method", bound=Callable[..., Any])
# torch takes NumPy's names of these arguments too.
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def _takes_numpy_names(method: _Method) -> _Method:
    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        return method(*arguments, **{_NUMPY_NAMES.get(name, name): value for name, value in options.items()})

    return call  # type: ignore[return-value]


class Size(tuple[int, ...]):
    """A shape. It prints as a shape of torch does.

    Example:
        >>> Size((2, 3))
        torch.Size([2, 3])
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"


class ValuesAndIndices(NamedTuple):
    """What `max`, `min`, `sort` and `topk` return for a dimension."""

    values: NumpyTensor
    indices: NumpyTensor


class NumpyTensor(NDArrayOperatorsMixin):
    """Numbers with the methods of `torch.Tensor` that programs call on scores.

    Operators and indices work as for a tensor. Functions of NumPy take it as an array and return arrays. Functions of
    torch take it as a tensor and return tensors. Methods that are not here raise an error that says what to do.

    Example:
        >>> scores = NumpyTensor(np.float32([[0.5, 1.0]]))
        >>> scores
        tensor([[0.5000, 1.0000]])
        >>> scores[0].topk(1).indices.tolist(), scores[0][1].item()
        ([1], 1.0)
    """

    def __init__(self, array: Any) -> None:
        self._array: NDArray[Any] = np.asarray(array)

    # The container.

    @property
    def shape(self) -> Size:
        """The length of each dimension."""
        return Size(self._array.shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._array.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype, as NumPy names it."""
        return self._array.dtype

    @property
    def device(self) -> Device:
        """The device, which is the CPU."""
        return CPU

    @property
    def T(self) -> NumpyTensor:  # noqa: N802
        """The transposed matrix."""
        return NumpyTensor(self._array.T)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the length of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Return how many numbers there are."""
        return self._array.size

    def __len__(self) -> int:
        return len(self._array)

    def __iter__(self) -> Iterator[NumpyTensor]:
        return (NumpyTensor(row) for row in self._array)

    def __getitem__(self, index: Any) -> NumpyTensor:
        return NumpyTensor(self._array[_plain(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array[_plain(index)] = _plain(value)

    def __contains__(self, value: object) -> bool:
        return bool((self._array == _plain(value)).any())

    def __repr__(self) -> str:
        if not self._array.size and self.ndim != 1:
            return f"tensor([], size={self._array.shape})"
        finite = self._array[np.isfinite(self._array)]
        precision = 0 if (finite == np.trunc(finite)).all() else 4  # torch prints whole numbers as "1."
        numbers = np.array2string(self._array, precision=precision, separator=", ", prefix="tensor(", floatmode="fixed")
        return f"tensor({numbers})"

    def __format__(self, spec: str) -> str:
        return format(self._array.item(), spec) if self.ndim == 0 else format(repr(self), spec)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return self._array.__index__()

    def __bool__(self) -> bool:
        return bool(self._array)

    __hash__ = object.__hash__

    # What NumPy and torch call.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        result = getattr(ufunc, method)(*_plain(inputs), **_plain(options))
        return NumpyTensor(result) if isinstance(result, np.ndarray | np.generic) else result

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return function(*_plain(args), **_plain(options))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch. The program has imported torch after it got these numbers."""
        import torch

        return function(*_converted(args, torch.from_numpy), **_converted(kwargs or {}, torch.from_numpy))

    # Conversions.

    def item(self) -> Any:
        """Return the only number."""
        return self._array.item()

    def tolist(self) -> Any:
        """Return the numbers in nested lists."""
        return self._array.tolist()

    def numpy(self) -> NDArray[Any]:
        """Return the numbers as an array. Both share their memory."""
        return self._array

    def cpu(self) -> NumpyTensor:
        """Return these numbers, which are on the CPU already."""
        return self

    detach = contiguous = cpu

    def to(self, device: object) -> NumpyTensor:
        """Return these numbers for the CPU. Another device or dtype raises InputError."""
        if str(device) != CPU:
            raise InputError(f"to({device!r}) needs torch: torch.from_numpy(scores.numpy()).to({device!r})")
        return self

    def clone(self) -> NumpyTensor:
        """Return a copy."""
        return NumpyTensor(self._array.copy())

    def float(self) -> NumpyTensor:
        """Return the numbers in float32."""
        return NumpyTensor(self._array.astype(np.float32, copy=False))

    def double(self) -> NumpyTensor:
        """Return the numbers in float64."""
        return NumpyTensor(self._array.astype(np.float64, copy=False))

    def long(self) -> NumpyTensor:
        """Return the numbers in int64, cut at the point."""
        return NumpyTensor(self._array.astype(np.int64, copy=False))

    # The order of numbers.

    @_takes_numpy_names
    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> ValuesAndIndices:
        """Return the `k` largest numbers and their indices, in their order."""
        if not 0 <= k <= self.shape[dim]:
            raise InputError(f"k should be from 0 to {self.shape[dim]}, not {k}")
        found = self.sort(dim, descending=largest)
        return ValuesAndIndices(*(NumpyTensor(part.numpy().take(range(k), axis=dim)) for part in found))

    @_takes_numpy_names
    def sort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> ValuesAndIndices:
        """Return the sorted numbers and their indices."""
        indices = self.argsort(dim, descending)
        return ValuesAndIndices(NumpyTensor(np.take_along_axis(self._array, indices.numpy(), axis=dim)), indices)

    @_takes_numpy_names
    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = False) -> NumpyTensor:
        """Return the indices that sort the numbers. Equal numbers keep their order."""
        keys = -self._array if descending else self._array
        return NumpyTensor(np.argsort(keys, axis=dim, kind="stable"))

    @_takes_numpy_names
    def max(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Return the largest number; for a dimension, the largest numbers and their indices."""
        return self._extreme(np.argmax, dim, keepdim)

    @_takes_numpy_names
    def min(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """Return the smallest number; for a dimension, the smallest numbers and their indices."""
        return self._extreme(np.argmin, dim, keepdim)

    def _extreme(self, find: Any, dim: int | None, keepdim: bool) -> Any:
        if dim is None:
            return NumpyTensor(self._array.ravel()[find(self._array)])
        indices = find(self._array, axis=dim, keepdims=True)
        values = np.take_along_axis(self._array, indices, axis=dim)
        parts = (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))
        return ValuesAndIndices(*map(NumpyTensor, parts))

    @_takes_numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> NumpyTensor:
        """Return the index of the largest number."""
        return NumpyTensor(np.argmax(self._array, axis=dim, keepdims=keepdim))

    @_takes_numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> NumpyTensor:
        """Return the index of the smallest number."""
        return NumpyTensor(np.argmin(self._array, axis=dim, keepdims=keepdim))

    # Sums.

    @_takes_numpy_names
    def sum(self, dim: Any = None, keepdim: bool = False) -> NumpyTensor:
        """Return the sum of all numbers, or along a dimension."""
        return NumpyTensor(self._array.sum(axis=dim, keepdims=keepdim))

    @_takes_numpy_names
    def mean(self, dim: Any = None, keepdim: bool = False) -> NumpyTensor:
        """Return the mean of all numbers, or along a dimension."""
        return NumpyTensor(self._array.mean(axis=dim, keepdims=keepdim))

    @_takes_numpy_names
    def std(self, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> NumpyTensor:
        """Return the standard deviation. As in torch, it divides by n - 1."""
        return NumpyTensor(self._array.std(axis=dim, ddof=int(unbiased), keepdims=keepdim))

    @_takes_numpy_names
    def var(self, dim: Any = None, unbiased: bool = True, keepdim: bool = False) -> NumpyTensor:
        """Return the variance. As in torch, it divides by n - 1."""
        return NumpyTensor(self._array.var(axis=dim, ddof=int(unbiased), keepdims=keepdim))

    @_takes_numpy_names
    def softmax(self, dim: int) -> NumpyTensor:
        """Return the softmax along a dimension."""
        powers = np.exp(self._array - self._array.max(axis=dim, keepdims=True))
        return NumpyTensor(powers / powers.sum(axis=dim, keepdims=True))

    @_takes_numpy_names
    def any(self, dim: Any = None, keepdim: bool = False) -> NumpyTensor:
        """Return whether one number is not zero, of all or along a dimension."""
        return NumpyTensor(self._array.any(axis=dim, keepdims=keepdim))

    @_takes_numpy_names
    def all(self, dim: Any = None, keepdim: bool = False) -> NumpyTensor:
        """Return whether no number is zero, of all or along a dimension."""
        return NumpyTensor(self._array.all(axis=dim, keepdims=keepdim))

    # Other numbers and other shapes.

    def abs(self) -> NumpyTensor:
        """Return the absolute values."""
        return NumpyTensor(np.abs(self._array))

    def round(self, *, decimals: int = 0) -> NumpyTensor:
        """Return the rounded numbers."""
        return NumpyTensor(self._array.round(decimals))

    def clamp(self, min: Any = None, max: Any = None) -> NumpyTensor:
        """Return the numbers, at least `min` and at most `max`."""
        return NumpyTensor(np.clip(self._array, _plain(min), _plain(max)))

    clip = clamp

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        """Return the indices of the numbers that are not zero, (n, number of dimensions); (n,) for each, as a tuple."""
        return tuple(map(NumpyTensor, np.nonzero(self._array))) if as_tuple else NumpyTensor(np.argwhere(self._array))

    def reshape(self, *shape: Any) -> NumpyTensor:
        """Return the numbers in another shape."""
        return NumpyTensor(self._array.reshape(*shape))

    view = reshape

    def flatten(self) -> NumpyTensor:
        """Return the numbers in one dimension."""
        return NumpyTensor(self._array.reshape(-1))

    ravel = flatten

    @_takes_numpy_names
    def squeeze(self, dim: int | None = None) -> NumpyTensor:
        """Return the numbers without the dimensions of length 1, or without one of them."""
        if dim is not None and self.shape[dim] != 1:
            return self
        return NumpyTensor(self._array.squeeze(dim))

    @_takes_numpy_names
    def unsqueeze(self, dim: int) -> NumpyTensor:
        """Return the numbers with another dimension of length 1."""
        return NumpyTensor(np.expand_dims(self._array, dim))

    def t(self) -> NumpyTensor:
        """Return the transposed matrix."""
        return self.T

    def transpose(self, dim0: int, dim1: int) -> NumpyTensor:
        """Return the numbers with two dimensions swapped."""
        return NumpyTensor(self._array.swapaxes(dim0, dim1))

    def diagonal(self) -> NumpyTensor:
        """Return the diagonal of a matrix."""
        return NumpyTensor(self._array.diagonal())

    def diag(self) -> NumpyTensor:
        """Return the diagonal of a matrix, or the diagonal matrix of a vector."""
        return NumpyTensor(np.diag(self._array))

    def triu(self, diagonal: int = 0) -> NumpyTensor:
        """Return the matrix with zeros below a diagonal."""
        return NumpyTensor(np.triu(self._array, diagonal))

    def tril(self, diagonal: int = 0) -> NumpyTensor:
        """Return the matrix with zeros above a diagonal."""
        return NumpyTensor(np.tril(self._array, diagonal))

    def fill_diagonal_(self, value: Any) -> NumpyTensor:
        """Set the diagonal of this matrix."""
        np.fill_diagonal(self._array, _plain(value))
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy, pickle and notebooks ask for names that need not be there
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise UnsupportedError(
            f"these numbers have no {name!r} without torch. Import torch before the call that returns them, and they "
            "are a tensor; or take the NumPy array, scores.numpy()"
        )


def _plain(value: Any) -> Any:
    """Return `value` with arrays instead of `NumpyTensor`, also inside tuples, lists and dicts."""
    return _converted(value, lambda array: array)


def _converted(value: Any, convert: Callable[[NDArray[Any]], Any]) -> Any:
    if isinstance(value, NumpyTensor):
        return convert(value.numpy())
    if isinstance(value, tuple | list):
        return type(value)(_converted(item, convert) for item in value)
    if isinstance(value, dict):
        return {name: _converted(item, convert) for name, item in value.items()}
    return value
