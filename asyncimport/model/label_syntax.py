"""What a text must be to be a label in XNAT."""

import re

from asyncimport.model.texts import character_text

# XNAT stores labels in columns of 255 characters.
LONGEST_LABEL = 255
UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
LABELS = f"labels are letters, digits, '_' and '-', {LONGEST_LABEL} at most; nothing is cleaned silently"
"""A hint about labels."""


def label_problem(text: str) -> str:
    """Return why a text cannot be a label, or ""."""
    if found := UNSAFE.search(text):
        return f"the character {character_text(found[0])}"
    return f"{len(text)} characters" if len(text) > LONGEST_LABEL else ""
