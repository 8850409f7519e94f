"""One spelling of a text, whichever way its characters were composed."""

import unicodedata

__all__ = ["composed"]


def composed(text: str) -> str:
    """Return a text in Unicode's composed form (NFC): some systems write an accent as a character of its own.

    What a label, a path or a name is made of or compared by goes through here first.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)
