"""Medians with their spread, ratios within a round, and the order of runs. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float
    count: int

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.least)}-{figure(self.greatest)})"


def figure(value: float) -> str:
    """Return a number with about three significant digits."""
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of values, or None without values."""
    if not values:
        return None
    return Spread(median(values), min(values), max(values), len(values))


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Spread | None:
    """Return the spread of the ratio of our value to theirs, over the rounds in which both have one.

    What disturbs the machine for a while disturbs both of a round; medians of either alone would not show that.
    """
    both = zip(ours, theirs, strict=False)
    return spread([one / other for one, other in both if one is not None and other])


def interleaved(contenders: Sequence[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Yield A, B, C, A, B, C, ...: each with the number of its round, from 0."""
    for number in range(rounds):
        for contender in contenders:
            yield number, contender
