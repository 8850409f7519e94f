"""What XNAT accepts as a label, and as the ID of a project."""

import re

from asyncimport.model import Session
from asyncimport.model.texts import nfc

# XNAT stores labels in columns of 255 characters.
LONGEST_LABEL = 255

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_PROJECT_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_LABEL}}}")


class UnroutableError(Exception):
    """This file has no place to go; the text says why and names fields, never their values."""


class DisputedError(UnroutableError):
    """The files of a study differ in what decides where it goes."""


class PartlyPlannedError(UnroutableError):
    """A row of a plan is that of a part of a study's files only."""


class LeftOutError(UnroutableError):
    """This file is not meant to go anywhere: nobody asked for it. `session` lacks it, if its study was asked for."""

    def __init__(self, reason: str, session: Session | None = None) -> None:
        super().__init__(reason)
        self.session = session


class UnplannedError(LeftOutError):
    """The plan of this run knows nothing of the study: all files of it that it met are damaged, it may be."""


def clean_label(text: str) -> str:
    """Replace each character that XNAT's labels cannot hold (anything outside `[A-Za-z0-9_-]`) by `_`.

    Import takes labels verbatim and the archive step cleans them later (OmUtils.cleanValue), so an unclean label
    would end under another name than the one asked for.
    """
    return _UNSAFE.sub("_", nfc(text.strip()))


def label_of(text: str) -> str:
    """Return the label that a text becomes. Raises: UnroutableError when it becomes none."""
    label = clean_label(text)
    if not label.strip("_-"):
        raise UnroutableError("nothing is left of the label after cleaning")
    if len(label) > LONGEST_LABEL:
        raise UnroutableError(f"the label is longer than {LONGEST_LABEL} characters")
    return label


def is_project_id(text: str) -> bool:
    """Tell whether a text can be a project's ID.

    It is not cleaned: two values that cleaning makes one would put the data of one project into another.
    """
    return _PROJECT_ID.fullmatch(text) is not None
