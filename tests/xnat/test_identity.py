"""What XNAT has, compared with what was asked for: every row and session that somebody else may have begun."""

from dataclasses import replace

import pytest

from asyncimport.model import Session
from asyncimport.model.addresses import labels_in_address, labels_match, with_archived_subject
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
    """Its subject is ours, whatever its case, as XNAT joins them; what XNAT does not tell is no difference."""
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
def test_a_row_that_somebody_else_began_is_told(changes: dict[str, str | bool], why: str) -> None:
    """Each thing that the first file decides, and where the row is."""
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
def test_a_row_is_that_of_the_journal_whose_source_it_has(
    source: str | None, mine: str | None, why: str | None
) -> None:
    """What began it decides for good; where nobody asks whose it is, that of any upload will do."""
    said = row_conflict(replace(OURS, source=source), ASKED, mine)
    assert said == (why and f"the prearchive has this study already, begun by somebody else ({why}: {OURS.uri})")


def test_all_differences_of_a_row_are_told() -> None:
    """Whoever has to mend it sees all of them at once."""
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
    """Before anything is merged into it."""
    assert session_conflict(there, ASKED) == why


def test_what_is_archived_elsewhere_is_told() -> None:
    """By the subject that XNAT has it under; case alone is no other subject."""
    assert subject_conflict("S2", ASKED) == "the archive has it under another subject (S2, not S1)"
    assert subject_conflict("s1", ASKED) is None
    assert subject_conflict("", ASKED) is None
    assert labels_match("aB", "Ab")


def test_an_address_names_subject_and_session() -> None:
    """As XNAT answers the archive step, with /data or without; nothing else is taken for one."""
    assert labels_in_address("/data/archive/projects/P/subjects/S/experiments/E") == ("S", "E")
    assert labels_in_address("/archive/projects/P/subjects/S/experiments/E") == ("S", "E")
    assert labels_in_address("/data/prearchive/projects/P/1/E") is None
    assert labels_in_address("/data/archive/projects/P") is None


def test_a_session_is_told_as_xnat_has_it_only_where_it_is_the_same() -> None:
    """Under another subject it is not the session that was asked for, and goes by the names that were."""
    base = "/data/archive/projects/P/subjects"
    assert with_archived_subject(ASKED, f"{base}/s1/experiments/E1") == replace(ASKED, subject="s1")
    for uri in (f"{base}/S2/experiments/E1", f"{base}/S1/experiments/E1_PET", "/prearchive/projects/P/1/E1", None):
        assert with_archived_subject(ASKED, uri) == ASKED
