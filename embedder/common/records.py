"""Frozen dataclasses that take no time to define.

`@dataclass(frozen=True)` writes the methods of a class as text and compiles them. That takes half a millisecond. A load
needs some thirty classes, which was a tenth of the time to the first vector. `@frozen` lets `dataclasses` find the
fields, and gives the class methods that read them. Making an instance takes a microsecond longer.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, dataclass_transform

_T = TypeVar("_T")
_Fields = tuple[dataclasses.Field[Any], ...]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen dataclass. `dataclasses.replace`, `fields` and `asdict` take it as any other.

    Methods that the class defines itself are kept.

    Example:
        >>> @frozen
        ... class Size:
        ...     '''A size in pixels.'''
        ...     width: int
        ...     height: int = 1
        >>> Size(3)
        Size(width=3, height=1)
    """
    own = {name for name, value in vars(cls).items() if value is not None}  # a class with __eq__ has __hash__ = None
    cls.__doc__ = cls.__doc__ or cls.__name__  # `python -OO` removes docstrings, and dataclasses would compose one
    dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    for name, method in _methods(fields, hasattr(cls, "__post_init__")).items():
        if name not in own:
            setattr(cls, name, method)
    return cls


def require(condition: bool, problem: str) -> None:
    """Check a field of a frozen dataclass.

    Raises:
        ValueError: `condition` is False. Its message is `problem`.

    Example:
        >>> require(2 > 1, "size: below 1")
    """
    if not condition:
        raise ValueError(problem)


def _methods(fields: _Fields, has_post_init: bool) -> dict[str, object]:
    """Return the methods of a class with `fields`, by name."""
    shown = [field.name for field in fields if field.repr]
    compared = [field.name for field in fields if field.compare]

    def values_of(record: object) -> tuple[Any, ...]:
        return tuple(getattr(record, name) for name in compared)

    def represent(self: object) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def equal(self: object, other: object) -> Any:
        return values_of(self) == values_of(other) if type(other) is type(self) else NotImplemented

    return {
        "__init__": _initialiser(fields, has_post_init),
        "__repr__": represent,
        "__eq__": equal,
        "__hash__": lambda self: hash(values_of(self)),
        "__setattr__": _refuse_change,
        "__delattr__": _refuse_change,
        "__signature__": _Signature(),
    }


def _initialiser(fields: _Fields, has_post_init: bool) -> Callable[..., None]:
    names = tuple(field.name for field in fields if field.init)
    accepted = frozenset(names)
    defaults = {
        field.name: field.default for field in fields if field.init and field.default is not dataclasses.MISSING
    }
    factories = {
        field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING
    }

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) == len(names) == len(fields) and not kwargs:  # the records of a request are made in this way
            vars(self).update(zip(names, args, strict=True))
        else:
            vars(self).update(collect(type(self), args, kwargs))
        if has_post_init:
            self.__post_init__()

    def collect(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        values = dict(zip(names, args, strict=False)) | kwargs
        given = len(values)
        for name, factory in factories.items():
            if name not in values:
                values[name] = factory()
        values = defaults | values
        if given != len(args) + len(kwargs) or not values.keys() >= accepted or not kwargs.keys() <= accepted:
            _refuse_arguments(cls, args, kwargs)
        return values

    return initialise


def _refuse_arguments(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise the TypeError that says what is wrong with the arguments."""
    try:
        inspect.signature(cls).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}: {error}") from None


class _Signature:
    """The signature of a class, made when it is asked for."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        missing = dataclasses.MISSING
        parameters = []
        for field in dataclasses.fields(owner):
            default = field.default if field.default_factory is missing else field.default_factory
            default = inspect.Parameter.empty if default is missing else default
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            if field.init:
                parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=field.type))
        return inspect.Signature(parameters)


def _refuse_change(self: object, name: str, *value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot change {name!r} of {type(self).__name__}")
