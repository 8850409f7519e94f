"""The options of a run, checked when they are made."""

from dataclasses import FrozenInstanceError

import pytest

from asyncimport.errors import UsageError
from asyncimport.model.option import seconds_of
from asyncimport.model.options import Options


@pytest.mark.parametrize("workers", [1, 16, 256])
def test_numbers_within_bounds_are_accepted(workers: int) -> None:
    """They do not change."""
    options = Options(workers=workers, finalizers=1, max_open_sessions=1)
    assert (options.workers, options.finalizers, options.max_open_sessions) == (workers, 1, 1)


@pytest.mark.parametrize(
    ("name", "number"),
    [("workers", 0), ("workers", -1), ("workers", 257), ("finalizers", 0), ("max_open_sessions", 0)],
)
def test_refused(name: str, number: int) -> None:
    """The message has the number, and the valid ones."""
    with pytest.raises(UsageError, match=f"invalid .*'{number}': a number from 1") as caught:
        Options(**{name: number})  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


def test_options_are_frozen() -> None:
    """They do not change during a run."""
    with pytest.raises(FrozenInstanceError):
        Options().workers = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("8h", 28_800),
        ("2d", 172_800),
        ("0", 0),
        ("1.5h", 5_400),
        ("1h30m", 5_400),
        ("1d 2h 3min 4s", 93_784),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """Durations are written as people write them."""
    assert seconds_of(text, "--outage-timeout") == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 minutes", "30m1h", "1h1h", "1w", "9" * 400])
def test_malformed_durations_are_refused(text: str) -> None:
    """The error names the option, and shows examples."""
    with pytest.raises(UsageError, match="--outage-timeout") as caught:
        seconds_of(text, "--outage-timeout")
    assert caught.value.hint
