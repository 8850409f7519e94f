"""The mutants fit the present code and tests."""

import pytest
from mutant_data import Checkout, Mutant, StaleError, all_mutants, parsed


@pytest.fixture(scope="module")
def checkout() -> Checkout:
    """Read all code and all tests once."""
    return Checkout()


def test_each_mutant_fits(checkout: Checkout) -> None:
    """Its text is in one place, its tests exist, and its name is unique."""
    checkout.locate_all(all_mutants())


TEXT = '"""`python -m asyncimport` is `asyncimport`."""'


def mutant(old: str = "def chosen_nowhere(", test: str = "test_each_mutant_fits") -> Mutant:
    """Make a mutant of a text and a test."""
    return Mutant("one", "It matters.", old, "", [test])


@pytest.mark.parametrize(
    ("stale", "said"),
    [
        (mutant(), "one: its `old` text must be in one place, and is in none"),
        (mutant(old="import "), "one: its `old` text must be in one place, and is in asyncimport/"),
        (mutant(TEXT, "test_nowhere"), "one: test_nowhere must be in one place, and is in none"),
    ],
)
def test_a_stale_mutant_is_told(checkout: Checkout, stale: Mutant, said: str) -> None:
    """Its text or its test is gone, or exists more than once."""
    with pytest.raises(StaleError) as raised:
        checkout.locate(stale)
    assert str(raised.value).startswith(said)


def test_two_of_one_name_are_told() -> None:
    """Two files count too."""
    text = "[one]\nwhy='It matters.'\nold='a'\nnew='b'\ntests=['test_a']\n"
    with pytest.raises(StaleError, match="two mutants have one name: one"):
        parsed([text, text])
