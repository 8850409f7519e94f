"""Rows and sessions of XNAT are compared with ours, because somebody else may have begun them."""

from dataclasses import replace

import pytest

from asyncimport.model.addresses import labels_in_address, labels_match, with_archived_subject
from asyncimport.model.files import Session
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.replies.identity import row_conflict, session_conflict, subject_conflict
from asyncimport.xnat.replies.images import Row

ASKED = Session("P", "S1", "E1", "1.2.3")
OURS = Row("RECEIVING", "/prearchive/projects/P/1/E1", "P", "S1", "E1", "1.2.3", "uploader", prevents_auto_commit=True)


@pytest.mark.parametrize(
    "row",
    [
        OURS,
        replace(OURS, subject="s1"),
        replace(OURS, label="e1"),
        replace(OURS, source=None, prevents_auto_commit=None),
        Row("READY"),
    ],
)
def test_a_row_like_ours_may_be_filled(row: Row) -> None:
    """XNAT ignores the case of its subject; what XNAT does not show is no difference."""
    assert row_conflict(row, ASKED) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"subject": "S2"}, "its subject is S2, not S1"),
        ({"label": "E2"}, "its label is E2, not E1"),
        ({"source": ""}, "its source is '', not uploader"),
        ({"source": "SessionImporter"}, "its source is 'SessionImporter', not uploader"),
        ({"prevents_auto_commit": False}, "XNAT archives it by itself when no file comes for a while"),
    ],
)
def test_a_row_of_somebody_else_is_a_conflict(changes: dict[str, str | bool], why: str) -> None:
    """The reason names each difference that the first file decides, and the row."""
    said = row_conflict(replace(OURS, **changes), ASKED)  # type: ignore[arg-type]
    assert said is not None
    assert said.endswith(f"({why}: {OURS.uri})")


@pytest.mark.parametrize(
    ("source", "mine", "why"),
    [
        ("uploader-1", "uploader-1", None),
        ("uploader", "uploader", None),
        (None, "uploader-1", None),
        ("uploader-1", None, None),
        ("uploader-1", "uploader-2", "by an upload from another journal"),
        # That of an earlier version of this program.
        ("uploader", "uploader-2", "by an upload from another journal"),
        ("uploaders", "uploader-2", "its source is 'uploaders', not uploader"),
    ],
)
def test_a_row_belongs_to_the_journal_of_its_source(source: str | None, mine: str | None, why: str | None) -> None:
    """The first file decides the source; without a journal's source, a row of any upload will do."""
    said = row_conflict(replace(OURS, source=source), ASKED, mine)
    assert said == (why and f"the prearchive has this study already, begun by somebody else ({why}: {OURS.uri})")


def test_all_differences_of_a_row_are_named() -> None:
    """A person can correct all of them at once."""
    said = row_conflict(replace(OURS, subject="S2", source="", prevents_auto_commit=False), ASKED)
    assert said is not None
    assert "its subject is S2, not S1; its source is '', not uploader; XNAT archives it by itself" in said


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (Experiment("X_E1", "E1", "1.2.3", "S1"), None),
        (Experiment("X_E1", "E1", "1.2.3", "s1"), None),
        (Experiment("X_E1", "E1", "", ""), None),
        (Experiment("X_E1", "E1", "9.9", "S1"), "the archive has another study under this label (E1: 9.9)"),
        (Experiment("X_E1", "E1", "1.2.3", "S2"), "the archive has it under another subject (S2, not S1)"),
    ],
)
def test_a_session_is_ours_by_study_and_subject(there: Experiment, why: str | None) -> None:
    """They are compared before anything is merged into it."""
    assert session_conflict(there, ASKED) == why


def test_a_session_under_another_subject_is_a_conflict() -> None:
    """A different case is no other subject."""
    assert subject_conflict("S2", ASKED) == "the archive has it under another subject (S2, not S1)"
    assert subject_conflict("s1", ASKED) is None
    assert subject_conflict("", ASKED) is None
    assert labels_match("aB", "Ab")


def test_an_address_names_subject_and_session() -> None:
    """XNAT answers the archive step with /data or without; any other text is no address."""
    assert labels_in_address("/data/archive/projects/P/subjects/S/experiments/E") == ("S", "E")
    assert labels_in_address("/archive/projects/P/subjects/S/experiments/E") == ("S", "E")
    assert labels_in_address("/data/prearchive/projects/P/1/E") is None
    assert labels_in_address("/data/archive/projects/P") is None


def test_a_session_takes_the_label_of_xnat_only_if_it_is_the_same() -> None:
    """Under another subject it is another session, and ours keeps its labels."""
    base = "/data/archive/projects/P/subjects"
    assert with_archived_subject(ASKED, f"{base}/s1/experiments/E1") == replace(ASKED, subject="s1")
    for uri in (f"{base}/S2/experiments/E1", f"{base}/S1/experiments/E1_PET", "/prearchive/projects/P/1/E1", None):
        assert with_archived_subject(ASKED, uri) == ASKED
