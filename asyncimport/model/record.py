"""The decorator of values that pass from stage to stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def record(cls: type[T], /) -> type[T]: ...
@overload
def record(*, kw_only: bool = False, repr: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(
    cls: type[T] | None = None,
    /,
    *,
    kw_only: bool = False,
    repr: bool = True,  # noqa: A002 - the name that dataclass has for it
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a dataclass that a type checker keeps from being changed, not each instance.

    Creating a frozen instance takes four times as long, and each file needs nine. Of the methods, only `__init__` is
    compiled for each class: to compile them all took a sixth of the start of a command.
    """

    def made(cls: type[T]) -> type[T]:
        return _with_methods(dataclass(slots=True, kw_only=kw_only, eq=False, repr=False)(cls), repr=repr)

    return made if cls is None else made(cls)


def _with_methods(cls: type[T], *, repr: bool) -> type[T]:  # noqa: A002 - as above
    """Add what a dataclass has: comparison, hash and, if wanted, a text."""
    declared = fields(cls)  # type: ignore[arg-type]  # it is a dataclass
    compared = _values([one.name for one in declared if one.compare])
    hashed = _values([one.name for one in declared if (one.compare if one.hash is None else one.hash)])
    shown = [one.name for one in declared if one.repr]

    def __eq__(self: object, other: object) -> bool:  # noqa: N807 - it becomes a method
        return compared(self) == compared(other) if type(self) is type(other) else NotImplemented

    def __hash__(self: object) -> int:  # noqa: N807 - it becomes a method
        return hash(hashed(self))

    def __repr__(self: object) -> str:  # noqa: N807 - it becomes a method
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    methods: list[Any] = [__eq__, __hash__, *([__repr__] if repr else [])]
    for method in methods:
        if method.__name__ not in vars(cls):
            setattr(cls, method.__name__, method)
    return cls


def _values(names: Sequence[str]) -> Callable[[object], tuple[object, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda one: tuple(getattr(one, name) for name in names)
