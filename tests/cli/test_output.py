"""The end of a run: exit code, JSON summary, and texts without control characters."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.cli.output import summary_json
from asyncimport.errors import LoginRefusedError, UnavailableError
from asyncimport.model.files import Session
from asyncimport.model.summary import (
    NOTHING_STORED,
    AttachmentCounts,
    Files,
    Problem,
    SessionReport,
    SubjectCounts,
    Summary,
    exit_code,
)
from asyncimport.model.texts import plain

SESSION = Session("P", "S", "E", "1.2.3")
ARCHIVED = SessionReport(SESSION, 3, 3000, "archived", "/data/archive/projects/P", "uids", None, 0.25)
COUNTED = replace(ARCHIVED, verified="count")
UNVERIFIED = replace(ARCHIVED, verified=None)
BUILT = replace(ARCHIVED, state="prearchive", uri="/data/prearchive/projects/P/1/E", verified=None)
HELD = replace(BUILT, state="held", as_of=None, reason="XNAT did not archive the session (500: FAILED)")
KEPT_NOTHING = replace(HELD, reason=NOTHING_STORED)
OPEN = replace(BUILT, state="open")


def summary(files: Files | None = None, sessions: Sequence[SessionReport] = (), *problems: Problem) -> Summary:
    """Make a summary."""
    return Summary(files or Files(), 1000, 500, tuple(sessions), problems)


@pytest.mark.parametrize(
    ("files", "sessions", "expected"),
    [
        pytest.param(Files(), [], 0, id="nothing"),
        pytest.param(Files(stored=3), [ARCHIVED], 0, id="all archived"),
        pytest.param(Files(stored=3), [COUNTED], 0, id="only counts could be compared"),
        pytest.param(Files(stored=3), [BUILT], 0, id="left in the prearchive, as asked"),
        pytest.param(Files(already_stored=3), [ARCHIVED], 0, id="nothing to do"),
        pytest.param(Files(stored=3, not_dicom=5), [ARCHIVED], 0, id="other files too"),
        pytest.param(Files(stored=3, duplicate=2), [ARCHIVED], 0, id="duplicates"),
        pytest.param(Files(stored=3, already_refused=1), [ARCHIVED], 0, id="an old refusal"),
        pytest.param(Files(already_refused=3), [KEPT_NOTHING], 0, id="a session of old refusals"),
        pytest.param(Files(stored=3, skipped=1), [ARCHIVED], 8, id="skipped"),
        pytest.param(Files(stored=3, unreadable=1), [ARCHIVED], 8, id="unreadable"),
        pytest.param(Files(stored=3, refused=1), [ARCHIVED], 8, id="refused"),
        pytest.param(Files(refused=3), [KEPT_NOTHING], 8, id="all refused"),
        pytest.param(Files(stored=3, failed=1), [ARCHIVED], 8, id="failed"),
        pytest.param(Files(stored=3), [HELD], 9, id="held"),
        pytest.param(Files(stored=3), [ARCHIVED, HELD], 9, id="held among others"),
        pytest.param(Files(already_stored=3), [HELD], 9, id="held by an earlier run"),
        pytest.param(Files(stored=3), [OPEN], 9, id="open"),
        pytest.param(Files(stored=3), [UNVERIFIED], 9, id="not verified"),
        pytest.param(Files(stored=3, left=1), [ARCHIVED], 9, id="files left"),
        pytest.param(Files(stored=3, already_refused=1), [KEPT_NOTHING, UNVERIFIED], 9, id="old refusals aside"),
        pytest.param(Files(stored=3, refused=1), [HELD], 8, id="refused and held"),
        pytest.param(Files(stored=3, failed=1, left=5), [UNVERIFIED], 8, id="failed and left"),
        pytest.param(Files(skipped=1), [OPEN], 8, id="skipped and open"),
    ],
)
def test_exit_code(files: Files, sessions: Sequence[SessionReport], expected: int) -> None:
    """0 is all done, 8 is files lacking, 9 is sessions lacking; 8 goes before 9, and old refusals spoil nothing."""
    assert exit_code(summary(files, sessions)) == expected


@pytest.mark.parametrize("name", ["skipped", "refused", "already_refused", "failed"])
def test_exit_code_of_attachments(name: str) -> None:
    """A missing attachment counts in each run."""
    whole = replace(summary(Files(stored=3), [ARCHIVED]), attachments=AttachmentCounts(stored=1, **{name: 1}))
    assert (exit_code(whole), exit_code(replace(whole, attachments=AttachmentCounts(already_stored=1)))) == (8, 0)


COUNTS = (
    "not_dicom",
    "unreadable",
    "duplicate",
    "skipped",
    "already_stored",
    "already_refused",
    "stored",
    "refused",
    "failed",
    "left",
)


class TestJson:
    """The JSON summary, which scripts depend on."""

    def test_it_has_the_documented_keys(self) -> None:
        """It is one JSON object."""
        files = Files(**{name: number for number, name in enumerate(COUNTS, start=1)})
        problem = Problem("refused", "no SOP Class UID", 2, "/a/\x1b[2J\udcff.dcm")
        whole = replace(
            summary(files, [ARCHIVED, HELD], problem),
            attachments=AttachmentCounts(1, 2, 3, 4, 5, 6, 7),
            subjects=SubjectCounts(1, 2, 3, 4),
        )
        made = summary_json(
            whole,
            run="7",
            host="https://xnat.example.org",
            seconds=12.34567,
            code=8,
        )
        assert json.loads(json.dumps(made)) == {
            "schema": 1,
            "command": "upload",
            "run": "7",
            "host": "https://xnat.example.org",
            "seconds": 12.346,
            "exit_code": 8,
            "error": None,
            "files": {
                "found": 52,
                "not_dicom": 1,
                "unreadable": 2,
                "duplicate": 3,
                "skipped": 4,
                "already_stored": 5,
                "already_refused": 6,
                "stored": 7,
                "refused": 8,
                "failed": 9,
                "left": 10,
            },
            "bytes": {"found": 1000, "stored": 500, "sent": 0},
            "zips": 0,
            "attachments": {
                "found": 28,
                "stored": 1,
                "already_stored": 2,
                "skipped": 3,
                "refused": 4,
                "already_refused": 5,
                "failed": 6,
                "left": 7,
            },
            "subjects": {"found": 10, "stored": 1, "already_stored": 2, "refused": 3, "failed": 4},
            "sessions": {"total": 2, "archived": 1, "prearchive": 0, "held": 1, "open": 0},
            "details": [
                {
                    "project": "P",
                    "subject": "S",
                    "session": "E",
                    "study_uid": "1.2.3",
                    "files": 3,
                    "state": "archived",
                    "uri": "/data/archive/projects/P",
                    "verified": "uids",
                    "reason": None,
                    "as_of": "1970-01-01T00:00:00+00:00",
                },
                {
                    "project": "P",
                    "subject": "S",
                    "session": "E",
                    "study_uid": "1.2.3",
                    "files": 3,
                    "state": "held",
                    "uri": "/data/prearchive/projects/P/1/E",
                    "verified": None,
                    "reason": "XNAT did not archive the session (500: FAILED)",
                    "as_of": None,
                },
            ],
            "problems": [
                {
                    "kind": "refused",
                    "reason": "no SOP Class UID",
                    "files": 2,
                    "example": "/a/\\x1b[2J\\xff.dcm",
                }
            ],
            "notices": [],
            "strays": None,
        }

    def test_keys_keep_their_order(self) -> None:
        """It starts with the schema, the run and its end, and `found` comes before its parts."""
        made = summary_json(summary(), run="7", host="h", seconds=1.0, code=0)
        assert list(made) == [
            "schema",
            "command",
            "run",
            "host",
            "seconds",
            "exit_code",
            "error",
            "files",
            "bytes",
            "zips",
            "attachments",
            "subjects",
            "sessions",
            "details",
            "problems",
            "notices",
            "strays",
        ]
        assert isinstance(made["files"], dict)
        assert list(made["files"]) == ["found", *COUNTS]

    def test_a_run_that_did_not_start(self) -> None:
        """It has the same keys, with counts of 0 and the error."""
        error = LoginRefusedError("XNAT refused the user name or password", hint="check both")
        made = summary_json(None, run=None, host=None, seconds=0.0, code=error.exit_code, error=error)
        assert made.keys() == summary_json(summary(), run="7", host="h", seconds=1.0, code=0).keys()
        assert made["exit_code"] == 3
        assert made["error"] == {"message": "XNAT refused the user name or password", "hint": "check both"}
        assert made["files"] == dict.fromkeys(["found", *COUNTS], 0)
        assert made["sessions"] == {"total": 0, "archived": 0, "prearchive": 0, "held": 0, "open": 0}
        assert (made["run"], made["host"], made["details"], made["problems"]) == (None, None, [], [])

    def test_an_error_after_the_summary(self) -> None:
        """It has both the error and the counts; without a hint, `hint` is null."""
        made = summary_json(
            summary(Files(stored=3, left=2), [OPEN]),
            run="7",
            host="h",
            seconds=1.0,
            code=4,
            error=UnavailableError("no connection to the server"),
        )
        assert made["error"] == {"message": "no connection to the server", "hint": None}
        assert isinstance(made["files"], dict)
        assert made["files"]["found"] == 5

    @given(
        st.builds(Files, **{name: st.integers(0, 10**9) for name in COUNTS}),
        st.lists(st.sampled_from([ARCHIVED, COUNTED, UNVERIFIED, BUILT, HELD, KEPT_NOTHING, OPEN])),
    )
    def test_counts_add_up(self, files: Files, sessions: list[SessionReport]) -> None:
        """`found` is the sum of all instances, whatever became of them; each session is in one state and in details."""
        made = summary_json(summary(files, sessions), run="7", host="h", seconds=1.0, code=0)
        counts, states, details = made["files"], made["sessions"], made["details"]
        assert isinstance(counts, dict)
        assert isinstance(states, dict)
        assert isinstance(details, list)
        assert counts["found"] == sum(counts[name] for name in COUNTS[2:])
        assert states["total"] == len(sessions) == len(details)
        assert states["total"] == sum(number for state, number in states.items() if state != "total")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/patient 1/é/漢字/a.dcm", "/data/patient 1/é/漢字/a.dcm"),
        ("", ""),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("\x9b2J", "\\xc2\\x9b2J"),
        ("r\udcf6ntgen\udc80", "r\\xf6ntgen\\x80"),
        ("\ud800\udfff", "\\xed\\xa0\\x80\\xed\\xbf\\xbf"),
        ("gpj.\u202etpl", "gpj.\\xe2\\x80\\xaetpl"),
        ("a\u2028b\u00a0c", "a\\xe2\\x80\\xa8b\\xc2\\xa0c"),
        ("[red]bold[/red]", "[red]bold[/red]"),
    ],
    ids=["words", "empty", "lines", "escapes", "NUL", "C1", "bytes", "surrogates", "right to left", "blanks", "markup"],
)
def test_texts_are_escaped(text: str, expected: str) -> None:
    """Control characters, and bytes that are no text, are escaped; letters of any script stay."""
    assert plain(text) == expected


@given(st.text(st.characters()))
def test_escaped_texts_are_harmless(text: str) -> None:
    """Every text becomes one printable line, and words stay as they are."""
    made = plain(text)
    assert made.isprintable()
    assert made.encode().decode() == made
    assert plain(made) == made
    assert made == text or not text.isprintable()
