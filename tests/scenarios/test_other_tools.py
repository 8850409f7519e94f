"""Conflicts with other tools: rows of another subject or tool, foreign files, other studies.

XNAT finds a prearchive row by project, study and label, and a session to merge into by its label alone. Nothing of ours
is mixed into what is somebody else's, nothing of theirs counts as ours, and what is told is where XNAT has it.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
from builders import add_row, image, logged_in, sop, upload, write
from conftest import Commands, Ended

from asyncimport.model.deliveries import Withheld
from asyncimport.model.events import Event, OutcomesRecorded
from asyncimport.model.files import Session
from asyncimport.model.options import Options
from asyncimport.testserver import ArchivedSession, Fault, PrearchiveRow, Reset, RowStatus, Status, Tell, TestXnat
from asyncimport.xnat.prearchive import PrearchiveRows

pytestmark = pytest.mark.anyio

FILES = 3
SESSIONS = 3


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """Write three sessions P1 to P3 of three files each."""
    for session in range(1, SESSIONS + 1):
        for number in range(FILES):
            study = f"1.2.{session}"
            content = image(
                10 * session + number, PatientID=f"P{session}", StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"
            )
            write(tmp_path / "visits" / f"P{session}" / str(number), content)
    return tmp_path / "visits"


EVERY = {sop(10 * session + number) for session in range(1, SESSIONS + 1) for number in range(FILES)}


def sop_uids(rows: list[PrearchiveRow]) -> set[str]:
    """Return what rows hold."""
    return {file.sop_uid for row in rows for file in row.files}


def states(ended: Ended) -> set[tuple[str, str | None]]:
    """Return how sessions ended, and how they were verified."""
    return {(detail["state"], detail["verified"]) for detail in ended.json["details"]}


def lines(path: Path) -> list[dict[str, object]]:
    """Read receipts."""
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- rows of another subject


@pytest.mark.parametrize("code", [0, 4])
async def test_rows_under_another_subject_are_not_filled(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path, code: int
) -> None:
    """Another journal has sent the same studies under wrong subjects: sessions are held and reported."""
    xnat.project("demo").prearchive_code = code
    commands.login(url)
    wrong = await commands("upload", visits, "-P", "demo", "-S", "WRONG_{PatientID}", "--no-archive", "-q")
    assert wrong.code == 0, wrong.err
    assert xnat.count["import"] == len(EVERY)

    new = ("--state-dir", tmp_path / "new")
    rehearsed = await commands("upload", visits, "-P", "demo", *new, "--dry-run", "-o", "json")
    assert rehearsed.code == 9
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["prearchive-taken"] * SESSIONS

    receipts, safe = tmp_path / "receipts", tmp_path / "safe"
    ended = await commands("upload", visits, "-P", "demo", *new, "-o", "json", "--receipts", receipts)
    assert ended.code == 9, ended.err
    assert states(ended) == {("held", None)}
    assert ended.json["files"]["left"] == len(EVERY)
    assert ended.json["strays"] == []
    for detail in ended.json["details"]:
        subject = detail["subject"]
        assert f"its subject is WRONG_{subject}, not {subject}" in detail["reason"]
        assert "/prearchive/projects/demo/" in detail["reason"]
        assert "run this again" in detail["reason"]
    assert lines(receipts) == []
    verify = await commands("verify", "-P", "demo", *new, "-o", "json", "--safe-to-delete", safe)
    assert verify.code == 9
    assert safe.read_text() == ""
    assert xnat.count["import"] == len(EVERY)
    assert {row.status for row in xnat.prearchive} == {RowStatus.READY}
    assert not xnat.archived

    # The option of the message works.
    for row in list(xnat.prearchive):
        xnat.remove_row(row)
    again = await commands("upload", visits, "-P", "demo", *new, "-o", "json", "--receipts", receipts)
    assert again.code == 0, again.out
    assert states(again) == {("archived", "uids")}
    assert {session.subject.label for session in xnat.archived} == {"P1", "P2", "P3"}
    assert (await commands("verify", "-P", "demo", *new, "--safe-to-delete", safe)).code == 0
    assert len(safe.read_text().splitlines()) == len(EVERY)


async def test_a_subject_of_another_case_is_told_as_xnat_has_it(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path
) -> None:
    """XNAT joins them when it archives. Summary, receipts and verification name the existing subject."""
    for number in range(1, SESSIONS + 1):
        xnat.add_subject("demo", f"p{number}")
    commands.login(url)
    receipts, safe = tmp_path / "receipts", tmp_path / "safe"
    ended = await commands("upload", visits, "-P", "demo", "-o", "json", "--receipts", receipts)
    assert ended.code == 0, ended.out
    assert states(ended) == {("archived", "uids")}
    uris = {session.subject.label: f"/data{session.uri}" for session in xnat.archived}
    assert set(uris) == {"p1", "p2", "p3"}
    assert {detail["subject"]: detail["uri"] for detail in ended.json["details"]} == uris
    told = lines(receipts)
    assert {line["subject"] for line in told if line["kind"] in {"file", "session"}} == set(uris)
    assert {line["uri"] for line in told if line["kind"] == "session"} == set(uris.values())
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe)
    assert verify.code == 0, verify.out
    assert {detail["subject"] for detail in verify.json["details"]} == set(uris)
    assert len(safe.read_text().splitlines()) == len(EVERY)


async def test_a_session_that_was_moved_to_another_subject_proves_nothing(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path
) -> None:
    """It was verified and moved later: `verify` says where it is, and none of its files is safe to delete."""
    commands.login(url)
    assert (await commands("upload", visits, "-P", "demo", "-q")).code == 0
    session = next(one for one in xnat.archived if one.subject.label == "P2")
    session.subject = xnat.add_subject("demo", "OTHER")
    safe = tmp_path / "safe"
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe)
    assert verify.code == 9
    (detail,) = [detail for detail in verify.json["details"] if not detail["verified"]]
    assert detail["reason"] == "the archive has it under another subject (OTHER, not P2)"
    assert not detail["missing"]
    assert not [line for line in safe.read_text().splitlines() if "/P2/" in line]
    assert len(safe.read_text().splitlines()) == len(EVERY) - FILES


# --- rows of other tools, and rows like ours


def begin(xnat: TestXnat, session: int = 1, **other: object) -> PrearchiveRow:
    """Let another tool begin a row of one of the sessions, by default as an uploader would."""
    label, study, subject = f"P{session}_20200102", f"1.2.{session}", f"P{session}"
    values = {"timestamp": f"20260101_00000000{session}", "study_uid": study, "subject": subject} | other
    return add_row(xnat, label, **values)


SCANNER: dict[str, object] = {"source": "", "prevent_auto_commit": False}


@pytest.mark.parametrize("other", [SCANNER, {"source": "SessionImporter"}, {"prevent_auto_commit": False}])
async def test_a_row_of_another_tool_is_left_alone(
    xnat: TestXnat, url: str, visits: Path, tmp_path: Path, other: dict[str, object]
) -> None:
    """Its session is held before anything is sent, and all others arrive."""
    row = begin(xnat, 2, **other)
    summary = await upload(url, [visits], tmp_path / "book")
    assert sorted(one.state for one in summary.sessions) == ["archived", "archived", "held"]
    assert (summary.files.stored, summary.files.left) == (len(EVERY) - FILES, FILES)
    assert not list(row.files)
    assert (xnat.prearchive, row.status) == ([row], RowStatus.RECEIVING)
    # It stays held while the row is there; after that the next run sends it.
    before = xnat.count["import"]
    again = await upload(url, [visits], tmp_path / "book")
    assert (again.count("held"), xnat.count["import"]) == (1, before)
    xnat.remove_row(row)
    assert (await upload(url, [visits], tmp_path / "book")).count("archived") == SESSIONS
    assert xnat.sop_uids() == EVERY


async def test_rows_of_a_lost_journal_are_filled_on_purpose(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path
) -> None:
    """They look like another machine's: held, and with --adopt-rows filled like our own."""
    commands.login(url)
    assert (await commands("upload", visits, "-P", "demo", "--no-archive", "-q")).code == 0
    new = ("--state-dir", tmp_path / "new")
    ended = await commands("upload", visits, "-P", "demo", *new, "-o", "json")
    assert (ended.code, states(ended)) == (9, {("held", None)})
    assert xnat.count["import"] == len(EVERY)
    rehearsed = await commands("upload", visits, "-P", "demo", *new, "--adopt-rows", "--dry-run", "-o", "json")
    assert rehearsed.code == 0
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["prearchive-begun"] * SESSIONS
    ended = await commands("upload", visits, "-P", "demo", *new, "--adopt-rows", "-o", "json")
    assert (ended.code, states(ended)) == (0, {("archived", "uids")})
    assert xnat.sop_uids() == EVERY
    assert not xnat.prearchive


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.parametrize("archive", [False, True])
async def test_a_row_with_files_that_we_did_not_send_is_held(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path, code: int, archive: bool
) -> None:
    """A row like ours has more files: their number is reported, and it is built but not archived. The others are."""
    xnat.project("demo").prearchive_code = code
    commands.login(url)
    assert (await commands("upload", visits, "-P", "demo", "--no-archive", "-q")).code == 0
    gone = visits / "P2" / "0"
    gone.rename(tmp_path / "gone")
    words = ("--adopt-rows",) if archive else ("--adopt-rows", "--no-archive")
    ended = await commands("upload", visits, "-P", "demo", "--state-dir", tmp_path / "new", "-o", "json", *words)
    assert ended.code == 9
    (held,) = [detail for detail in ended.json["details"] if detail["state"] == "held"]
    assert held["subject"] == "P2"
    assert held["reason"].startswith("the prearchive holds more files than were sent there: 1 too many (/prearchive/")
    assert len(xnat.archived) == (SESSIONS - 1 if archive else 0)
    assert len(list(next(row for row in xnat.prearchive if row.subject == "P2").files)) == FILES


async def test_what_is_built_and_left_may_be_filled_up_by_its_own_journal(
    xnat: TestXnat, url: str, visits: Path, tmp_path: Path
) -> None:
    """With --no-archive, new files go into the existing row. All its files count as ours."""
    late = visits / "P2" / "0"
    late.rename(tmp_path / "late")
    options = Options(workers=2, finalizers=2, archive=False)
    assert (await upload(url, [visits], tmp_path / "book", options=options)).count("prearchive") == SESSIONS
    (tmp_path / "late").rename(late)
    assert (await upload(url, [visits], tmp_path / "book", options=options)).count("prearchive") == SESSIONS
    assert len(xnat.prearchive) == SESSIONS
    summary = await upload(url, [visits], tmp_path / "book")
    assert (summary.count("archived"), xnat.sop_uids()) == (SESSIONS, EVERY)


async def test_a_row_that_xnat_is_at_work_on_is_waited_for(
    xnat: TestXnat, url: str, visits: Path, tmp_path: Path
) -> None:
    """A file that is sent while XNAT archives may be lost: the first file is retried like any other call."""
    row = begin(xnat, 2, status=RowStatus.LOCKED_ARCHIVING)
    looks = xnat.faults.add(Fault("listing", Tell(lambda: None), path="prearchive/projects/demo?", share=1.0))

    def report(_: Event) -> None:
        if looks.seen >= 2 and row in xnat:
            xnat.remove_row(row)

    alone = Options(workers=1, finalizers=1)
    summary = await upload(url, [visits / "P2"], tmp_path / "book", options=alone, report=report, adopt_rows=True)
    assert summary.count("archived") == 1
    assert looks.seen >= 2


# --- another tool at every stage


def stranger(row: PrearchiveRow) -> None:
    """Let another tool add a file to a row, which sets it to RECEIVING."""
    files = next(iter(row.scans.values()))
    name, file = next(iter(files.items()))
    files[f"other-{name}"] = replace(file, name=f"other-{name}", sop_uid="9.9")
    row.status = RowStatus.RECEIVING


def row_of(xnat: TestXnat, session: int) -> PrearchiveRow:
    """Return the row of a session."""
    return next(row for row in xnat.prearchive if row.name == f"P{session}_20200102")


def begins(xnat: TestXnat, session: int) -> None:
    """Begin the row of another subject."""
    begin(xnat, session, subject="OTHER", **SCANNER)


def takes_over(xnat: TestXnat, session: int) -> None:
    """Give the row another subject."""
    row_of(xnat, session).subject = "OTHER"


def adds(xnat: TestXnat, session: int) -> None:
    """Add a file to the row."""
    stranger(row_of(xnat, session))


def archives_another(xnat: TestXnat, session: int) -> None:
    """Archive another study under the label."""
    label = f"P{session}_20200102"
    subject = xnat.subject_for_archiving("demo", f"P{session}")
    xnat.add_experiment(
        ArchivedSession(f"XNAT_E9000{session}", "demo", label, subject, "9.9", "xnat:mrSessionData", "", xnat.now())
    )


@pytest.mark.parametrize("code", [0, 4])
@pytest.mark.parametrize(
    ("kind", "path", "nth", "intrude", "why", "stored"),
    [
        pytest.param("import", "", 1, begins, "its subject is OTHER, not P1", 0, id="first file"),
        pytest.param("import", "", 2, adds, "more files than were sent there: 1 too many", FILES, id="later file"),
        pytest.param("import", "", 2, takes_over, "its subject is OTHER, not P1", FILES, id="later file, subject"),
        pytest.param("listing", "/P1_", 1, takes_over, "its subject is OTHER, not P1", 0, id="look after it"),
        pytest.param("listing", "/P1_", 2, takes_over, "its subject is OTHER, not P1", FILES, id="look"),
        pytest.param("listing", "/P1_", 2, adds, "more files than were sent there: 1 too many", FILES, id="look, file"),
        pytest.param("build", "", 1, adds, "more files than were sent there: 1 too many", FILES, id="build"),
        pytest.param("listing", "label=P1_", 1, archives_another, "another study under this label", 0, id="look up"),
        pytest.param("listing", "label=P1_", 2, archives_another, "another study under this label", FILES, id="label"),
        pytest.param("archive", "", 1, archives_another, "Invalid modification of session UID", FILES, id="archive"),
        pytest.param("archive", "", 1, takes_over, "another subject (OTHER, not P1)", FILES, id="archive, subject"),
    ],
)
async def test_another_tool_at_every_stage(
    xnat: TestXnat,
    url: str,
    visits: Path,
    tmp_path: Path,
    kind: str,
    path: str,
    nth: int,
    intrude: Callable[[TestXnat, int], None],
    why: str,
    stored: int,
    code: int,
) -> None:
    """At any stage, the session is held with what XNAT has, is not reported as archived, and the rest arrives."""
    xnat.project("demo").prearchive_code = code
    fault = xnat.faults.add(Fault(kind, Tell(partial(intrude, xnat, 1)), nth, path=path))
    alone = Options(workers=1, finalizers=1, max_open_sessions=1)
    summary = await upload(url, [visits], tmp_path / "book", options=alone)
    assert fault.hits == 1
    (held,) = [one for one in summary.sessions if one.state != "archived"]
    assert (held.session.label, held.state, held.verified) == ("P1_20200102", "held", None)
    assert why in (held.reason or "")
    assert [one.verified for one in summary.sessions if one is not held] == ["uids"] * (SESSIONS - 1)
    assert (summary.files.stored, summary.files.left) == (len(EVERY) - FILES + stored, FILES - stored)
    # If it is archived all the same, which could not be known, the report says where.
    archived = [one for one in xnat.archived if one.label == held.session.label and one.study_uid != "9.9"]
    if archived:
        assert held.uri == f"/data{archived[0].uri}"
    elif kind == "listing" and intrude is archives_another and not stored:
        assert not [one for one in xnat.prearchive if one.name == held.session.label]
    else:
        assert len(sop_uids([row_of(xnat, 1)]) & EVERY) == max(stored, 1)


# --- the cost of listings


async def test_sessions_that_begin_together_share_one_listing(xnat: TestXnat, url: str) -> None:
    """All callers at the same moment share one listing of each project."""
    listing = xnat.faults.add(Fault("listing", Tell(lambda: None), path="prearchive/projects/", share=1.0))
    rows = begin(xnat, 7)
    sessions = [Session("demo", f"S{number}", f"P{number}_20200102", f"1.2.{number}") for number in range(50)]
    found: dict[str, int] = {}
    async with logged_in(url) as client:
        there = PrearchiveRows(client)

        async def look(session: Session) -> None:
            found[session.label] = len(await there.list_session(session))

        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(look, session)
    assert listing.seen < len(sessions) / 2
    assert {label for label, count in found.items() if count} == {rows.name}


async def test_a_prearchive_that_is_not_shown_is_looked_at_after_the_first_file(
    xnat: TestXnat, url: str, visits: Path, tmp_path: Path
) -> None:
    """A user who may not list it sees the row itself."""
    xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), path="prearchive/projects/demo?", share=1.0))
    begin(xnat, 1, subject="OTHER")
    told: list[Withheld] = []

    def report(event: Event) -> None:
        if isinstance(event, OutcomesRecorded):
            told.extend(one for one in event.outcomes if isinstance(one, Withheld))

    summary = await upload(url, [visits], tmp_path / "book", report=report)
    assert (summary.count("held"), summary.count("archived")) == (1, SESSIONS - 1)
    assert ["a file from here is in it" in one.reason for one in told] == [True]
    assert len(list(row_of(xnat, 1).files)) == 1


# --- steps that fail temporarily


@pytest.mark.parametrize("kind", ["build", "archive"])
@pytest.mark.parametrize("action", [Reset(), Status(502)])
async def test_a_step_that_fails_for_a_time_is_no_verdict(
    xnat: TestXnat, url: str, visits: Path, tmp_path: Path, kind: str, action: Reset | Status
) -> None:
    """A step fails for one session while others succeed: it stays open, is reported, and is resumed."""
    xnat.faults.add(Fault(kind, action, path="P1_", share=1.0))
    # As the only one left it would be retried for longer.
    options = Options(workers=4, finalizers=2, outage_timeout=0.5)
    summary = await upload(url, [visits], tmp_path / "book", options=options)
    assert sorted(one.state for one in summary.sessions) == ["archived", "archived", "open"]
    (left,) = [one for one in summary.sessions if one.state == "open"]
    assert (left.reason or "").startswith(("the connection broke", "the server is overloaded or away (502)"))
    assert summary.files.stored == len(EVERY)
    xnat.faults.clear()
    sent = xnat.count["import"]
    again = await upload(url, [visits], tmp_path / "book")
    assert (again.count("archived"), xnat.count["import"]) == (SESSIONS, sent)
    assert xnat.sop_uids() == EVERY


@pytest.mark.parametrize("label", ["again_{PatientID}", "{PatientID}_{StudyDate}_X", "p{PatientID}"])
async def test_a_study_that_has_a_session_gets_no_second_one(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path, label: str
) -> None:
    """Another journal has archived it under another label, perhaps in another case: new files go there."""
    commands.login(url)
    first = ("-E", "P{PatientID}") if label.startswith("p") else ()
    assert (await commands("upload", visits, "-P", "demo", "-q", *first)).code == 0
    labels, imports = {session.label for session in xnat.archived}, xnat.count["import"]
    late = image(900, StudyInstanceUID=xnat.archived[0].study_uid, PatientID=xnat.archived[0].subject.label)
    write(visits / "late.dcm", late)
    other = ("upload", visits, "-P", "demo", "-E", label, "--state-dir", tmp_path / "new", "-o", "json")
    rehearsed = await commands(*other, "--dry-run")
    assert rehearsed.code == 0, rehearsed.out
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["session-kept"] * SESSIONS
    assert {row["session"] for row in rehearsed.json["rows"]} == labels
    for _ in range(2):
        ended = await commands(*other)
        assert ended.code == 0, ended.out
        assert {detail["session"] for detail in ended.json["details"]} == labels
        assert (xnat.count["import"], {session.label for session in xnat.archived}) == (imports + 1, labels)
    assert sop(900) in xnat.sop_uids()


async def test_a_study_of_another_subject_is_held(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path
) -> None:
    """Another journal has archived it under another subject: held before anything is sent."""
    commands.login(url)
    assert (await commands("upload", visits, "-P", "demo", "-q")).code == 0
    imports = xnat.count["import"]
    other = ("-S", "X{PatientID}", "-E", "again_{PatientID}", "--state-dir", tmp_path / "new")
    rehearsed = await commands("upload", visits, "-P", "demo", *other, "--dry-run", "-o", "json")
    assert rehearsed.code == 9
    assert [problem["code"] for problem in rehearsed.json["problems"]] == ["study-on-server"] * SESSIONS
    ended = await commands("upload", visits, "-P", "demo", *other, "-o", "json")
    assert ended.code == 9, ended.err
    assert all("as session P" in detail["reason"] for detail in ended.json["details"]), ended.out
    assert (xnat.count["import"], len(xnat.archived)) == (imports, SESSIONS)


@pytest.mark.parametrize(
    ("one", "another"), [("first_{PatientID}", "again_{PatientID}"), ("V{PatientID}", "v{PatientID}")]
)
async def test_what_waits_in_the_prearchive_makes_no_second_session(
    xnat: TestXnat, url: str, commands: Commands, visits: Path, tmp_path: Path, one: str, another: str
) -> None:
    """Another journal archives the study under other labels while our row is built: ours is held."""
    commands.login(url)
    first = ("upload", visits, "-P", "demo", "-E", one)
    assert (await commands(*first, "-q", "--no-archive")).code == 0
    other = ("-E", another, "--state-dir", tmp_path / "new", "-q")
    assert (await commands("upload", visits, "-P", "demo", *other)).code == 0
    # Also for late files, whose row is built already.
    write(visits / "late.dcm", image(900, StudyInstanceUID="1.2.1", PatientID="P1", SeriesInstanceUID="1.2.1.1"))
    rehearsed = await commands(*first, "--dry-run", "-o", "json")
    ended = await commands(*first, "-o", "json")
    assert (rehearsed.code, ended.code, states(ended)) == (9, 9, {("held", None)}), ended
    archived = {session.label for session in xnat.archived}
    assert archived == {another.format(PatientID=f"P{number}") for number in range(1, SESSIONS + 1)}
    assert len(xnat.prearchive) == SESSIONS
