"""A lost journal, or a second machine: what the archive has is found there and not sent again."""

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from builders import image, router, sop, states_in, upload, write
from conftest import Commands
from journals import ROOT, instance, opened

from asyncimport.journal import Admission, AdoptedFiles, Journal, JournalReader
from asyncimport.model.deliveries import Archived, ArchivedContent, SealedDelivery, Stored
from asyncimport.model.events import Event, OutcomesRecorded, SessionFound
from asyncimport.model.options import Options
from asyncimport.model.summary import Files, exit_code
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import Fault, Script, Status, TestXnat

pytestmark = pytest.mark.anyio

SMALL = Options(workers=3, finalizers=1)
FILES = 6


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write two sessions of three files each, of two patients."""
    for number in range(FILES):
        patient = f"P{number // 3}"
        content = image(
            number, PatientID=patient, StudyInstanceUID=f"1.2.{patient[1:]}", SeriesInstanceUID=f"1.{number // 3}"
        )
        write(tmp_path / "tree" / patient / f"{number}", content)
    return tmp_path / "tree"


ALL = {sop(number) for number in range(FILES)}


class Noted:
    """What was reported, and something that happens at one of the events."""

    def __init__(self, when: type[Event] | None = None, then: Callable[[], None] = lambda: None) -> None:
        self.found: list[SessionFound] = []
        self.outcomes = 0
        self._when = when
        self._then = then

    def __call__(self, event: Event) -> None:
        """Take note."""
        if isinstance(event, SessionFound):
            self.found.append(event)
        if isinstance(event, OutcomesRecorded):
            self.outcomes += len(event.outcomes)
        if self._when is not None and isinstance(event, self._when):
            self._then()


async def before_the_first_file(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Send nothing."""


async def in_mid_upload(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Stop when some of the files have arrived."""
    stop = Stop()
    noted = Noted(OutcomesRecorded, lambda: stop.request() if noted.outcomes >= 2 else None)
    await upload(url, [tree], book, options=replace(SMALL, workers=1), report=noted, stop=stop)
    assert 0 < xnat.count["import"] < FILES
    assert not xnat.archived


async def after_the_seal(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Send all, and have it built."""
    await upload(url, [tree], book, options=replace(SMALL, archive=False))
    assert xnat.count["import"] == FILES
    assert not xnat.archived


async def after_one_is_archived(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Archive one session, and have the other built."""
    await upload(url, [tree / "P0"], book, options=SMALL)
    await upload(url, [tree], book, options=replace(SMALL, archive=False))
    assert (len(xnat.archived), len(xnat.prearchive)) == (1, 1)


async def after_all_is_archived(xnat: TestXnat, url: str, tree: Path, book: Path) -> None:
    """Archive and verify all."""
    await upload(url, [tree], book, options=SMALL)
    assert xnat.sop_uids() == ALL


STAGES = [before_the_first_file, in_mid_upload, after_the_seal, after_one_is_archived, after_all_is_archived]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_journal_is_lost(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path, stage: Callable[..., Awaitable[None]]
) -> None:
    """At any stage: all arrives, nothing archived is sent again, and the next run has nothing to do."""
    await stage(xnat, url, tree, tmp_path / "lost.db")
    there = {session.label for session in xnat.archived}
    xnat.imports.clear()
    book = tmp_path / "journal.db"
    noted = Noted()
    if left := {row.name for row in xnat.prearchive}:
        # They may be those of another machine: they are filled on purpose only.
        summary = await upload(url, [tree], book, options=SMALL, report=noted)
        assert exit_code(summary) == 9
        assert {report.session.label for report in summary.sessions if report.state == "held"} == left
        assert all("--adopt-rows" in (report.reason or "") for report in summary.sessions if report.state == "held")
        assert {row.name for row in xnat.prearchive} == left
    summary = await upload(url, [tree], book, options=SMALL, report=noted, adopt_rows=True)
    assert xnat.sop_uids() == ALL
    assert not xnat.prearchive
    assert exit_code(summary) == 0
    assert {report.state for report in summary.sessions} == {"archived"}
    assert {report.session.label: report.verified for report in summary.sessions} == {
        f"{patient}_20200102": "present" if f"{patient}_20200102" in there else "uids" for patient in ("P0", "P1")
    }
    assert {record.session for record in xnat.imports}.isdisjoint(there)
    assert len(xnat.imports) == FILES - 3 * len(there)
    assert [found.files for found in noted.found] == [3] * len(there)
    files = summary.files
    assert (files.stored, files.already_stored, files.left) == (FILES - 3 * len(there), 3 * len(there), 0)
    before = dict(xnat.count)
    again = await upload(url, [tree], book, options=SMALL)
    assert exit_code(again) == 0
    assert {kind for kind in xnat.count if xnat.count[kind] != before.get(kind, 0)} == {"login", "listing", "logout"}


async def test_what_the_archive_lacks_is_sent_and_merged(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """Of a session that is archived in part, only the rest is sent; it goes into the same session."""
    await upload(url, [tree], tmp_path / "lost.db", options=SMALL)
    lacking = {sop(99)}
    for session in xnat.archived:
        for _, resource in session.resources:
            lacking.add(resource.files.popitem()[1].sop_uid)
    write(tree / "P1" / "new", image(99, PatientID="P1", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.1"))
    xnat.imports.clear()
    noted = Noted()
    book = tmp_path / "journal.db"
    summary = await upload(url, [tree], book, options=SMALL, report=noted)
    assert sorted(record.sop_uid for record in xnat.imports) == sorted(lacking)
    assert len(lacking) == 3
    assert xnat.sop_uids() == ALL | {sop(99)}
    assert len(xnat.archived) == 2
    assert [(report.state, report.verified) for report in summary.sessions] == [("archived", "present")] * 2
    assert sorted(found.files for found in noted.found) == [2, 2]
    assert set((await states_in(book)).values()) == {"STORED"}


async def test_later_files_are_found_in_the_archive_too(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """The archive is asked before the first file; the scan may find the session's other files later."""
    await upload(url, [tree], tmp_path / "lost.db", options=SMALL)
    xnat.imports.clear()
    book = tmp_path / "journal.db"
    # A run that knows one file of each session only, and another that meets them all.
    some = tmp_path / "some"
    for patient in ("P0", "P1"):
        (some / patient).mkdir(parents=True)
        first = sorted((tree / patient).iterdir())[0]
        shutil.copy2(first, some / patient / first.name)
    await upload(url, [some], book, options=SMALL)
    summary = await upload(url, [some, tree], book, options=SMALL)
    assert not xnat.imports
    assert exit_code(summary) == 0
    assert (summary.files.already_stored, summary.files.duplicate) == (6, 2)


def test_files_that_the_scan_meets_late_are_found_too(tmp_path: Path) -> None:
    """The archive's answer holds for files that the scan finds afterwards."""
    there = ArchivedContent("/data/archive/E", frozenset({"1.2.E1.a", "1.2.E1.b"}))
    with opened(tmp_path / "journal.db") as journal:
        journal.scan.admit([instance("a"), instance("c")])
        (claim,) = journal.queue.claim(10, max_active=10) or []
        assert claim.check_archive
        assert journal.existing.adopt(claim, there) == AdoptedFiles(1, 10)
        assert journal.queue.first_files.count_in_time() == 0
        assert journal.scan.admit([instance("b"), instance("d")]) == Admission([], [], 1, 10)
        (alone,) = journal.queue.claim(10, max_active=10) or []
        assert (alone.check_archive, alone.delivery.number, alone.instance.sop_uid) == (False, 2, "1.2.E1.c")
        journal.queue.record_outcomes([Stored(alone, "/prearchive/E1/1")])
        assert [one.instance.sop_uid for one in journal.queue.claim(10, max_active=10) or []] == ["1.2.E1.d"]
        assert JournalReader.of(journal).summary().files == Files(already_stored=2, stored=1, left=1)
    # What a later run meets is looked for again, as nobody knows what of it the archive has.
    with opened(tmp_path / "journal.db") as journal:
        journal.scan.admit([instance("e")])
        (claim,) = journal.queue.claim(10, max_active=10) or []
        assert (claim.check_archive, claim.delivery.number, claim.instance.sop_uid) == (True, 2, "1.2.E1.e")
        assert journal.existing.adopt(claim, there) is None


def test_instances_found_in_the_archive_were_not_sent(tmp_path: Path) -> None:
    """Whatever they were sent as before: `status` counts the bytes and zips of what this journal has sent."""
    there = ArchivedContent("/data/archive/E", frozenset(f"1.2.E1.{name}" for name in "abcd"))
    with opened(tmp_path / "journal.db") as journal:
        journal.scan.admit([instance("a"), instance("b"), instance("c")])
        journal.scan.finish([ROOT])
        (claim,) = journal.queue.claim(10, max_active=10) or []
        assert journal.existing.adopt(claim, None) is None
        journal.queue.record_outcomes([Stored(claim, "/prearchive/E1/1")])
        zipped = [Stored(one, "/prearchive/E1/1", zip_size=4) for one in journal.queue.claim(10, max_active=10) or []]
        journal.queue.record_outcomes(zipped)
        sealed = journal.deliveries.claim()
        assert isinstance(sealed, SealedDelivery)
        journal.deliveries.record_verdict(Archived(sealed.delivery, "/data/archive/E", "uids"))
        journal.deliveries.repair(claim.instance.session, ["1.2.E1.c"])
    # Meanwhile somebody else has sent it, and another one.
    with opened(tmp_path / "journal.db") as journal:
        journal.scan.admit([instance("c"), instance("d")])
        (claim,) = journal.queue.claim(10, max_active=10) or []
        assert journal.existing.adopt(claim, there) == AdoptedFiles(2, 20)
    with JournalReader.open(tmp_path / "journal.db") as reader:
        summary = reader.summary()
        assert (summary.files.stored, summary.bytes_stored, summary.bytes_sent, summary.zips) == (4, 40, 14, 1)


async def test_relabeling_keeps_instances_found_in_the_archive(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path
) -> None:
    """Rules may change for what was not sent yet; what the archive has keeps its place."""
    await upload(url, [tree], tmp_path / "lost.db", options=SMALL)
    book = tmp_path / "journal.db"
    await upload(url, [tree], book, options=SMALL)
    rules = router(session="X_{PatientID}")
    again = partial(Journal, book, destination=url, rules=rules.rules, relabel=True)
    journal = await anyio.to_thread.run_sync(again)
    await anyio.to_thread.run_sync(journal.close)
    summary = await upload(url, [tree], book, options=SMALL, rules=rules)
    assert {report.verified for report in summary.sessions} == {"present"}
    assert len(xnat.archived) == 2


async def test_two_machines_share_a_collection(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """Each has a journal; each finds what the other has archived, and verifies all of it in the end."""
    async with anyio.create_task_group() as tasks:
        for name, part in (("one", "P0"), ("two", "P1")):
            tasks.start_soon(upload, url, [tree / part], tmp_path / f"{name}.db")
    assert xnat.sop_uids() == ALL
    xnat.imports.clear()
    for name in ("one", "two"):
        summary = await upload(url, [tree], tmp_path / f"{name}.db", options=SMALL)
        assert exit_code(summary) == 0
        assert sorted(report.verified or "" for report in summary.sessions) == ["present", "uids"]
    assert not xnat.imports


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda session: setattr(session, "study_uid", "9.9"), "another study under this label (P0_20200102: 9.9)"),
        (
            lambda session: setattr(session, "subject", replace(session.subject, label="WRONG")),
            "under another subject (WRONG, not P0)",
        ),
    ],
)
async def test_something_else_under_the_label_holds_the_session(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path, change: Callable[[object], None], reason: str
) -> None:
    """Nothing of it is sent, and its files wait."""
    await upload(url, [tree / "P0"], tmp_path / "lost.db", options=SMALL)
    change(xnat.archived[0])
    xnat.imports.clear()
    book = tmp_path / "journal.db"
    summary = await upload(url, [tree], book, options=SMALL)
    assert {record.session for record in xnat.imports} == {"P1_20200102"}
    (held,) = [report for report in summary.sessions if report.state == "held"]
    assert reason in (held.reason or "")
    assert (summary.files.left, summary.files.stored) == (3, 3)
    assert exit_code(summary) == 9


@pytest.mark.parametrize("overwrite", [False, True])
async def test_nothing_is_found_where_a_script_gives_new_uids(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path, overwrite: bool
) -> None:
    """The session is held before anything is sent, unless the files may replace what is there."""
    xnat.script = Script(map_uid=lambda uid: f"{uid}.9")
    commands.login(url)
    words = ("upload", tree, "-P", "demo", "-o", "json", "-q")
    assert (await commands(*words)).code == 0
    xnat.imports.clear()
    extra = ("--overwrite", "append") if overwrite else ()
    ended = await commands(*words, "--state-dir", tmp_path / "other", *extra)
    assert ended.code == (0 if overwrite else 9), ended.out
    assert len(xnat.imports) == (FILES if overwrite else 0)
    assert len(xnat.sop_uids()) == FILES
    if not overwrite:
        assert all("nobody can tell which of them" in detail["reason"] for detail in ended.json["details"])


async def test_nothing_is_sent_while_the_archive_cannot_be_asked(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path
) -> None:
    """Nothing of the session is sent unseen; the next run asks again."""
    await upload(url, [tree / "P0"], tmp_path / "lost.db", options=SMALL)
    xnat.imports.clear()
    book = tmp_path / "journal.db"
    fault = xnat.faults.add(Fault("listing", Status(500), times=1_000_000, path="label=P0_"))
    summary = await upload(url, [tree], book, options=replace(SMALL, outage_timeout=2.0))
    assert fault.hits
    assert {record.session for record in xnat.imports} == {"P1_20200102"}
    assert (summary.files.failed, summary.files.left, summary.files.stored) == (0, 3, 3)
    assert [report.state for report in summary.sessions] == ["held", "archived"]
    xnat.faults.clear()
    summary = await upload(url, [tree], book, options=SMALL)
    assert exit_code(summary) == 0
    assert len(xnat.imports) == 3


async def test_found_instances_are_not_safe_to_delete(url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """Their UIDs are in the archive, but their bytes were never compared; receipts are about sent files only."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    commands.env["ASYNCIMPORT_STATE_DIR"] = str(tmp_path / "other")
    write(tree / "P1" / "new", image(99, PatientID="P1", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.1"))
    ended = await commands("upload", tree, "-P", "demo", "-q", "-o", "json", "--receipts", tmp_path / "receipts")
    assert ended.code == 0, ended.out
    assert {detail["verified"] for detail in ended.json["details"]} == {"present"}
    state = await commands("status", "-P", "demo")
    assert "2 archived, 2 of them by UIDs that were there before" in state.out
    assert (tmp_path / "receipts").read_text().count('"kind": "file"') == 1
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", tmp_path / "safe")
    assert verify.code == 0, verify.out
    assert {detail["verified"] for detail in verify.json["details"]} == {"present"}
    assert (tmp_path / "safe").read_text().splitlines() == [str(tree / "P1" / "new")]


async def test_instances_found_and_lost_later_are_reported_and_repaired(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """`verify` compares found instances like sent ones, and `--repair` sends them; then they are like any other."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    commands.env["ASYNCIMPORT_STATE_DIR"] = str(tmp_path / "other")
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    for session in xnat.archived:
        for _, resource in session.resources:
            resource.files.clear()
    assert (await commands("verify", "-P", "demo")).code == 9
    repaired = await commands("verify", "-P", "demo", "--repair", "-o", "json", "--safe-to-delete", tmp_path / "safe")
    assert repaired.code == 0, repaired.out
    assert repaired.json["repaired"] == FILES
    assert {detail["verified"] for detail in repaired.json["details"]} == {"uids"}
    assert len((tmp_path / "safe").read_text().splitlines()) == FILES


async def test_another_machine_sent_the_rest(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """One journal brought a part of a session, another the rest: the first finds it there and sends nothing."""
    part, rest = tmp_path / "part", tmp_path / "rest"
    shutil.copytree(tree, part)
    (part / "P0" / "2").unlink()
    shutil.copytree(tree / "P0", rest / "P0")
    await upload(url, [part], tmp_path / "one", options=SMALL)
    await upload(url, [rest], tmp_path / "two", options=SMALL)
    assert xnat.sop_uids() == ALL
    assert xnat.count["import"] == FILES
    summary = await upload(url, [rest], tmp_path / "one", options=SMALL)
    assert exit_code(summary) == 0
    assert xnat.count["import"] == FILES
    assert summary.files.already_stored == 3


async def test_the_archive_is_asked_before_more_of_a_session_is_sent(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path
) -> None:
    """The journal finds there what it has brought itself: the rest is sent, and all is verified."""
    part = tmp_path / "part"
    shutil.copytree(tree / "P0", part / "P0")
    (part / "P0" / "2").unlink()
    await upload(url, [part], tmp_path / "one", options=SMALL)
    summary = await upload(url, [tree], tmp_path / "one", options=SMALL)
    assert exit_code(summary) == 0
    assert (xnat.sop_uids(), xnat.count["import"]) == (ALL, FILES)
    assert {one.verified for one in summary.sessions} == {"uids"}
