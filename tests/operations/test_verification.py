"""What "verified" means: which instances the archive holds, wherever XNAT has put them."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pydicom
import pytest
from anyio.abc import Process
from builders import AT_ONCE, image, logged_in, router, sop, upload, write
from conftest import Commands
from patience import in_time
from pydicom.uid import SecondaryCaptureImageStorage
from verifying import compare

from asyncimport.journal import JournalReader
from asyncimport.journal.database import connect_read_only
from asyncimport.model.choices import Overwrite
from asyncimport.model.files import Session
from asyncimport.model.options import Options
from asyncimport.model.summary import exit_code
from asyncimport.operations.comparison import SessionFinding, compare_sessions
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import Administer, Fault, RowStatus, Script, Status, Tell, TestXnat, serve
from asyncimport.testserver.samples import generated
from asyncimport.xnat.archive import parts_among
from asyncimport.xnat.replies.archive import Experiment

pytestmark = pytest.mark.anyio


async def test_only_compared_sessions_are_in_memory(url: str, commands: Commands, tmp_path: Path) -> None:
    """The UIDs of a session are read when it is compared, so a journal may have any size."""
    await anyio.to_thread.run_sync(partial(generated, tmp_path / "many", sessions=30, files=60, size=500, seed=1))
    commands.login(url)
    journal = tmp_path / "x.journal"
    assert (await commands("upload", tmp_path / "many", "-P", "demo", "-q", "--journal", journal)).code == 0
    said: list[str] = []
    ahead: list[int] = []

    def report(_: SessionFinding) -> None:
        read = sum("SELECT i.sop_uid, i.state <> 'STORED'" in statement for statement in said)
        ahead.append(read - len(ahead))

    with closing(await anyio.to_thread.run_sync(connect_read_only, journal)) as connection:
        connection.set_trace_callback(said.append)
        async with logged_in(url) as client:
            found = await compare_sessions(client, JournalReader(connection, journal, run=None), AT_ONCE, report=report)
    assert [one.verified for one in found] == ["uids"] * 30
    assert max(ahead) <= 9


async def test_instances_under_secondary_count(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """XNAT keeps secondary captures in a separate resource, where they are found."""
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    capture = pydicom.dcmread(paths[0])
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    capture.save_as(paths[0])
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    labels = {resource.label for session in xnat.archived for _, resource in session.resources}
    assert labels == {"DICOM", "secondary"}
    assert {detail["verified"] for detail in ended.json["details"]} == {"uids"}


async def test_series_of_one_number_are_found_by_their_uids(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Two series with one SeriesNumber become scans 1 and 1-MR1: scan numbers prove nothing."""
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.SeriesNumber = 1
        dataset.SeriesInstanceUID = f"{dataset.StudyInstanceUID}.{int(dataset.InstanceNumber) % 2}"[-60:].strip(".")
        dataset.save_as(path)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert any("-" in scan for session in xnat.archived for scan in session.scans)
    assert len(xnat.sop_uids()) == 12


async def test_the_same_study_under_another_label_proves_nothing(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """A lost instance of our session is missing even if another session of the study has it."""
    commands.login(url)
    assert (
        await commands("upload", tree, "-P", "demo", "-E", "other_{PatientID}", "--state-dir", tree.parent)
    ).code == 0
    lost: list[str] = []
    theirs = {session.label: session.study_uid for session in xnat.archived}

    def lose() -> None:
        for session in xnat.archived:
            session.study_uid = theirs.get(session.label, session.study_uid)
        for row in xnat.prearchive:
            for files in row.scans.values():
                lost.extend(files.popitem()[1].sop_uid for _ in files and [1])

    # Had it been there before, nothing of ours would have been sent.
    for session in xnat.archived:
        session.study_uid = "1.9.9"
    xnat.faults.add(Fault("build", Tell(lose), times=4))
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert lost
    assert ended.code == 9, ended.out
    assert {(detail["state"], detail["verified"]) for detail in ended.json["details"]} == {("held", None)}
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", tree.parent / "safe")
    assert verify.code == 9
    assert all(detail["missing"] for detail in verify.json["details"])
    safe = (tree.parent / "safe").read_text().splitlines()
    gone = {uid for _, _, file in xnat.instances() for uid in [file.sop_uid]}
    held = {file.sop_uid for session, _, file in xnat.instances() if not session.label.startswith("other_")}
    assert {pydicom.dcmread(path).SOPInstanceUID for path in safe} == held < gone


SMALL = Options(workers=4, finalizers=2)


def pet_mr(tree: Path) -> None:
    """Make every second file of each study a PET image."""
    for number, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
        dataset = pydicom.dcmread(path)
        dataset.SeriesNumber = 1 + number % 2
        dataset.Modality = ("MR", "PT")[number % 2]
        dataset.SeriesInstanceUID = f"1.2.{int(dataset.StudyInstanceUID[-9:])}.{number % 2}"
        dataset.save_as(path)


@pytest.mark.parametrize("template", ["{PatientID}", "{PatientID}_PETMR"])
async def test_a_study_that_xnat_divides_is_found_whole(tree: Path, tmp_path: Path, template: str) -> None:
    """PET and MR of one study may become two sessions, which are compared together."""
    xnat = TestXnat(tmp_path / "xnat", pet_mr="separate")
    pet_mr(tree)
    book, rules = tmp_path / "journal.db", router(session=template)
    async with serve(xnat) as url:
        built = await upload(url, [tree], book, rules=rules, options=replace(SMALL, archive=False))
        assert built.count("prearchive") == 2
        # As when somebody has them rebuilt.
        xnat.project("demo").prearchive_code = 4
        for row in xnat.prearchive:
            row.source, row.prevent_auto_commit, row.status = "", False, RowStatus.RECEIVING
            row.touched, row.autoarchive = -1e9, "AutoArchive"
        assert await xnat.idle_round() == 2
        assert len(xnat.archived) == 4
        summary = await upload(url, [tree], book, rules=rules, options=SMALL)
        # XNAT has made rows of its own for them: nothing shows that they hold what ours did.
        assert [(one.state, one.verified) for one in summary.sessions] == [("archived", "present")] * 2
        assert [len(one.missing) for one in await compare(url, book)] == [0, 0]
        part = next(session for session in xnat.archived if session.xsi_type == "xnat:petSessionData")
        for _, resource in part.resources:
            resource.files.popitem()
        assert sorted(len(one.missing) for one in await compare(url, book)) == [0, 1]


def test_parts_are_those_that_xnat_has_made() -> None:
    """Parts are of both types, of the study and subject, and named as XNAT names them."""
    session = Session("P", "Sub", "E", "1.2")
    mr = Experiment("1", "E_MR", "1.2", "sub", "xnat:mrSessionData")
    pet = Experiment("2", "E_PET1", "1.2", "sub", "xnat:petSessionData")
    assert parts_among([mr, pet, Experiment("3", "E", "1.2", "sub", "xnat:mrSessionData")], session) == (mr, pet)
    for other in (
        replace(pet, label="E_PETx"),
        replace(pet, label="F_PET"),
        replace(pet, study_uid="1.3"),
        replace(pet, subject="other"),
        replace(pet, type="xnat:mrSessionData"),
        mr,
    ):
        assert parts_among([mr, other], session) == ()
    assert parts_among([replace(mr, label="AMRB"), replace(pet, label="APETB")], replace(session, label="APETMRB"))
    assert not parts_among([mr, pet], replace(session, label="APETMRB"))


async def test_a_study_that_xnat_calls_pet_is_found_under_its_new_label(tree: Path, tmp_path: Path) -> None:
    """XNAT changes labels with PETMR when a PET/MR study becomes a PET session; its answer names the new label."""
    xnat = TestXnat(tmp_path / "xnat", pet_mr="pet")
    pet_mr(tree)
    book, rules = tmp_path / "journal.db", router(session="{PatientID}_petmr")
    async with serve(xnat) as url:
        summary = await upload(url, [tree], book, rules=rules, options=SMALL)
        assert [one.label for one in xnat.archived] == [f"{one.subject.label}_PET" for one in xnat.archived]
        uris = {f"/data{session.uri}" for session in xnat.archived}
        assert {(one.verified, one.uri) for one in summary.sessions} == {("uids", uri) for uri in uris}
        assert [one.verified for one in await compare(url, book)] == ["uids", "uids"]


def mapped(uid: str) -> str:
    """Map a UID."""
    return f"2.25.{int.from_bytes(hashlib.sha256(uid.encode()).digest()[:15])}"


@pytest.mark.parametrize("of", ["site", "project"])
@pytest.mark.parametrize("instances", [True, False])
async def test_studies_whose_uid_a_script_maps_are_verified_at_once(
    tree: Path, tmp_path: Path, of: str, instances: bool
) -> None:
    """The session is found by its label and XNAT's answer, without waiting, and lost instances are reported."""
    script = Script(map_study=mapped, map_series=mapped, map_uid=mapped if instances else None)
    xnat = TestXnat(tmp_path / "xnat", anonymise=script if of == "site" else False)
    if of == "project":
        xnat.project("demo").script = script
    book = tmp_path / "journal.db"
    async with serve(xnat) as url:
        summary = await upload(url, [tree], book, options=SMALL)
        word = "count" if instances else "uids"
        assert [(one.state, one.verified) for one in summary.sessions] == [("archived", word)] * 2
        assert xnat.count["build"] == xnat.count["archive"] == 2
        assert [one.verified for one in await compare(url, book)] == [word, word]
        for _, resource in xnat.archived[0].resources:
            resource.files.popitem()
        assert [one.problem is None for one in await compare(url, book)].count(False) == 1


async def test_another_study_under_the_label_is_told_at_once(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """Waiting would not help, and its instances prove nothing about ours."""
    tree = tmp_path / "tree"
    generated(tree, sessions=1, files=3, size=2_000, seed=6)
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-o", "json")).code == 0
    xnat.archived[0].study_uid = "9.9"
    verify = await commands("verify", "-o", "json")
    assert verify.code == 9
    assert "another study" in verify.json["details"][0]["reason"]


async def test_where_a_script_gives_new_uids_only_counts_can_be_compared(
    commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """If a script maps UIDs, only numbers are compared, and the summary says so."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=lambda uid: f"2.25.{abs(hash(uid))}"))
    async with serve(xnat) as url:
        commands.login(url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert ended.code == 0, ended.out
        assert {detail["verified"] for detail in ended.json["details"]} == {"count"}
        assert "2 archived, 2 of them verified by number only\n" in (await commands("status")).out
        verify = await commands("verify", "-o", "json")
        assert verify.code == 0
        assert {detail["verified"] for detail in verify.json["details"]} == {"count"}
        shown = (await commands("verify", "--safe-to-delete", tmp_path / "safe")).out
        assert shown.startswith("2 of 2 sessions hold every instance that was stored\n  2 of them verified by number")
        assert "12 files are kept back: nothing proves that the archive has the same content" in shown
        assert not (tmp_path / "safe").read_text()


@pytest.mark.parametrize("script", [None, Script()])
async def test_new_uids_are_not_believed_without_a_script_that_makes_them(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, script: Script | None
) -> None:
    """Other UIDs are other instances, also with XNAT's default script."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    xnat.script = script
    for session in xnat.archived:
        for _, resource in session.resources:
            for name, file in list(resource.files.items()):
                resource.files[name] = replace(file, sop_uid=f"9{file.sop_uid}")
    verify = await commands("verify", "-o", "json")
    assert verify.code == 9
    assert verify.json["sessions"]["incomplete"] == 2


def unreadable_once_archived(xnat: TestXnat) -> None:
    """Make the next archived session unreadable."""

    def no_more() -> None:
        xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), times=AT_ONCE.attempts, path="/resources?all"))

    xnat.faults.add(Fault("archive", Tell(no_more)))


async def test_an_archive_that_cannot_be_read_is_archived_but_not_verified(
    xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """The session is archived but not verified, and the next run verifies it."""
    tree, book = tmp_path / "tree", tmp_path / "journal.db"
    generated(tree, sessions=1, files=3, size=2_000, seed=6)
    unreadable_once_archived(xnat)
    for verified, code in ((None, 9), ("uids", 0)):
        summary = await upload(url, [tree], book, options=SMALL)
        assert [(one.state, one.verified, one.earlier) for one in summary.sessions] == [("archived", verified, False)]
        assert exit_code(summary) == code
    assert (xnat.count["import"], xnat.count["archive"]) == (3, 1)
    assert (await upload(url, [tree], book, options=SMALL)).sessions[0].earlier


@pytest.mark.parametrize("gone", ["an instance", "the session"])
async def test_what_was_not_verified_may_be_lacking_when_it_is(
    xnat: TestXnat, url: str, tree: Path, tmp_path: Path, gone: str
) -> None:
    """Missing instances are sent again; a missing session is reported and looked for again."""
    book = tmp_path / "journal.db"
    unreadable_once_archived(xnat)
    await upload(url, [tree], book, options=replace(SMALL, finalizers=1))
    session = next(one for one in xnat.archived)
    if gone == "the session":
        xnat.remove_experiment(session)
    for _, resource in session.resources:
        resource.files.popitem()
    summary = await upload(url, [tree], book, options=SMALL)
    report = next(one for one in summary.sessions if one.session.label == session.label)
    if gone == "an instance":
        assert (report.state, report.verified, report.earlier) == ("archived", "uids", False)
        assert len(xnat.sop_uids()) == 12
        assert xnat.count["import"] == 12 + len([*session.resources])
    else:
        assert (report.state, report.verified, report.reason) == (
            "archived",
            None,
            "the session is not in the archive any more",
        )
        assert (xnat.count["import"], xnat.count["archive"]) == (12, 2)


async def test_what_nobody_has_looked_at_is_told_with_its_day(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """An unchanged upload does not check earlier sessions; it says when they were verified and how to check them."""
    commands.login(url)
    first = await commands("upload", tree, "-P", "demo")
    assert "2 archived, 2 of them verified" in first.out
    for session in list(xnat.archived):
        xnat.remove_experiment(session)
    again = await commands("upload", tree, "-P", "demo")
    assert again.code == 0
    assert "verified" not in again.out
    day = datetime.now(UTC).astimezone().date().isoformat()
    assert f"2 of them were archived on {day}; `asyncimport verify` checks that they are still there" in again.out
    said = (await commands("upload", tree, "-P", "demo", "-o", "json")).json["details"]
    assert all(datetime.fromisoformat(detail["as_of"]).astimezone().date().isoformat() == day for detail in said)
    assert (await commands("verify")).code == 9


def losing_new(xnat: TestXnat, number: int, times: int = 1) -> Fault:
    """Let XNAT lose this number of files of each session right before it builds it."""

    def lose() -> None:
        for row in xnat.prearchive:
            names = [(files, name) for files in row.scans.values() for name in files]
            for files, name in names[:number]:
                del files[name]

    return xnat.faults.add(Fault("build", Tell(lose), times=times))


@pytest.mark.parametrize("lost", [0, 2])
@pytest.mark.parametrize("foreign", [0, 5])
async def test_what_was_there_before_does_not_make_up_for_losses(tmp_path: Path, foreign: int, lost: int) -> None:
    """If only numbers are compared, the archive must have gained as many as were sent; else the session is held."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=mapped))
    for number in range(foreign):
        write(tmp_path / "foreign" / str(number), image(number, SeriesInstanceUID="9.9", SeriesNumber=9))
    for number in range(10, 14):
        write(tmp_path / "ours" / str(number), image(number))
    async with serve(xnat) as url:
        if foreign:
            await upload(url, [tmp_path / "foreign"], tmp_path / "other.db", options=SMALL)
        losing_new(xnat, lost)
        book = tmp_path / "journal.db"
        # Files may take the place of others: where UIDs are new, nobody could tell which are there already.
        summary = await upload(url, [tmp_path / "ours"], book, options=SMALL, overwrite=Overwrite.APPEND)
        (report,) = summary.sessions
        assert len(xnat.sop_uids()) == foreign + 4 - lost
        assert xnat.count["archive"] == (2 if foreign else 1)
        if lost:
            assert (report.state, report.verified) == ("held", None)
            assert "too few instances (2 missing)" in (report.reason or "")
        else:
            assert (report.state, report.verified) == ("archived", "count")
        (finding,) = await compare(url, book)
        assert finding.verified == (None if lost else "count")
        if not lost and foreign:
            # Later too: somebody takes two out again.
            for _, resource in [*xnat.archived[0].resources][:1]:
                for _ in range(2):
                    resource.files.popitem()
            (finding,) = await compare(url, book)
            assert "2 instances are missing, and nobody can tell which" in (finding.problem or "")


def others_come(xnat: TestXnat, added: int, removed: int = 0) -> None:
    """Add other instances to the archived session, and remove the oldest ones."""
    resource = next(iter(xnat.archived[0].resources))[1]
    for name in list(resource.files)[:removed]:
        del resource.files[name]
    some = next(iter(resource.files.values()))
    for number in range(added):
        resource.files[f"other-{number}"] = replace(some, name=f"other-{number}", sop_uid=f"9.9.{number}")


@pytest.mark.parametrize(
    ("lost", "added", "removed", "foreign", "expected"),
    [
        # XNAT loses two on the way, and two of somebody else's come in while ours are archived.
        pytest.param(2, 2, 0, 0, ("held", None), id="lost in the row"),
        pytest.param(2, 2, 0, 5, ("held", None), id="lost in the row, beside what was there"),
        # None of ours is lost, but nobody can tell.
        pytest.param(0, 2, 0, 0, ("archived", "present"), id="more than were sent"),
        # Somebody takes out two of what was there, and adds one: it is not ours that makes up the number.
        pytest.param(0, 2, 2, 5, ("archived", "present"), id="others in the place of others"),
        pytest.param(0, 0, 0, 5, ("archived", "count"), id="nobody else"),
    ],
)
async def test_others_do_not_make_up_for_losses_where_only_numbers_can_be_compared(
    tmp_path: Path, lost: int, added: int, removed: int, foreign: int, expected: tuple[str, str | None]
) -> None:
    """The archive must have gained as many as were sent, and the row must have had them all."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=mapped))
    for number in range(foreign):
        write(tmp_path / "foreign" / str(number), image(number))
    for number in range(10, 14):
        write(tmp_path / "ours" / str(number), image(number))
    async with serve(xnat) as url:
        if foreign:
            await upload(url, [tmp_path / "foreign"], tmp_path / "other.db", options=SMALL)
        losing_new(xnat, lost)

        def meanwhile() -> None:
            come = partial(others_come, xnat, added, removed)
            xnat.faults.add(Fault("listing", Tell(come), path="/resources?all"))

        xnat.faults.add(Fault("archive", Tell(meanwhile)))
        summary = await upload(url, [tmp_path / "ours"], tmp_path / "book", options=SMALL, overwrite=Overwrite.APPEND)
        (report,) = summary.sessions
        assert (report.state, report.verified) == expected
        if lost:
            assert "too few instances (2 missing)" in (report.reason or "")


async def test_what_is_gone_later_is_missed_though_a_script_maps_uids(tmp_path: Path) -> None:
    """`verify` compares with what the archive held: other new instances do not count."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=mapped))
    for number in range(4):
        write(tmp_path / "ours" / str(number), image(number))
    async with serve(xnat) as url:
        await upload(url, [tmp_path / "ours"], tmp_path / "book", options=SMALL)
        assert [one.verified for one in await compare(url, tmp_path / "book")] == ["count"]
        others_come(xnat, 3, removed=1)
        (finding,) = await compare(url, tmp_path / "book")
        assert finding.verified is None
        assert "1 instance is missing, and nobody can tell which" in (finding.problem or "")


async def test_what_is_lost_is_sent_again_though_a_script_maps_uids(tree: Path, tmp_path: Path) -> None:
    """If as many are missing by number as by UID, the missing UIDs are known: the script maps other UIDs."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_study=mapped))
    async with serve(xnat) as url:
        losing_new(xnat, 2)
        summary = await upload(url, [tree], tmp_path / "journal.db", options=SMALL)
        assert [(report.state, report.verified) for report in summary.sessions] == [("archived", "uids")] * 2
        assert (xnat.count["import"] > 12, len(xnat.sop_uids())) == (True, 12)


async def test_what_was_there_before_is_known_after_a_kill(tmp_path: Path) -> None:
    """It is counted and stored before archiving, because a later run could not find out."""
    xnat = TestXnat(tmp_path / "xnat", anonymise=Script(map_uid=mapped))
    for number in range(5):
        write(tmp_path / "foreign" / str(number), image(number, SeriesInstanceUID="9.9", SeriesNumber=9))
    for number in range(10, 14):
        write(tmp_path / "ours" / str(number), image(number))
    async with serve(xnat) as url:
        await upload(url, [tmp_path / "foreign"], tmp_path / "other.db", options=SMALL)
        losing_new(xnat, 2)
        stop = Stop()

        def at_once() -> None:
            stop.request()
            stop.request()

        # It is stopped as soon as XNAT is to archive, which archives all the same.
        xnat.faults.add(Fault("archive", Tell(at_once)))
        book = tmp_path / "journal.db"
        await upload(url, [tmp_path / "ours"], book, options=SMALL, overwrite=Overwrite.APPEND, stop=stop)
        with in_time():
            while xnat.prearchive:
                await anyio.lowlevel.checkpoint()
        summary = await upload(url, [tmp_path / "ours"], book, options=SMALL, overwrite=Overwrite.APPEND)
        (report,) = summary.sessions
        assert (report.state, report.verified) == ("held", None), report


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_files_that_were_sent_again_are_proven_by_what_came_with_them(
    xnat: TestXnat, url: str, tmp_path: Path, lost: int
) -> None:
    """Their UIDs were in the archive before, so none may be lost on the way; lost ones are sent again."""
    ours, book = tmp_path / "ours", tmp_path / "journal.db"
    for number in range(4):
        write(ours / str(number), image(number))
    await upload(url, [ours], book, options=SMALL)
    for number in range(2):
        write(ours / str(number), image(number, pixels=300))
    if lost:
        losing_new(xnat, 1, times=lost)
    again = replace(SMALL, resend_changed=True)
    summary = await upload(url, [ours], book, options=again, overwrite=Overwrite.APPEND)
    (report,) = summary.sessions
    sizes = {file.sop_uid: file.size for _, _, file in xnat.instances()}
    new = [sizes[sop(number)] > sizes[sop(3)] for number in range(2)]
    assert len(sizes) == 4
    if lost == 2:
        assert new.count(True) == 1
        assert (report.state, report.verified) == ("held", None)
        assert "XNAT has lost some of 2 files that were sent in place of earlier ones" in (report.reason or "")
    else:
        assert all(new)
        assert (report.state, report.verified, report.presumed) == ("archived", "uids", 0)
    assert xnat.count["import"] == 4 + 2 * (1 + bool(lost))


def delete_row(xnat: TestXnat) -> None:
    """Let someone delete the row with the new versions before it is archived."""
    xnat.faults.add(Fault("archive", Administer("delete")))


def reject_bad(xnat: TestXnat) -> None:
    """Let a script drop a new version while archiving; the old one stays under its UID."""
    xnat.project("demo").script = Script(reject=lambda header: header.series_description == "bad")


@pytest.mark.parametrize("keep_old", [delete_row, reject_bad], ids=["somebody deletes the row", "a script rejects one"])
async def test_where_old_versions_stay_nothing_of_what_was_sent_again_is_proven(
    xnat: TestXnat, url: str, tmp_path: Path, keep_old: Callable[[TestXnat], None]
) -> None:
    """The archive has old versions under the UIDs of the new ones."""
    ours, book = tmp_path / "ours", tmp_path / "journal.db"
    for number in range(4):
        write(ours / str(number), image(number))
    await upload(url, [ours], book, options=SMALL)
    for number in range(2):
        write(ours / str(number), image(number, pixels=300, SeriesDescription=("good", "bad")[number]))
    keep_old(xnat)
    again = replace(SMALL, resend_changed=True)
    summary = await upload(url, [ours], book, options=again, overwrite=Overwrite.APPEND)
    (report,) = summary.sessions
    assert (report.state, report.verified, report.presumed) == ("archived", "present", 2)


async def test_files_that_were_sent_again_without_proof_are_told_apart(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """After a kill between archiving and verifying, the session is only "present", and not safe to delete."""
    ours = tmp_path / "ours"
    for number in range(4):
        write(ours / str(number), image(number))
    commands.login(url)
    words = ("upload", ours, "-P", "demo", "-q", "-o", "json")
    assert (await commands(*words)).code == 0
    write(ours / "0", image(0, pixels=300))
    again = (*words, "--resend-changed", "--overwrite", "append")
    process: list[Process] = []
    xnat.faults.add(Fault("archive", Tell(lambda: process[0].kill())))
    async with commands.start(*again) as running:
        process.append(running)
        await running.wait()
    with in_time():
        while xnat.prearchive:
            await anyio.lowlevel.checkpoint()
    ended = await commands(*again)
    assert ended.code == 0, ended.out
    assert {detail["verified"] for detail in ended.json["details"]} == {"present"}
    verify = await commands("verify", "-o", "json", "--safe-to-delete", tmp_path / "safe")
    assert verify.code == 0
    assert {detail["verified"] for detail in verify.json["details"]} == {"present"}
    assert sorted((tmp_path / "safe").read_text().splitlines()) == [str(ours / name) for name in "123"]
