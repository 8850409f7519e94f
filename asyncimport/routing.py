"""From a DICOM header to project, subject and session label. Pure: no disk, no network, no memory of other files.

What depends on other files (one label for two studies, one study under two labels) the journal finds, because it
knows them all.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from asyncimport.errors import UsageError
from asyncimport.model import Patient, Session

__all__ = ["DEFAULT_SESSION", "DEFAULT_SUBJECT", "Router", "UnroutableError", "clean_label", "patient_of"]

DEFAULT_SUBJECT = "{PatientID}"
DEFAULT_SESSION = "{PatientID}_{StudyDate}"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_PROJECT_ID = re.compile(r"[A-Za-z0-9_-]+")
# XNAT stores labels in columns of 255 characters.
_LONGEST_LABEL = 255


class UnroutableError(Exception):
    """This file has no place to go; the text says why and names fields, never their values."""


def clean_label(text: str) -> str:
    """Replace each character that XNAT's labels cannot hold (anything outside `[A-Za-z0-9_-]`) by `_`.

    Import takes labels verbatim and the archive step cleans them later (OmUtils.cleanValue), so an unclean label
    would end under another name than the one asked for.
    """
    return _UNSAFE.sub("_", text.strip())


def patient_of(fields: Mapping[str, str]) -> Patient:
    """Return the patient of a header. Of the name only its letters count: not case, empty components or spacing.

    A name may come in three groups, alphabetic, ideographic and phonetic (PS3.5 6.2.1.2); the first one is compared.
    """
    components = fields.get("PatientName", "").partition("=")[0].split("^")
    name = "^".join(" ".join(component.split()) for component in components).strip("^").casefold()
    return Patient(fields.get("PatientID", "").strip(), name, fields.get("PatientBirthDate", "").strip())


@dataclass(frozen=True, slots=True)
class _Template:
    """A parsed template: alternating fixed texts and DICOM keywords."""

    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str, option: str, keywords: frozenset[str]) -> "_Template":
        try:
            parts = tuple(string.Formatter().parse(text))
        except ValueError as error:
            raise UsageError(
                f"{option}: the template {text!r} is malformed: {error}",
                hint="fields stand in braces, as in {PatientID}_{StudyDate}",
            ) from None
        for _, keyword, spec, conversion in parts:
            if spec or conversion:
                raise UsageError(
                    f"{option}: {{{keyword}}} cannot be given a format", hint=f"write {{{keyword}}} and no more"
                )
            if keyword is not None and keyword not in keywords:
                raise UsageError(
                    f"{option}: {{{keyword}}} is not a field of the study",
                    hint="fields are: " + ", ".join(sorted(keywords)),
                )
        if not text.strip():
            raise UsageError(f"{option}: an empty label")
        template = cls(tuple((literal, keyword) for literal, keyword, _, _ in parts))
        if template.is_fixed:
            try:
                template.render({})
            except UnroutableError as error:
                raise UsageError(
                    f"{option} {text!r}: {error}",
                    hint=f"labels are letters, digits, '_' and '-', {_LONGEST_LABEL} at most",
                ) from None
        return template

    @property
    def is_fixed(self) -> bool:
        return all(keyword is None for _, keyword in self.parts)

    def render(self, fields: Mapping[str, str]) -> str:
        out: list[str] = []
        for literal, keyword in self.parts:
            out.append(literal)
            if keyword is not None:
                value = fields.get(keyword, "").strip()
                if not value:
                    raise UnroutableError(f"no {keyword} in the header")
                out.append(value)
        label = clean_label("".join(out))
        if not label.strip("_-"):
            raise UnroutableError("nothing is left of the label after cleaning")
        if len(label) > _LONGEST_LABEL:
            raise UnroutableError(f"the label is longer than {_LONGEST_LABEL} characters")
        return label


class Router:
    """The rules of one run: which session a file belongs to.

    `keywords` are the DICOM keywords that templates may use: those that are the same for a whole study.
    Raises: UsageError for a template that no file could satisfy.
    """

    def __init__(self, project: str, subject: str, session: str, *, keywords: frozenset[str]) -> None:
        if not _PROJECT_ID.fullmatch(project):
            raise UsageError(
                f"{project!r} is not a project ID",
                hint="XNAT's project IDs consist of letters, digits, '_' and '-'",
            )
        self.rules: Mapping[str, str] = {"project": project, "subject": subject, "session": session}
        self._project = project
        self._subject = _Template.parse(subject, "--subject", keywords)
        self._session = _Template.parse(session, "--session", keywords)

    @property
    def one_session(self) -> bool:
        """Whether every file would get the same session label, so that two studies are bound to collide."""
        return self._session.is_fixed

    def route(self, study_uid: str, fields: Mapping[str, str]) -> Session:
        """Return the session of a study with these header fields.

        Raises: UnroutableError when a field is missing or nothing usable is left of a label.
        """
        return Session(self._project, self._subject.render(fields), self._session.render(fields), study_uid)
