"""`@frozen` does what `@dataclass(frozen=True)` does."""

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field

import pytest

from embedder.common.records import frozen


class Fields:
    """What both classes below have."""

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is below 0")
        object.__setattr__(self, "double", 2 * self.size)


@frozen
class Ours(Fields):
    """A record."""

    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False, compare=False)
    double: int = field(init=False, repr=False, compare=False)


@dataclass(frozen=True)
class Theirs(Fields):
    """A record."""

    name: str
    size: int = 1
    tags: list[str] = field(default_factory=list)
    secret: str = field(default="", repr=False, compare=False)
    double: int = field(init=False, repr=False, compare=False)


@frozen
class Point:
    """A point."""

    x: float
    y: float = 0.0


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("a",), {}),
        (("a", 2, ["x"]), {}),
        (("a",), {"size": 3, "secret": "s"}),
        ((), {"size": 3, "name": "b"}),
    ],
)
def test_an_instance_has_the_same_fields(args, kwargs):
    ours, theirs = Ours(*args, **kwargs), Theirs(*args, **kwargs)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs) == vars(ours)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert [entry.name for entry in dataclasses.fields(ours)] == [entry.name for entry in dataclasses.fields(theirs)]


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Ours: missing a required argument: 'name'"),
        (("a", 1, [], "s", 5), {}, "Ours: too many positional arguments"),
        (("a",), {"length": 1}, "Ours: got an unexpected keyword argument 'length'"),
        (("a",), {"name": "b"}, "Ours: multiple values for argument 'name'"),
        (("a",), {"double": 4}, "Ours: got an unexpected keyword argument 'double'"),
    ],
)
def test_wrong_arguments_are_named(args, kwargs, message):
    with pytest.raises(TypeError):
        Theirs(*args, **kwargs)
    with pytest.raises(TypeError, match=message):
        Ours(*args, **kwargs)


def test_the_checks_of_the_class_run():
    with pytest.raises(ValueError, match="size is below 0"):
        Ours("a", -1)


def test_each_instance_has_its_own_default():
    assert Ours("a").tags is not Ours("a").tags


def test_instances_are_compared_and_hashed_by_their_fields():
    assert Ours("a", 2, [], "one") == Ours("a", 2, [], "other") != Ours("a", 3)
    assert Point(1) != (1, 0.0)
    assert Point(1) != Theirs("a")
    assert len({Point(1), Point(1.0, 0), Point(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ours("a"))


def test_no_field_can_be_changed():
    point = Point(1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "z", 2), lambda: delattr(point, "x")):
        with pytest.raises(dataclasses.FrozenInstanceError, match=r"cannot change '[xz]' of Point"):
            change()
    assert point == Point(1)


def test_copies():
    record = Ours("a", 2, ["x"], "secret")
    for twin in (copy.copy(record), copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert vars(twin) == vars(record)
    assert dataclasses.replace(record, size=5).double == 10
    assert dataclasses.replace(record, size=5).secret == "secret"


def test_signature():
    ours, theirs = (list(inspect.signature(cls).parameters) for cls in (Ours, Theirs))
    assert ours == theirs == ["name", "size", "tags", "secret"]
    assert inspect.signature(Point).parameters["y"].default == 0.0


def test_methods_of_the_class_are_kept():
    @frozen
    class Own:
        """Compares by identity."""

        x: int
        __eq__ = object.__eq__
        __hash__ = object.__hash__

        def __repr__(self) -> str:
            return "own"

    own = Own(1)
    assert own != Own(1)
    assert len({own, own}) == 1
    assert repr(own) == "own"


def test_a_pattern_matches():
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)
