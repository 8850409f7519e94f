"""The decorator of values that pass from stage to stage."""

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
    """Make a dataclass that a type checker keeps from being changed, not each instance.

    Creating a frozen instance takes four times as long, and each file needs nine.
    """
    made = dataclass(slots=True, unsafe_hash=True, repr=repr)
    return made if cls is None else made(cls)
