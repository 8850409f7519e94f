"""Missing, late and deleted files: each is noticed, repaired if possible, and reported. All on the test XNAT."""

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import AT_ONCE, SESSION, image, logged_in, no_sleep, sop, upload, write
from conftest import Commands

from asyncimport.errors import RefusedError
from asyncimport.model.choices import Partial, Retry
from asyncimport.model.deliveries import Incomplete
from asyncimport.model.events import Event, ServerUnavailable, Settling
from asyncimport.model.options import Options
from asyncimport.model.summary import Orphan, Summary
from asyncimport.testserver import DiskFull, Empty, Fault, Late, RowStatus, Script, SeriesFilter, Status, Tell, TestXnat
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.orphans import delete_orphan

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ARCHIVED = "/data/archive/projects/demo/subjects/S/experiments/S_20200102"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Return the path of the journal."""
    return tmp_path / "book"


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of four instances."""
    place = tmp_path / "visit"
    for number in range(1, 5):
        write(place / str(number), image(number))
    return place


def lose(xnat: TestXnat, *numbers: int) -> None:
    """Let the archive lose instances."""
    lost = {sop(number) for number in numbers}
    for session in xnat.archived:
        for _, resource in session.resources:
            for name in [name for name, file in resource.files.items() if file.sop_uid in lost]:
                del resource.files[name]


def losing(xnat: TestXnat, *numbers: int, times: int = 1) -> Fault:
    """Let the archive lose instances before it is compared, the first few times."""
    tell = Tell(partial(lose, xnat, *numbers))
    return xnat.faults.add(Fault("listing", tell, path="/resources?all", times=times))


def only(summary: Summary) -> tuple[str, str | None, str | None]:
    """Return state, verification and reason of the one session."""
    (report,) = summary.sessions
    return report.state, report.verified, report.reason


# Requests that may take effect late


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(None, id="broken connection"),
        *(pytest.param(code, id=f"{code} of a gateway") for code in (500, 503, 504, 520, 527)),
    ],
)
async def test_a_late_effect_within_the_quiet_period_does_no_harm(
    xnat: TestXnat, url: str, visit: Path, book: Path, status: int | None
) -> None:
    """An upload ended in no answer or that of a gateway, which may have passed the file on, and was repeated.

    All files are acknowledged, but the session waits for its settle time.
    """
    late = xnat.faults.add(Fault("import", Late(status=status), nth=3))
    waits: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, Settling) and not waits:
            waits.append(event.seconds)
            assert xnat.count["build"] == 0
            late.release()

    summary = await upload(url, [visit], book, report=report, settle_seconds=0.3)
    await late.settled()
    assert late.hits == 1
    assert len(waits) == 1
    assert 0 < waits[0] <= 0.3
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    assert xnat.prearchive == []


async def test_a_page_that_tells_of_maintenance_is_an_outage(xnat: TestXnat, url: str, visit: Path, book: Path) -> None:
    """If all requests get such a page, the run waits for the server, longer than for the retries of a call."""
    page = Status(302, headers={"Location": "https://example.org/maintenance.html"})
    away: list[str | None] = []

    def report(event: Event) -> None:
        if isinstance(event, ServerUnavailable):
            away.append(event.reason)

    fault = xnat.faults.add(Fault("any", page, nth=7, times=2 * AT_ONCE.attempts))
    summary = await upload(url, [visit], book, report=report)
    assert away == ["the server redirects to https://example.org (302)", None]
    assert fault.hits == 2 * AT_ONCE.attempts
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}


@pytest.fixture
async def orphan(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> Any:
    """Upload a session with a request that takes effect after the archiving. Return the end of the command."""
    xnat.faults.add(Fault("import", Late(after=1, of="archive"), nth=3))
    commands.login(url)
    ended = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.err
    for row in xnat.prearchive:
        # Only rows that have not changed for a while may be deleted.
        row.lastmod -= timedelta(minutes=5)
    return ended.json


async def test_a_stray_session_is_reported_and_removed_when_asked(
    xnat: TestXnat, commands: Commands, orphan: Any
) -> None:
    """A late file makes a row of its own: the summary names it, and `verify` lists it and can delete it."""
    (row,) = xnat.prearchive
    assert [one["uri"] for one in orphan["strays"]] == [f"/data{row.uri}"]
    assert orphan["strays"][0]["session"] == "S_20200102"
    assert orphan["strays"][0]["status"] == "RECEIVING"
    listed = await commands("verify", "--orphans", "-o", "json")
    assert (listed.code, [one["outcome"] for one in listed.json["strays"]]) == (0, ["left"])
    assert xnat.prearchive == [row]
    told = await commands("verify", "--delete-orphans")
    assert told.code == 0
    assert "removed" in told.out
    assert xnat.prearchive == []
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    assert (await commands("verify", "--orphans", "-o", "json")).json["strays"] == []


async def test_the_table_tells_of_strays(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> None:
    """The text says how many there are, where, and what to do."""
    xnat.faults.add(Fault("import", Late(after=1, of="archive"), nth=3))
    commands.login(url)
    told = await commands("upload", visit, "-P", "demo", "-q")
    assert told.code == 0
    assert "orphans in the prearchive, left by interrupted uploads: 1" in told.out
    assert "asyncimport verify --orphans" in told.out


@pytest.mark.usefixtures("orphan")
async def test_a_stray_with_something_the_archive_lacks_stays(xnat: TestXnat, commands: Commands) -> None:
    """A row with the only copy of an instance is never deleted."""
    lose(xnat, 1, 2, 3, 4)
    (row,) = xnat.prearchive
    told = await commands("verify", "--delete-orphans", "-o", "json")
    assert told.code == 9
    assert [one["outcome"] for one in told.json["strays"]] == ["left: the archive lacks 1 of its 1 instance"]
    assert xnat.prearchive == [row]


REASONS = {
    "of another maker": ("source", "scanner", "left: it was made by scanner, not by us"),
    "at work": ("status", RowStatus.LOCKED_ARCHIVING, "left: XNAT is working on it (_ARCHIVING)"),
}


@pytest.mark.usefixtures("orphan")
@pytest.mark.parametrize(("name", "value", "outcome"), REASONS.values(), ids=REASONS.keys())
async def test_what_is_not_ours_to_delete_stays(
    xnat: TestXnat, commands: Commands, name: str, value: Any, outcome: str
) -> None:
    """A row of another tool, and one that XNAT is working on, are kept, with the reason."""
    (row,) = xnat.prearchive
    setattr(row, name, value)
    told = await commands("verify", "--delete-orphans", "-o", "json")
    assert [one["outcome"] for one in told.json["strays"]] == [outcome]
    assert xnat.prearchive == [row]


@pytest.mark.usefixtures("orphan")
async def test_a_stray_of_a_session_that_is_gone_stays(xnat: TestXnat, url: str) -> None:
    """Without the archived session nothing proves that the orphan is superfluous."""
    (row,) = xnat.prearchive
    session = SESSION.__class__("demo", "S", "elsewhere", SESSION.study_uid)
    async with logged_in(url) as client:
        with pytest.raises(RefusedError, match="the archive has no session of this label and study"):
            await delete_orphan(client, Orphan(session, f"/data{row.uri}", "RECEIVING", "", "uploader"), AT_ONCE)
        # An orphan that has gone meanwhile is not an error.
        await delete_orphan(client, Orphan(session, f"/data{row.uri}x", "RECEIVING", "", "uploader"), AT_ONCE)
    assert xnat.prearchive == [row]


async def test_rows_of_others_are_no_strays(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> None:
    """Another study under our label, our study under another label, and our own open delivery are not reported."""
    commands.login(url)
    write(visit / "other" / "1", image(21, StudyInstanceUID="9.9", PatientID="T"))
    xnat.faults.add(Fault("import", Empty(), nth=99))
    async with logged_in(url) as client:
        for label, study in (("S_20200102", "7.7"), ("other", SESSION.study_uid)):
            query = (
                f"PROJECT_ID=demo&SUBJECT_ID=S&EXPT_LABEL={label}&rename=true&import-handler=gradual-DICOM&inbody=true"
            )
            body = image(31, StudyInstanceUID=study)
            headers = {"Content-Type": "application/dicom"}
            address = client.url(f"/data/services/import?{query}")
            await client.call("POST", address, lambda reply: reply.text, data=body, headers=headers)
    assert len(xnat.prearchive) == 2
    ended = await commands("upload", visit, "-P", "demo", "--no-archive", "-o", "json")
    assert ended.json["sessions"]["prearchive"] == 2
    assert ended.json["strays"] == []


async def test_a_prearchive_that_may_not_be_seen_is_told(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """The orphans are unknown, and the summary does not say that there are none."""
    from asyncimport.testserver import Status

    xnat.faults.add(Fault("listing", Status(403, "<h3>no</h3>"), path="prearchive/projects/demo?", nth=2))
    commands.login(url)
    ended = await commands("upload", visit, "-P", "demo", "-o", "json", "-q")
    assert ended.json["strays"] is None
    assert "cannot look for orphans in the prearchive" in ended.err


# Repairs


async def test_what_the_archive_lacks_is_sent_again(xnat: TestXnat, url: str, visit: Path, book: Path) -> None:
    """Verification finds two missing. They are sent in a new delivery, XNAT merges it, and all are there."""
    fault = losing(xnat, 2, 3)
    summary = await upload(url, [visit], book)
    assert fault.hits == 1
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    assert (xnat.count["import"], xnat.count["archive"]) == (6, 2)
    assert len(xnat.archived) == 1


async def test_what_is_lost_twice_is_held(xnat: TestXnat, url: str, visit: Path, book: Path) -> None:
    """It is not sent a third time, and the session does not count as archived."""
    losing(xnat, 2, 3, times=20)
    summary = await upload(url, [visit], book)
    state, verified, reason = only(summary)
    assert (state, verified) == ("held", None)
    assert reason is not None
    assert reason.startswith("the archive lacks 2 of its instances")
    assert xnat.count["import"] == 6


async def test_a_file_that_changed_is_not_sent_as_a_repair(xnat: TestXnat, url: str, visit: Path, book: Path) -> None:
    """The file on disk no longer has the bytes that were sent: it fails, and the session is held with that reason."""

    def lost() -> None:
        lose(xnat, 2)
        asyncio.get_running_loop().call_soon(write, visit / "2", image(2, pixels=50))

    xnat.faults.add(Fault("listing", Tell(lost), path="/resources?all"))
    summary = await upload(url, [visit], book)
    assert only(summary)[0] == "held"
    assert [problem.reason for problem in summary.problems] == ["the file changed after it was scanned"]


async def test_what_a_projects_script_rejects_is_told_apart(xnat: TestXnat, url: str, visit: Path, book: Path) -> None:
    """XNAT runs the script when it archives, and drops acknowledged files then, as the project wants."""
    xnat.project("demo").script = Script(
        reject=lambda header: header.sop_uid == sop(2), condition=f'(0008,0018) = "{sop(2)}"'
    )
    summary = await upload(url, [visit], book)
    assert only(summary) == ("archived", "uids", None)
    assert (summary.files.stored, summary.files.refused) == (3, 1)
    (problem,) = summary.problems
    assert problem.reason == "the project's anonymisation script rejects it, and the archive does not hold it"
    assert xnat.count["import"] == 4


async def test_a_script_that_rejects_nothing_explains_nothing(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """A script that only rewrites does not explain a loss."""
    xnat.project("demo").script = Script()
    losing(xnat, 2)
    summary = await upload(url, [visit], book)
    assert only(summary) == ("archived", "uids", None)
    assert xnat.count["import"] == 5


async def test_an_empty_answer_without_a_filter_is_not_believed_at_once(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """No rule of the site drops files: a file that gets an empty answer is sent again, and kept."""
    fault = xnat.faults.add(Fault("import", Empty(), nth=2))
    summary = await upload(url, [visit], book)
    assert fault.hits == 1
    assert summary.files.stored == 4
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    assert xnat.count["import"] == 5


async def test_an_empty_answer_that_stays_and_that_nothing_explains(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """No known filter or script would drop the file: it is refused, and its session is held."""
    xnat.faults.add(Fault("import", Empty(), nth=4, times=3))
    summary = await upload(url, [visit], book, options=Options(workers=1, finalizers=1))
    assert (summary.files.stored, summary.files.refused) == (3, 1)
    assert only(summary) == ("held", None, "1 of its files was refused")
    (problem,) = summary.problems
    assert problem.reason == "XNAT answered, but did not keep the file (empty 200), 3 times"
    summary = await upload(url, [visit], book, options=Options(retry=frozenset({Retry.REFUSED})))
    assert only(summary) == ("archived", "uids", None)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}


def is_noise(header: Any) -> bool:
    """Reject a series."""
    return bool(header.series_description == "noise")


DROPPERS: dict[str, tuple[str, Any, str]] = {
    "site filter": ("site", SeriesFilter(("noise",)), "the site's series import filter"),
    "project filter": ("project", SeriesFilter(("noise",)), "the project's series import filter"),
    "site script": (
        "script",
        Script(reject=lambda h: h.series_description == "noise", condition='(0008,103E) ~ "noise"'),
        "the site's anonymisation script",
    ),
}


@pytest.mark.parametrize(("where", "rule", "name"), DROPPERS.values(), ids=DROPPERS.keys())
async def test_what_a_filter_drops_is_refused_at_once_by_its_name(
    xnat: TestXnat, url: str, visit: Path, book: Path, where: str, rule: Any, name: str
) -> None:
    """It is sent once, and the reason names the rule that drops it. The session is archived without it."""
    if where == "project":
        xnat.project("demo").series_filter = rule
    else:
        setattr(xnat, "series_filter" if where == "site" else "script", rule)
    write(visit / "5", image(5, SeriesDescription="noise"))
    summary = await upload(url, [visit], book)
    assert (summary.files.stored, summary.files.refused) == (4, 1)
    assert [problem.reason for problem in summary.problems] == [
        f"XNAT did not keep the file: {name} rejects it (empty 200)"
    ]
    assert xnat.count["import"] == 5
    assert only(summary)[0] == "archived"


async def test_an_instance_is_missing_whatever_the_site_says_of_filters(url: str, tmp_path: Path) -> None:
    """Filters apply when a file arrives: an acknowledged file has passed them."""
    from builders import body_of, claim, sealed

    async with logged_in(url) as client:
        there = XnatDestination(client, policy=AT_ONCE, sleep=no_sleep)
        file = write(tmp_path / "1", image(1))
        uri = await there.store(claim(file), await body_of(file))
        verdict = await there.finalize(sealed(uri, 1, 2))
    assert isinstance(verdict, Incomplete)
    assert (verdict.missing, verdict.lost) == (frozenset({sop(2)}), frozenset({sop(2)}))


async def test_a_part_of_a_refused_file_in_the_archive_is_told(
    xnat: TestXnat, url: str, visit: Path, book: Path
) -> None:
    """A failed write has left half of the file: XNAT refused it, and archives the half as if it were whole."""
    write(visit / "5", image(5))
    xnat.faults.add(Fault("import", DiskFull(partial=True), nth=3, times=3))
    summary = await upload(url, [visit], book, options=Options(workers=1, finalizers=1, partial=Partial.ARCHIVE))
    assert summary.files.refused == 1
    assert only(summary) == ("held", None, "the archive holds instances that XNAT refused, perhaps in part (1)")


# Refusals for other reasons


NGINX_400 = Status(400, "<html><head><title>400 Bad Request</title></head></html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize("answer", [Status(403), NGINX_400], ids=["403", "400 of nginx"])
async def test_what_a_gateway_refuses_once_is_not_left_out(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, answer: Status
) -> None:
    """Its session is not archived without the file. The next run sends the file and ends with 0."""
    xnat.faults.add(Fault("import", answer, nth=3))
    commands.login(url)
    ended = await commands("upload", visit, "-P", "demo", "-w", "1", "-o", "json")
    assert (ended.code, ended.json["files"]["refused"], ended.json["sessions"]["held"]) == (8, 1, 1)
    assert not xnat.archived
    assert (await commands("verify")).code == 9
    ended = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert (ended.code, ended.json["files"]["refused"], ended.json["details"][0]["verified"]) == (0, 0, "uids")
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}


async def test_what_is_refused_for_good_is_told_in_each_run(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """It is sent again only with `--retry`. The exit code stays 8. `--partial archive` archives its session."""
    xnat.faults.add(Fault("import", Status(413), nth=3))
    commands.login(url)
    upload_it = ("upload", visit, "-P", "demo", "-w", "1", "-o", "json")
    for imports in (4, 4):
        ended = await commands(*upload_it)
        assert (ended.code, ended.json["details"][0]["reason"]) == (8, "1 of its files was refused")
        assert (xnat.count["import"], xnat.archived) == (imports, [])
    ended = await commands(*upload_it, "--partial", "archive")
    assert (ended.code, ended.json["details"][0]["state"]) == (8, "archived")
    assert ended.json["details"][0]["reason"] == "1 of its files was refused"
    ended = await commands(*upload_it, "--retry", "refused")
    assert (ended.code, ended.json["details"][0]["verified"]) == (0, "uids")
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}


# `asyncimport verify`


async def test_verify_repairs_when_asked_and_only_then(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """Weeks later something is gone. `verify` changes nothing; `--repair` sends it again from its files."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    lose(xnat, 1, 4)
    xnat.count.clear()
    told = await commands("verify")
    assert told.code == 9
    assert "2 of 4 instances are missing" in told.out
    assert "hint: --repair" in told.out
    assert xnat.count["import"] == 0
    mended = await commands("verify", "--repair", "-o", "json")
    assert mended.code == 0, mended.out
    assert (mended.json["repaired"], mended.json["unrepaired"]) == (2, 0)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    assert (xnat.count["import"], len(xnat.archived)) == (2, 1)
    # The journal has all of it: the next upload sends nothing.
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    assert xnat.count["import"] == 2


async def test_verify_says_what_it_cannot_repair(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> None:
    """A file that is gone or has changed cannot repair anything."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    lose(xnat, 1, 2, 3)
    (visit / "1").unlink()
    write(visit / "2", image(2, pixels=70))
    mended = await commands("verify", "--repair", "-o", "json")
    assert mended.code == 9
    assert (mended.json["repaired"], mended.json["unrepaired"]) == (1, 2)
    assert xnat.sop_uids() == {sop(3), sop(4)}
    assert mended.json["details"][0]["missing"] == 2
    assert "missing files that could not be sent again: 2" in (await commands("verify", "--repair")).out


async def test_verify_sends_a_session_again_that_is_gone(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """A session that was deleted from the archive is sent again."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    xnat.remove_experiment(xnat.archived[0])
    told = await commands("verify", "-o", "json")
    assert (told.code, told.json["details"][0]["missing"]) == (9, 4)
    assert (await commands("verify", "--repair", "-q")).code == 2
    assert (await commands("verify", "--repair")).code == 0
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}


async def test_what_is_safe_to_delete(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """It lists files with instances in the archive, and their copies; no missing, changed, refused or other file."""
    commands.login(url)
    write(visit / "copy of 1", image(1))
    write(visit / "notes.txt", b"notes")
    write(visit / "no uid", image(9, StudyInstanceUID=None))
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 8
    lose(xnat, 3)
    write(visit / "4", image(4, pixels=70))
    target = tmp_path / "safe"
    told = await commands("verify", "--safe-to-delete", target, "-o", "json")
    assert told.code == 9
    assert (told.json["safe_to_delete"], told.json["kept_back"]) == (3, 2)
    safe = {Path(os.fsdecode(line)).name for line in target.read_bytes().splitlines()}
    assert safe == {"1", "copy of 1", "2"}


async def test_nothing_is_safe_to_delete_that_was_only_counted(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """If a script gives instances new UIDs, it is unknown which are there."""
    xnat.script = Script(map_uid=lambda uid: f"{uid}.9")
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    target = tmp_path / "safe"
    told = await commands("verify", "--safe-to-delete", target, "-o", "json")
    assert (told.code, told.json["safe_to_delete"], told.json["kept_back"], target.read_bytes()) == (0, 0, 4, b"")


# Partial sessions


async def test_partial_sessions_are_held_or_archived(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> None:
    """A truncated file holds its session, with the reason."""
    write(visit / "5", image(5)[:-10])
    commands.login(url)
    held = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert (held.code, held.json["sessions"]["held"]) == (8, 1)
    assert held.json["details"][0]["reason"] == "1 of its files cannot be read"
    assert xnat.archived == []
    taken = await commands("upload", visit, "-P", "demo", "-o", "json", "--partial", "archive")
    assert (taken.code, taken.json["sessions"]["archived"]) == (8, 1)
    assert taken.json["details"][0]["reason"] == "1 of its files cannot be read"
    assert xnat.sop_uids() == {sop(number) for number in range(1, 5)}
    write(visit / "5", image(5))
    whole = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert (whole.code, whole.json["details"][0]["reason"]) == (0, None)
    assert xnat.sop_uids() == {sop(number) for number in range(1, 6)}


async def test_what_a_filter_refused_holds_nothing(xnat: TestXnat, url: str, commands: Commands, visit: Path) -> None:
    """The site drops the file: the session is complete without it."""
    xnat.series_filter = SeriesFilter(("noise",))
    write(visit / "5", image(5, SeriesDescription="noise"))
    commands.login(url)
    ended = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert (ended.code, ended.json["sessions"]["archived"], ended.json["files"]["refused"]) == (8, 1, 1)


async def test_partial_is_hold_or_archive(commands: Commands, visit: Path) -> None:
    """Any other value is an error."""
    commands.login("http://127.0.0.1:1")
    ended = await commands("upload", visit, "-P", "demo", "--partial", "some")
    assert ended.code == 2
    assert "invalid --partial 'some': hold or archive" in ended.err


# Receipts


def lines(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the receipts of a kind."""
    return (line for line in map(json.loads, path.read_text("utf-8").splitlines()) if line["kind"] == kind)


async def test_receipts_tell_what_arrived(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """A receipt has size and digest for each file, the end of each session, and all addresses that the run made."""
    write(visit / "large", image(7, pixels=3 << 20))
    write(visit / "notes.txt", b"notes")
    receipts = tmp_path / "receipts.jsonl"
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q", "--receipts", receipts)).code == 0
    files = {line["sop_uid"]: line for line in lines(receipts, "file")}
    assert set(files) == xnat.sop_uids()
    for line in files.values():
        content = Path(line["path"]).read_bytes()
        assert (line["bytes"], line["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert (line["attempts"], line["session"], line["run"]) == (1, "S_20200102", "1")
        assert line["uri"].startswith("/data/prearchive/projects/demo/")
        assert line["time"] > "2026"
    (session,) = lines(receipts, "session")
    assert (session["files"], session["uri"], session["verified"], session["merged"]) == (5, ARCHIVED, "uids", False)
    made = [(line["what"], line["uri"]) for line in lines(receipts, "created")]
    assert made == [("prearchive", session["prearchive_uri"]), ("session", ARCHIVED)]
    if os.name == "posix":
        assert receipts.stat().st_mode & 0o077 == 0


async def test_receipts_outlive_a_kill_and_tell_attempts(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """They come from the journal: the run that finishes also writes those of the run that was killed."""
    receipts = tmp_path / "receipts.jsonl"
    commands.login(url)
    words = ("upload", visit, "-P", "demo", "-q", "-w", "1", "--receipts", receipts)
    async with commands.start(*words) as process:
        xnat.faults.add(Fault("import", Tell(process.kill), nth=4))
        await process.wait()
    assert not receipts.exists()
    xnat.faults.add(Fault("import", Empty(), nth=1))
    assert (await commands(*words)).code == 0
    files = list(lines(receipts, "file"))
    assert {line["sop_uid"] for line in files} == xnat.sop_uids()
    assert {line["run"] for line in files} == {"1", "2"}
    assert sorted(line["attempts"] for line in files) == [1, 1, 1, 2]
    assert all(line["sha256"] for line in files)


async def test_receipts_of_what_an_earlier_run_sent_without_them_have_digests(
    url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """The digest is read from the file on disk if that holds what was sent. A changed file has none."""
    receipts = tmp_path / "receipts.jsonl"
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    # A copy from a backup has another inode and another time.
    (visit / "2").rename(tmp_path / "moved")
    shutil.copy(tmp_path / "moved", visit / "2")
    content = (visit / "3").read_bytes()
    before = (visit / "3").stat()
    (visit / "3").write_bytes(content[:-1] + b"!")
    os.utime(visit / "3", ns=(before.st_atime_ns, before.st_mtime_ns))
    (visit / "4").unlink()
    await commands("upload", visit, "-P", "demo", "-q", "--receipts", receipts)
    files = {Path(line["path"]).name: line for line in lines(receipts, "file")}
    for name in ("1", "2"):
        digest = hashlib.sha256((visit / name).read_bytes()).hexdigest()
        assert (files[name]["sha256"], files[name]["sha256_of"]) == (digest, "sent")
    # What is known of 4 was sent, and its file is gone. The journal tells the new size of 3 only.
    assert files.keys() == {"1", "2", "4"}
    assert (files["4"]["sha256"], files["4"]["sha256_of"]) == (None, None)


async def test_receipts_outlive_their_files(url: str, commands: Commands, visit: Path, tmp_path: Path) -> None:
    """A later run, or look of a watch, does not forget what arrived before and was deleted or damaged since."""
    receipts = tmp_path / "receipts.jsonl"
    commands.login(url)
    words = ("upload", visit, "-P", "demo", "-q", "--receipts", receipts)
    assert (await commands(*words)).code == 0
    before = {kind: [*lines(receipts, kind)] for kind in ("file", "created", "session")}
    for name in "123":
        (visit / name).unlink()
    assert (await commands(*words)).code == 0
    assert {kind: [*lines(receipts, kind)] for kind in before} == before
    write(visit / "4", image(4)[:-50])
    assert (await commands(*words)).code == 8
    assert {kind: [*lines(receipts, kind)] for kind in before} == before


async def test_receipts_from_a_journal_without_digests(
    url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """The receipt has the digest of the present file, and says so."""
    receipts, journal = tmp_path / "receipts.jsonl", tmp_path / "x.journal"
    commands.login(url)
    words = ("upload", visit, "-P", "demo", "-q", "--journal", journal)
    assert (await commands(*words)).code == 0
    with closing(sqlite3.connect(journal)) as connection, connection:
        connection.execute("UPDATE instance SET xxh3 = NULL")
    assert (await commands(*words, "--receipts", receipts)).code == 0
    for line in lines(receipts, "file"):
        digest = hashlib.sha256(Path(line["path"]).read_bytes()).hexdigest()
        assert (line["sha256"], line["sha256_of"]) == (digest, "file")


async def test_what_the_archive_had_before_is_not_called_created(
    url: str, commands: Commands, visit: Path, tmp_path: Path
) -> None:
    """Receipts must not name what others have made: deleting it would delete their data."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    more = tmp_path / "more"
    write(more / "5", image(5))
    receipts = tmp_path / "receipts.jsonl"
    other = tmp_path / "other.journal"
    ended = await commands("upload", more, "-P", "demo", "-q", "--journal", other, "--receipts", receipts)
    assert ended.code == 0, ended.err
    (session,) = lines(receipts, "session")
    assert (session["uri"], session["merged"]) == (ARCHIVED, True)
    assert [line["what"] for line in lines(receipts, "created")] == ["prearchive"]


async def test_receipts_that_cannot_be_written(commands: Commands, visit: Path, tmp_path: Path) -> None:
    """The error comes before anything is sent."""
    commands.login("http://127.0.0.1:1")
    ended = await commands("upload", visit, "-P", "demo", "--receipts", tmp_path / "nowhere" / "receipts")
    assert ended.code == 2
    assert "cannot be written" in ended.err


async def test_rewritten_files_are_sent_again_only_when_asked(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """XNAT's copy stays, and this is reported. With `--resend-changed` the new bytes replace it, once."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    before = {file.sop_uid: file.digest for _, _, file in xnat.instances()}
    write(visit / "2", image(2, pixels=50))
    told = await commands("upload", visit, "-P", "demo", "-o", "json")
    assert (told.code, told.json["files"]["skipped"], xnat.count["import"]) == (8, 1, 4)
    assert (await commands("upload", visit, "-P", "demo", "--resend-changed")).code == 2
    words = ("upload", visit, "-P", "demo", "-o", "json", "--resend-changed", "--overwrite", "append")
    again = await commands(*words)
    assert (again.code, again.json["files"]["stored"], xnat.count["import"]) == (0, 1, 5), again.out
    after = {file.sop_uid: file.digest for _, _, file in xnat.instances()}
    assert {uid for uid in after if after[uid] != before[uid]} == {sop(2)}
    assert (await commands(*words)).json["files"]["already_stored"] == 4
    assert xnat.count["import"] == 5
