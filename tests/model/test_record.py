"""Records are dataclasses whose methods are not compiled for each class."""

from dataclasses import field, replace

import pytest

from asyncimport.model.record import record


@record
class Point:
    """Two numbers, and what does not count."""

    x: int
    y: int = 0
    note: str = field(default="", compare=False)
    secret: str = field(default="", repr=False)


@record
class Single:
    """One value."""

    x: float


@record
class Nothing:
    """No value at all."""


@record(kw_only=True, repr=False)
class Named:
    """A value that is given by its name, and a dictionary that has no hash."""

    x: int
    extra: dict[str, str] = field(default_factory=dict, hash=False)


class Derived(Point):
    """No record itself, so its instances are equal to nothing but its own."""

    __slots__ = ()


def test_equal_values_are_equal() -> None:
    """Fields count unless they say otherwise, and so does the class."""
    assert Point(1, 2, "a") == Point(1, 2, "b")
    assert hash(Point(1, 2, "a")) == hash(Point(1, 2, "b"))
    assert Point(1, 2) != Point(2, 1)
    assert Point(1, secret="a") != Point(1, secret="b")
    assert Derived(1) != Point(1)
    assert Derived(1) == Derived(1)
    assert Single(1) != object()
    assert Nothing() == Nothing()
    assert {Single(1), Single(1.0), Nothing(), Nothing()} == {Nothing(), Single(1)}


def test_a_value_that_differs_from_itself_makes_no_difference() -> None:
    """As in a dataclass, which compares tuples."""
    one = Single(float("nan"))
    assert one == replace(one)


def test_fields_may_have_no_hash() -> None:
    """A dictionary counts for equality only."""
    assert hash(Named(x=1, extra={"a": "b"})) == hash(Named(x=1))
    assert Named(x=1, extra={"a": "b"}) != Named(x=1)


def test_the_text_leaves_out_what_it_should() -> None:
    """Patients' data and passwords are in no message."""
    assert repr(replace(Point(1, note="n", secret="s"), y=2)) == "Point(x=1, y=2, note='n')"
    assert "extra" not in repr(Named(x=1))


def test_values_by_name_only() -> None:
    """The order of many fields is no interface."""
    with pytest.raises(TypeError):
        Named(1)  # type: ignore[call-arg]
