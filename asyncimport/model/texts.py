"""Texts from outside: one spelling of each, and none that could forge what is shown."""

import unicodedata


def nfc(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): some systems write an accent as a character of its own.

    What a label, a path or a name is made of or compared by goes through here first.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain(text: str) -> str:
    """Make a text harmless on a terminal: control characters and bytes that are no text are spelt out."""
    return "".join(character if character.isprintable() else _spelt(character) for character in text)


def _spelt(character: str) -> str:
    # A byte of a path that is no text is a surrogate of this range (os.fsdecode); others come from elsewhere.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return character.encode("utf-8", errors).decode("latin-1").encode("unicode_escape").decode()
