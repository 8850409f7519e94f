"""`upload --attach`: images and the files beside them in one command, resumed and verified alike."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands, Ended

from asyncimport.testserver import (
    ArchivedSession,
    ExpireLogins,
    Fault,
    Gateway,
    Reset,
    Status,
    Tell,
    TestXnat,
    Timing,
    add_file,
    file_bytes,
)

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

RULES = ("--attach", "*.pdf=REPORTS", "--attach", "*.csv=DATA")
CHANGES = ("import", "commit", "build", "archive", "file", "resource", "subject", "refresh", "prearchive")
VISITS = 3
# Of each visit: what is sent under which name.
BESIDE = {
    "report.pdf": ("REPORTS", "report.pdf"),
    "scans/1/params.csv": ("DATA", "1/params.csv"),
    "scans/2/params.csv": ("DATA", "2/params.csv"),
    "tables/Größe.csv": ("DATA", "tables/Gro_e.csv"),
}


def visit(tree: Path, number: int) -> None:
    """Write a visit: two series, a report, tables, and a text that no rule takes."""
    place = tree / f"visit{number}"
    for series in (1, 2):
        ids: dict[str, Any] = {
            "StudyInstanceUID": f"1.2.{number}",
            "PatientID": f"S{number}",
            "SeriesInstanceUID": f"1.2.{number}.{series}",
            "SeriesNumber": series,
            "SOPInstanceUID": f"1.2.{number}.{series}.1",
        }
        write(place / "scans" / str(series) / "1.dcm", image(1, **ids))
    for name in BESIDE:
        write(place / name, f"{name} of visit {number}".encode())
    write(place / "notes.txt", b"nobody asks for this")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write some visits."""
    place = tmp_path / "tree"
    for number in range(1, VISITS + 1):
        visit(place, number)
    return place


async def upload(commands: Commands, tree: Path, *options: str | os.PathLike[str]) -> Ended:
    """Run the command for JSON, and check that the counts add up."""
    ended = await commands("upload", tree, "-P", "demo", "-q", "-o", "json", *options)
    counts = dict(ended.json["attachments"])
    assert counts.pop("found") == sum(counts.values())
    return ended


def counts(ended: Ended) -> dict[str, int]:
    """Return how many attachments are in each state, without zeros."""
    return {name: count for name, count in ended.json["attachments"].items() if count and name != "found"}


def changes(xnat: TestXnat) -> dict[str, int]:
    """Return how many requests of each changing kind there were, without zeros."""
    return {kind: xnat.count[kind] for kind in CHANGES if xnat.count[kind]}


def attached(xnat: TestXnat) -> dict[str, dict[str, list[str]]]:
    """Return the names in the resources of all sessions."""
    return {
        session.label: {label: sorted(resource.files) for label, resource in session.own_resources.items()}
        for session in xnat.archived
    }


def expected(numbers: Iterable[int] = range(1, VISITS + 1)) -> dict[str, dict[str, list[str]]]:
    """Return the names that are expected."""
    names: dict[str, list[str]] = {}
    for resource, name in BESIDE.values():
        names.setdefault(resource, []).append(name)
    return {f"S{number}_20200102": {label: sorted(some) for label, some in names.items()} for number in numbers}


async def see_all(xnat: TestXnat, tree: Path) -> None:
    """Check that everything is there, byte for byte, and nothing twice or in part."""
    assert attached(xnat) == expected()
    for session in xnat.archived:
        number = session.label[1]
        for name, (label, stored) in BESIDE.items():
            content = (tree / f"visit{number}" / name).read_bytes()
            assert await file_bytes(xnat, session, label, stored) == content
        assert not any(resource.uncatalogued for resource in session.own_resources.values())
    assert len(xnat.sop_uids("demo")) == 2 * VISITS
    assert xnat.prearchive == []


def first(xnat: TestXnat) -> ArchivedSession:
    """Return the session of the first visit."""
    return next(session for session in xnat.archived if session.label == "S1_20200102")


async def test_receipts_list_attachments(ready: Commands, tree: Path, tmp_path: Path) -> None:
    """A receipt has the place, name and digest of each attachment that arrived."""
    write(tree / "visit1" / "empty.pdf", b"")
    receipts = tmp_path / "receipts.jsonl"
    ended = await upload(ready, tree, *RULES, "--receipts", receipts)
    assert counts(ended) == {"stored": 4 * VISITS, "refused": 1}
    found = [json.loads(line) for line in receipts.read_text("utf-8").splitlines()]
    rows = [row for row in found if row["kind"] == "attachment"]
    expected = {
        (f"S{number}_20200102", *BESIDE[name]): (tree / f"visit{number}" / name)
        for number in range(1, VISITS + 1)
        for name in BESIDE
    }
    assert {(row["session"], row["resource"], row["name"]): Path(row["path"]) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        content = Path(row["path"]).read_bytes()
        assert (row["bytes"], row["md5"]) == (len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
        assert (row["project"], row["subject"], row["run"]) == ("demo", row["session"][:2], "1")
        assert row["time"] > "2026"


async def test_a_second_upload_changes_nothing(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Images, PDF and CSV arrive in one run; a second makes no changing request."""
    ended = await upload(ready, tree, *RULES)
    assert ended.code == 0, ended.out
    assert counts(ended) == {"stored": 4 * VISITS}
    assert (ended.json["files"]["stored"], ended.json["files"]["not_dicom"]) == (2 * VISITS, VISITS)
    await see_all(xnat, tree)
    (renamed,) = [one for one in ended.json["problems"] if one["kind"] == "attachment renamed"]
    assert renamed["files"] == VISITS
    xnat.count.clear()
    again = await upload(ready, tree, *RULES)
    assert (again.code, counts(again)) == (0, {"already_stored": 4 * VISITS})
    assert changes(xnat) == {}
    # Nor does one that says nothing of attachments.
    plain = await upload(ready, tree)
    assert (plain.code, counts(plain), changes(xnat)) == (0, {"already_stored": 4 * VISITS}, {})


async def test_tables_and_json_report_attachments(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """The table of a run, of the journal and of a session; JSON of a session."""
    xnat.faults.add(Fault("file", Status(400, "<h3>no</h3>"), path="report.pdf"))
    ended = await ready("upload", tree, "-P", "demo", "-q", *RULES)
    assert ended.code == 8
    assert "attachment refused" in ended.out
    assert "XNAT refused the file (400: no)" in ended.out
    journal = await ready("status", "-o", "json")
    assert journal.json["attachments"] == {
        "found": 12, "stored": 11, "already_stored": 0, "skipped": 0, "refused": 1, "already_refused": 0, "failed": 0,
        "left": 0,
    }  # fmt: skip
    refused = next(s.label for s in xnat.archived if "report.pdf" not in s.own_resources["REPORTS"].files)
    one = (await ready("status", refused, "-o", "json")).json
    told = {row["name"]: row for row in one["attachments"]}
    assert {name: row["state"] for name, row in told.items()} == {
        "report.pdf": "refused",
        "1/params.csv": "stored",
        "2/params.csv": "stored",
        "tables/Gro_e.csv": "stored",
    }
    assert told["report.pdf"]["reason"] == "XNAT refused the file (400: no)"
    assert told["report.pdf"]["md5"] is None
    assert len(told["tables/Gro_e.csv"]["md5"]) == 32
    assert told["tables/Gro_e.csv"]["time"] > "2020"
    shown = await ready("status", refused)
    assert "REPORTS" in shown.out
    assert "report.pdf" in shown.out
    # An old refusal of the file is told again, and taken up when that is asked for.
    later = await upload(ready, tree, *RULES)
    assert (later.code, counts(later)) == (8, {"already_stored": 11, "already_refused": 1})
    assert [one["reason"] for one in later.json["problems"] if one["kind"] == "attachment refused"] == [
        "XNAT refused the file (400: no)"
    ]
    taken = await upload(ready, tree, *RULES, "--retry", "refused")
    assert (taken.code, counts(taken)) == (0, {"already_stored": 11, "stored": 1})
    await see_all(xnat, tree)


async def test_files_without_a_session_are_skipped_and_reported(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Files beside all visits or none are skipped, with the reason and exit code 8; the rest arrives."""
    write(tree / "overview.pdf", b"of all")
    ended = await upload(ready, tree, *RULES)
    assert ended.code == 8
    assert counts(ended) == {"stored": 12, "skipped": 1}
    (problem,) = [one for one in ended.json["problems"] if one["kind"] == "attachment skipped"]
    assert problem["reason"].startswith("its directory has files of several sessions")
    assert problem["example"] == str(tree / "overview.pdf")
    await see_all(xnat, tree)


async def test_attachments_may_follow_in_a_later_run(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """An earlier run without rules has archived the images: only attachments are sent."""
    assert (await upload(ready, tree)).code == 0
    xnat.count.clear()
    ended = await upload(ready, tree, *RULES)
    assert (ended.code, counts(ended)) == (0, {"stored": 12})
    assert set(changes(xnat)) == {"file", "resource"}
    await see_all(xnat, tree)


async def test_a_part_of_the_tree_takes_its_own_attachments(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """A run of one session takes only the files beside it; the rest follows."""
    pilot = await upload(ready, tree, *RULES, "--max-sessions", "1")
    assert (pilot.code, counts(pilot)) == (0, {"stored": 4})
    assert attached(xnat) == expected([1])
    rest = await upload(ready, tree, *RULES)
    assert (rest.code, counts(rest)) == (0, {"already_stored": 4, "stored": 8})
    await see_all(xnat, tree)


async def test_excluded_files_are_not_attached(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Files that the walk excludes are not attached."""
    ended = await upload(ready, tree, *RULES, "--exclude", "*/tables/*")
    assert (ended.code, counts(ended)) == (0, {"stored": 9})
    assert "tables/Gro_e.csv" not in first(xnat).own_resources["DATA"].files


async def test_attachments_wait_while_sessions_are_in_the_prearchive(
    xnat: TestXnat, ready: Commands, tree: Path
) -> None:
    """This is as asked, so the exit code is 0; the run that archives the sessions sends them."""
    built = await upload(ready, tree, *RULES, "--no-archive")
    assert (built.code, counts(built)) == (0, {"left": 12})
    assert built.json["sessions"]["prearchive"] == VISITS
    assert xnat.count["file"] == xnat.count["resource"] == 0
    ended = await upload(ready, tree, *RULES)
    assert (ended.code, counts(ended)) == (0, {"stored": 12})
    await see_all(xnat, tree)


async def test_changed_attachments_are_refused_or_replaced(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """A touched file stays; a changed file is refused, or replaced on request."""
    await upload(ready, tree, *RULES)
    report, table = tree / "visit1" / "report.pdf", tree / "visit1" / "tables" / "Größe.csv"
    report.write_bytes(report.read_bytes())
    table.write_bytes(b"newer")
    xnat.count.clear()
    ended = await upload(ready, tree, *RULES)
    assert (ended.code, counts(ended)) == (8, {"already_stored": 11, "refused": 1})
    assert xnat.count["file"] == 0
    again = await upload(ready, tree, *RULES)
    assert (again.code, counts(again)) == (8, {"already_stored": 11, "refused": 1})
    replaced = await upload(ready, tree, *RULES, "--resend-changed", "--overwrite", "append")
    assert (replaced.code, counts(replaced)) == (0, {"already_stored": 11, "stored": 1})
    await see_all(xnat, tree)


async def test_a_tree_that_was_moved_is_known_again(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path
) -> None:
    """Nothing is sent, and nothing is skipped."""
    await upload(ready, tree, *RULES)
    xnat.count.clear()
    moved = tree.rename(tmp_path / "moved")
    ended = await upload(ready, moved, *RULES)
    assert (ended.code, counts(ended)) == (0, {"already_stored": 12})
    assert changes(xnat) == {}


async def test_verify_and_repair(xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path) -> None:
    """Missing and altered attachments are reported; only missing ones are sent again."""
    await upload(ready, tree, *RULES)
    sound = await ready("verify", "-o", "json")
    assert sound.code == 0
    assert [one["verified"] for one in sound.json["attachments"]] == [True] * 2 * VISITS
    session = first(xnat)
    del session.own_resources["DATA"].files["tables/Gro_e.csv"]
    del session.own_resources["REPORTS"].files["report.pdf"]
    await add_file(xnat, session, "DATA", "1/params.csv", b"altered")
    xnat.count.clear()
    told = await ready("verify")
    assert told.code == 9
    assert "9 of 12 attachments are there as they were stored" in told.out
    assert "demo / S1 / S1_20200102 / DATA" in told.out
    assert "1 of 3 files is missing; 1 has changed" in told.out
    assert "hint: --repair" in told.out
    assert changes(xnat) == {}
    safe = tmp_path / "safe"
    mended = await ready("verify", "--repair", "--safe-to-delete", safe, "-o", "json")
    assert (mended.code, mended.json["repaired"], mended.json["unrepaired"]) == (9, 2, 0)
    (bad,) = [one for one in mended.json["attachments"] if not one["verified"]]
    assert (bad["resource"], bad["missing"], bad["altered"]) == ("DATA", [], ["1/params.csv"])
    assert set(changes(xnat)) == {"file", "resource"}
    paths = {os.fsdecode(line) for line in safe.read_bytes().splitlines()}
    assert len(paths) == 2 * VISITS + 4 * VISITS - 1
    assert str(tree / "visit1" / "report.pdf") in paths
    assert str(tree / "visit1" / "scans" / "1" / "params.csv") not in paths
    assert await file_bytes(xnat, session, "DATA", "1/params.csv") == b"altered"


async def test_attachments_whose_files_are_gone_or_changed_stay_missing(
    xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path
) -> None:
    """They are counted, and neither file is safe to delete."""
    await upload(ready, tree, *RULES)
    for label in ("DATA", "REPORTS"):
        first(xnat).own_resources[label].files.clear()
    (tree / "visit1" / "report.pdf").unlink()
    (tree / "visit1" / "tables" / "Größe.csv").write_bytes(b"newer")
    safe = tmp_path / "safe"
    mended = await ready("verify", "--repair", "--safe-to-delete", safe, "-o", "json")
    assert (mended.code, mended.json["repaired"], mended.json["unrepaired"]) == (9, 2, 2)
    assert sorted(first(xnat).own_resources["DATA"].files) == ["1/params.csv", "2/params.csv"]
    told = await ready("verify", "-o", "json")
    assert told.code == 9
    assert sum(len(one["missing"]) for one in told.json["attachments"]) == 2
    assert b"report.pdf" not in safe.read_bytes().replace(b"visit2/report.pdf", b"").replace(b"visit3/report.pdf", b"")


async def test_a_session_that_is_gone(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Images and attachments of a deleted session are sent again together."""
    await upload(ready, tree, *RULES)
    xnat.remove_experiment(first(xnat))
    told = await ready("verify", "-o", "json")
    assert told.code == 9
    assert sum(len(one["missing"]) for one in told.json["attachments"]) == 4
    assert (await ready("verify", "--repair", "-o", "json")).code == 0
    await see_all(xnat, tree)


async def test_events(xnat: TestXnat, ready: Commands, tree: Path, tmp_path: Path) -> None:
    """The journal records an attachment before its event; the log names nobody."""
    xnat.faults.add(Fault("file", Status(400, "<h3>no S1_20200102</h3>"), path="report.pdf"))
    events, log = tmp_path / "events", tmp_path / "log"
    ended = await upload(ready, tree, *RULES, "--events", events, "--log-file", log)
    assert ended.code == 8
    found: list[dict[str, Any]] = [json.loads(line) for line in events.read_text("utf-8").splitlines()]
    names = [one["event"] for one in found]
    assert names.count("attachment_stored") == 11
    (refused,) = [one for one in found if one["event"] == "attachment_refused"]
    assert {name: refused[name] for name in ("project", "resource", "name", "reason")} == {
        "project": "demo", "resource": "REPORTS", "name": "report.pdf",
        "reason": "XNAT refused the file (400: no S1_20200102)",
    }  # fmt: skip
    assert next(one for one in found if one["event"] == "enclosing")["files"] == 12
    assert names.index("enclosing") > max(place for place, name in enumerate(names) if name == "session_archived")
    assert names[-1] == "run_ended"
    text = log.read_text("utf-8")
    assert "S1" not in text
    assert "report.pdf" not in text


@pytest.mark.parametrize(
    "action",
    [Reset(), Reset(effect=True), Reset(after_bytes=10), Status(500), Gateway(504), ExpireLogins()],
    ids=str,
)
async def test_attachments_arrive_once_despite_faults(xnat: TestXnat, ready: Commands, tree: Path, action: Any) -> None:
    """All attachments arrive whole, once, in one run."""
    fault = xnat.faults.add(Fault("file", action, nth=2))
    ended = await upload(ready, tree, *RULES)
    assert fault.hits == 1
    assert (ended.code, counts(ended)) == (0, {"stored": 12})
    await see_all(xnat, tree)


async def test_an_outage(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """If the server goes away, the run ends with exit code 4; the same command sends the rest."""

    def go_away() -> None:
        xnat.faults.add(Fault("any", Status(503, headers={"Retry-After": "0"}), share=1))

    xnat.faults.add(Fault("file", Tell(go_away), nth=3))
    ended = await upload(ready, tree, *RULES, "--outage-timeout", "0s")
    assert ended.code == 4
    xnat.faults.clear()
    again = await upload(ready, tree, *RULES)
    assert again.code == 0
    assert sum(counts(again).values()) == 12
    await see_all(xnat, tree)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_a_stop(xnat: TestXnat, ready: Commands, tree: Path) -> None:
    """Files in flight are recorded, and the exit code is 130; the same command goes on."""
    for number in range(VISITS + 1, 13):
        visit(tree, number)
    xnat.timing = Timing(saving_seconds=0.05)
    async with ready.start("upload", tree, "-P", "demo", "-q", "-o", "json", *RULES) as process:
        xnat.faults.add(Fault("file", Tell(partial(process.send_signal, signal.SIGINT)), nth=4))
        assert process.stdout is not None
        out = b"".join([piece async for piece in process.stdout])
        assert await process.wait() == 130
    stopped = json.loads(out)["attachments"]
    assert stopped["stored"] > 0
    assert stopped["left"] > 0
    sent = xnat.count["file"]
    again = await upload(ready, tree, *RULES)
    assert (again.code, counts(again)) == (0, {"already_stored": stopped["stored"], "stored": stopped["left"]})
    assert xnat.count["file"] == 24
    assert 0 < sent < 24
    assert sum(len(resource.files) for s in xnat.archived for resource in s.own_resources.values()) == 48


KILLS = [
    *(("file", nth, how) for nth in (1, 2 * VISITS) for how in ("unserved", "served")),
    ("resource", 2, "served"),
    ("listing", 3, "served"),
]


@pytest.mark.parametrize(("kind", "nth", "how"), KILLS)
async def test_a_kill(xnat: TestXnat, ready: Commands, tree: Path, kind: str, nth: int, how: str) -> None:
    """The client is killed at any request, before or after it takes effect: the same command finishes the work."""
    async with ready.start("upload", tree, "-P", "demo", "-q", *RULES) as process:

        def kill() -> None:
            process.kill()
            if how == "unserved":
                xnat.expire_logins()

        xnat.faults.add(Fault(kind, Tell(kill), nth=nth, path="/resources/" if kind == "listing" else ""))
        assert await process.wait() == -signal.SIGKILL
    images = xnat.count["import"]
    ended = await upload(ready, tree, *RULES)
    assert (ended.code, sum(counts(ended).values())) == (0, 12), ended.out
    assert set(counts(ended)) <= {"stored", "already_stored"}
    await see_all(xnat, tree)
    if kind != "listing":
        assert xnat.count["import"] == images == 2 * VISITS


@pytest.mark.parametrize(
    ("rule", "message"), [("*.pdf", "error: invalid --attach '*.pdf'"), ("*.pdf=7", "error: --attach *.pdf=7: ")]
)
async def test_bad_rules(commands: Commands, tree: Path, rule: str, message: str) -> None:
    """The exit code is 2, with a hint, and nothing is sent."""
    commands.login("http://127.0.0.1:1")
    ended = await commands("upload", tree, "-P", "demo", "--attach", rule)
    assert ended.code == 2
    assert ended.err.startswith(message)
    assert "\nhint: " in ended.err
