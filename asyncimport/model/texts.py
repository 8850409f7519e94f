"""Text from outside: one spelling of each, and none that could forge what is shown."""

import unicodedata
from collections.abc import Iterable


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): some systems write an accent as a separate character.

    Labels, paths and names pass through here before they are compared or used.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 file`, `1,200 files`, `2 studies`."""
    if number != 1:
        noun = plural or (f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s")
    return f"{number:,} {noun}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean A or B? ` with the known words that are most like one; "" if none is."""
    from difflib import get_close_matches

    by_lower = {one.lower(): one for one in known}
    sought = word.lower()
    near = [sought] if sought in by_lower else get_close_matches(sought, by_lower, n=3, cutoff=0.7)
    return f"did you mean {' or '.join(by_lower[one] for one in near)}? " if near else ""


def character_text(one: str) -> str:
    """Return a character with its code point: many look alike, or are invisible."""
    return f"{one!r} (U+{ord(one):04X})"


def are(number: int) -> str:
    """Return the verb of a number of things."""
    return "is" if number == 1 else "are"


def plain(text: str) -> str:
    """Make a text harmless on a terminal: escape control characters and bytes that are no text."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _spelt(character) for character in text)


def _spelt(character: str) -> str:
    # A path byte that is no text is a surrogate of this range (os.fsdecode); other surrogates come from elsewhere.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return character.encode("utf-8", errors).decode("latin-1").encode("unicode_escape").decode()
