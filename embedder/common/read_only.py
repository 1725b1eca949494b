"""Base classes that refuse every assignment, so that no assignment is accepted and then ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from embedder.errors import SettingError

_K = TypeVar("_K")
_V = TypeVar("_V")


class ReadOnly:
    """Base of public classes. Setting a public attribute raises SettingError. The message says what to do instead.

    The class itself sets private attributes, which begin with an underscore.

    Example:
        >>> ReadOnly().name = 3
        Traceback (most recent call last):
        ...
        embedder.errors.SettingError: ReadOnly.name does not exist, and cannot be set: make another ReadOnly with ...
    """

    # What the caller can do instead of setting an attribute, by the name of the attribute.
    _instead: ClassVar[Mapping[str, str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._refuse(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if not name.startswith("_"):
            self._refuse(name)
        super().__delattr__(name)

    def _refuse(self, name: str) -> NoReturn:
        kind = type(self).__name__
        instead = self._instead.get(name, f"make another {kind} with the value that you want")
        known = hasattr(type(self), name) or name in self._instead
        problem = "cannot be set" if known else "does not exist, and cannot be set"
        raise SettingError(f"{kind}.{name} {problem}: {instead}")


class ReadOnlyDict(dict[_K, _V], Generic[_K, _V]):
    """A dict that cannot be changed. To change a copy, make one with `dict(...)`.

    Example:
        >>> ReadOnlyDict(query="query: ")["query"]
        'query: '
    """

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SettingError("this dict cannot be changed. Make a copy with dict(...), or pass the value as an option")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)
