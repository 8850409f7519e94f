"""What XNAT accepts as a label, and as the ID of a project."""

import re

from asyncimport.model.files import Session
from asyncimport.model.label_syntax import LONGEST_LABEL, UNSAFE
from asyncimport.model.texts import nfc

_PROJECT_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST_LABEL}}}")


class UnroutableError(Exception):
    """A file has no session; the text says why and names fields, never their values."""


class DisputedError(UnroutableError):
    """The files of a study differ in a field that decides its session."""


class PartlyPlannedError(UnroutableError):
    """A row of a plan matches only some files of a study."""


class LeftOutError(UnroutableError):
    """A file is not selected. `session` lacks it, if other files of its study are selected."""

    def __init__(self, reason: str, session: Session | None = None) -> None:
        super().__init__(reason)
        self.session = session


class UnplannedError(LeftOutError):
    """The plan of a run lacks a study: perhaps all its files were damaged."""


def clean_label(text: str) -> str:
    """Replace each character outside `[A-Za-z0-9_-]` by `_`.

    Import takes labels verbatim and the archive step cleans them later (OmUtils.cleanValue), so a session with an
    unclean label would get another name.
    """
    return UNSAFE.sub("_", nfc(text.strip()))


def label_of(text: str) -> str:
    """Return a text as a label. Raises: UnroutableError."""
    label = clean_label(text)
    if not label.strip("_-"):
        raise UnroutableError("nothing is left of the label after cleaning")
    if len(label) > LONGEST_LABEL:
        raise UnroutableError(f"the label is longer than {LONGEST_LABEL} characters")
    return label


def is_project_id(text: str) -> bool:
    """Whether a text can be the ID of a project.

    An ID is never cleaned: cleaning could turn it into that of another project.
    """
    return _PROJECT_ID.fullmatch(text) is not None
