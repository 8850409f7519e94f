"""How the values are made that pass from stage to stage."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform, overload

T = TypeVar("T")


@overload
def record(cls: type[T], /) -> type[T]: ...
@overload
def record(*, repr: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T] | None = None, /, *, repr: bool = True) -> type[T] | Callable[[type[T]], type[T]]:  # noqa: A002
    """Make a dataclass that nobody changes: a type checker sees to that, and not each instance.

    One that is frozen takes four times as long to make, and a file passes through nine of them.
    """
    made = dataclass(slots=True, unsafe_hash=True, repr=repr)
    return made if cls is None else made(cls)
