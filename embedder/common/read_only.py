"""Objects whose attributes cannot be set, so that no assignment is accepted and then ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from embedder.errors import SettingError

_K = TypeVar("_K")
_V = TypeVar("_V")


class ReadOnly:
    """Base of public classes. Setting a public attribute raises SettingError and says what to do instead.

    Private attributes (with a leading underscore) can be set by the class itself.
    """

    # By the attribute's name: what the caller can do instead.
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
    """A dict that cannot be changed. Copy it with `dict(...)` to change the copy."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SettingError("this dict cannot be changed. Make a copy with dict(...), or pass the value as an option")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)
