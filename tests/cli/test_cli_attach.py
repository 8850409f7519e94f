"""`asyncimport attach`, as users run it."""

import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Commands, Ended
from patience import in_time

from asyncimport.testserver import (
    ArchivedSession,
    Fault,
    Project,
    Stall,
    Status,
    Tell,
    TestXnat,
    Timing,
    add_file,
    add_session,
    file_bytes,
)

pytestmark = pytest.mark.anyio

STUDY = "1.2.840.1"


@pytest.fixture
def session(xnat: TestXnat) -> ArchivedSession:
    """Archive a session E of the subject S, with a scan 1, long ago."""
    return add_session(xnat, "S", "E", study_uid=STUDY)


@pytest.fixture
def ready(url: str, commands: Commands, session: ArchivedSession) -> Commands:
    """Let the commands find the test XNAT, in which there is a session."""
    assert session.label == "E"
    commands.login(url)
    return commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a directory of files."""
    place = tmp_path / "folder"
    for name, content in (("a.pdf", b"pdf"), ("Größe 1.csv", b"1,2"), ("in/b.pdf", b"other")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


async def attach(commands: Commands, *words: str | os.PathLike[str]) -> Ended:
    """Run it for JSON, and see that its exit code is the one in it, and that the counts agree with the details."""
    ended = await commands("attach", *words, "-o", "json")
    found = ended.json
    assert found["exit_code"] == ended.code
    states = [one["state"] for one in found["details"]]
    counts = found["attachments"]
    assert counts["stored"] == states.count("stored")
    assert counts["refused"] == states.count("refused")
    assert counts["failed"] == states.count("failed")
    assert counts["sent"] == sum(one["sent"] for one in found["details"])
    assert counts["total"] == counts["stored"] + counts["refused"] + counts["failed"] + counts["left"]
    return ended


def names(session: ArchivedSession, label: str = "REPORTS") -> list[str]:
    """Return what is in a resource of the session."""
    return sorted(session.own_resources[label].files)


TO_E = ("-P", "demo", "--session", "E", "--resource", "REPORTS")


async def test_the_second_call_sends_nothing(
    xnat: TestXnat, ready: Commands, session: ArchivedSession, folder: Path
) -> None:
    """All files arrive under names that XNAT does not change, and are verified."""
    # What is named twice is one file all the same.
    said_of_them = ("--format", "X", "--content", "a report", "--tags", "x,y")
    first = await attach(ready, folder, folder / "a.pdf", *TO_E, *said_of_them)
    assert (first.code, first.err) == (0, "")
    assert first.json["attachments"] == {"total": 3, "stored": 3, "sent": 3, "refused": 0, "failed": 0, "left": 0}
    assert names(session) == ["Gro_e_1.csv", "a.pdf", "in/b.pdf"]
    said = session.own_resources["REPORTS"].files["a.pdf"].metadata
    assert said is not None
    assert (said.format, said.content) == ("X", "a report")
    resource = session.own_resources["REPORTS"].metadata
    assert resource is not None
    assert resource.tags == ("x", "y")
    detail = next(one for one in first.json["details"] if one["name"] == "a.pdf")
    assert detail == {
        "path": str(folder / "a.pdf"),
        "project": "demo",
        "subject": None,
        "session": "E",
        "study_uid": None,
        "scan": None,
        "resource": "REPORTS",
        "name": "a.pdf",
        "bytes": 3,
        "state": "stored",
        "sent": True,
        "md5": "437175ba4191210ee004e1d937494d09",
        "reason": None,
    }
    xnat.count.clear()
    again = await ready("attach", folder, *TO_E)
    assert again.code == 0
    assert again.out.splitlines()[0] == "3 files: 3 there already"
    assert "renamed: 1 name," in again.out
    assert xnat.count["file"] == xnat.count["resource"] == 0


async def test_other_files_of_the_same_name_stay_unless_replaced(
    xnat: TestXnat, ready: Commands, session: ArchivedSession, folder: Path
) -> None:
    """The exit code is 8, with a hint; a dry run reports it; --replace replaces them."""
    await add_file(xnat, session, "REPORTS", "a.pdf", b"theirs")
    plain = await ready("attach", folder / "a.pdf", folder / "in" / "b.pdf", *TO_E)
    assert plain.code == 8
    assert "2 files: 1 sent, 1 refused" in plain.out
    assert "error attachment refused, 1 file: the resource holds another file of this name" in plain.out
    assert "      demo / E / REPORTS / a.pdf\n" in plain.out
    assert "--replace" in plain.out
    xnat.count.clear()
    dry = await attach(ready, folder, *TO_E, "--replace", "--dry-run")
    assert (dry.code, dry.json["dry_run"]) == (0, True)
    assert dry.json["attachments"] == {"total": 3, "stored": 0, "sent": 0, "refused": 0, "failed": 0, "left": 3}
    assert {one["name"]: one["state"] for one in dry.json["details"]}["a.pdf"] == "pending"
    assert xnat.count["file"] == xnat.count["resource"] == 0
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == b"theirs"
    replaced = await attach(ready, folder, *TO_E, "--replace")
    assert (replaced.code, replaced.json["attachments"]["sent"]) == (0, 3)
    assert await file_bytes(xnat, session, "REPORTS", "a.pdf") == b"pdf"


async def test_a_dry_run_reports_a_new_resource(
    xnat: TestXnat, ready: Commands, session: ArchivedSession, folder: Path
) -> None:
    """XNAT answers a listing of its files with an empty 404."""
    empty = Status(404, "", {"Content-Type": "text/html"})
    xnat.faults.add(Fault("listing", empty, path="/files", share=1))
    with in_time():
        ended = await attach(ready, folder, *TO_E, "--dry-run")
    assert (ended.code, ended.json["attachments"]["left"]) == (0, 3)
    assert {one["reason"] for one in ended.json["details"]} == {"the resource would be made"}
    shown = await ready("attach", folder, *TO_E, "--dry-run")
    assert "3 files: 3 would be sent" in shown.out
    assert shown.out.count("would be made: demo / E / REPORTS") == 1
    assert session.own_resources == {}


async def test_a_table_names_files_of_every_level(
    xnat: TestXnat, ready: Commands, session: ArchivedSession, folder: Path
) -> None:
    """Paths are relative to the table; wrong rows are reported by line, and the others are sent."""
    table = folder / "table.csv"
    table.write_text(
        "path,session_label,study_uid,subject_label,scan,level,resource,name,tags,remark\n"
        "a.pdf,E,,,,,,,x,\n"
        f"{folder / 'a.pdf'},,{STUDY},,,,DATA,renamed.pdf,,\n"
        "in,,,S,,,,,,\n"
        "a.pdf,E,,,1,,,,,\n"
        "a.pdf,,,,,project,,,,\n"
        "gone.pdf,E,,,,,,,,\n"
        "a.pdf,NOPE,,,,,,,,\n"
        "a.pdf,Jane Doe,,,,,,,,\n"
        "a.pdf,E,,,9,,,,,\n",
        encoding="utf-8",
    )
    ended = await attach(ready, "--table", table, "-P", "demo", "--resource", "R")
    assert ended.code == 8
    assert [(one["line"], one["column"], one["warning"]) for one in ended.json["flaws"]] == [
        (1, "remark", True),
        (9, "session_label", False),
        (7, "path", False),
    ]
    assert ended.json["attachments"] == {"total": 7, "stored": 5, "sent": 5, "refused": 2, "failed": 0, "left": 0}
    reasons = {one["reason"] for one in ended.json["details"] if one["state"] == "refused"}
    assert reasons == {"the archive has no such session in project demo (NOPE)", "the session has no scan 9"}
    assert (names(session, "R"), names(session, "DATA")) == (["a.pdf"], ["renamed.pdf"])
    assert session.subject is not None
    assert list(session.subject.resources["R"].files) == ["b.pdf"]
    assert list(session.scans["1"].resources["R"].files) == ["a.pdf"]
    assert list(xnat.project("demo").resources["R"].files) == ["a.pdf"]
    assert "Doe" not in ended.out + ended.err


async def test_unusable_files_are_reported(
    ready: Commands, session: ArchivedSession, folder: Path, tmp_path: Path
) -> None:
    """Empty files, names that collide and broken links do not block other files."""
    (folder / "a b.txt").write_bytes(b"1")
    (folder / "a_b.txt").write_bytes(b"2")
    (folder / "empty").touch()
    (folder / "R_catalog.xml").write_bytes(b"x")
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    (folder / "z.txt").write_bytes(b"last")
    ended = await attach(ready, folder, tmp_path / "none", *TO_E)
    assert ended.code == 8
    problems = " ".join(issue["problem"] for issue in ended.json["flaws"])
    for words in (
        "both be a_b.txt",
        "it is empty",
        "for its own catalog",
        "dangling is no file",
        "none is no file",
    ):
        assert words in problems
    assert len(ended.json["flaws"]) == 5
    assert ended.json["attachments"]["stored"] == 5
    assert {"z.txt", "in/b.pdf", "a_b.txt"} <= set(names(session))


async def test_links_out_of_a_directory_are_reported(
    ready: Commands, session: ArchivedSession, folder: Path, tmp_path: Path
) -> None:
    """The target of such a link is not attached, unless the command names it."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "c.pdf").write_bytes(b"outside")
    (outside / "deep" / "d.pdf").write_bytes(b"deeper")
    (folder / "c.pdf").symlink_to(outside / "c.pdf")
    (folder / "in" / "more").symlink_to(outside)
    (folder / "again").symlink_to(folder / "in")
    (folder / "same.pdf").symlink_to("a.pdf")
    ended = await attach(ready, folder, *TO_E)
    assert (ended.code, names(session)) == (8, ["Gro_e_1.csv", "a.pdf", "in/b.pdf", "same.pdf"])
    hint = "name it itself, or leave it out"
    assert {(one["problem"], one["hint"], one["warning"]) for one in ended.json["flaws"]} == {
        (f"{folder / 'c.pdf'} is a link to a file outside {folder}", hint, False),
        (f"{folder / 'in' / 'more'} is a link to a directory outside {folder}", hint, False),
        (f"{folder / 'again'} is a link to a directory that is met in its place", None, True),
    }
    for named, name in ((folder / "c.pdf", "c.pdf"), (folder / "in" / "more", "deep/d.pdf")):
        assert (await attach(ready, named, *TO_E)).code == 0
        assert name in names(session)


USAGE: dict[str, tuple[list[str], str]] = {
    "nothing": ([*TO_E], "give files, or a table"),
    "both": (["{a}", "--table", "{a}", *TO_E], "give files, or a table"),
    "no project": (["{a}", "--session", "E", "--resource", "R"], "no project"),
    "no resource": (["{a}", "-P", "demo", "--session", "E"], "no resource"),
    "a number": (["{a}", "-P", "demo", "--session", "E", "--resource", "12"], "the number of some resource"),
    "no level": (["{a}", "-P", "demo", "--resource", "R"], "nothing says what the files belong to"),
    "two levels": (["{a}", *TO_E, "--to-project"], "--to-project goes with no other level"),
    "scan only": (
        ["{a}", "-P", "demo", "--scan", "1", "-S", "S", "--resource", "R"],
        "--scan without a session",
    ),
    "bad label": (["{a}", "-P", "demo", "--session", "E 1", "--resource", "R"], "invalid --session 'E 1'"),
    "no file": (["{a}x", *TO_E], "no file can be attached"),
    "no table": (["--table", "{a}x", "-P", "demo"], "cannot be read"),
    "not a table": (["--table", "{a}", "-P", "demo"], "no column path"),
    **{
        f"{option} of a table": (
            ["--table", "{a}", "-P", "demo", option, *value],
            f"{option} goes with files, not with",
        )
        for option, *value in (
            ("--session", "E"),
            ("--subject", "S"),
            ("--scan", "1"),
            ("--to-project",),
            ("--format", "F"),
            ("--content", "C"),
            ("--tags", "T"),
        )
    },
}


@pytest.mark.parametrize(("words", "message"), USAGE.values(), ids=USAGE.keys())
async def test_mistakes_are_reported_before_the_login(
    commands: Commands, folder: Path, words: list[str], message: str
) -> None:
    """Exit code 2, one line for the error, and one for the hint."""
    commands.login("http://127.0.0.1:1")
    ended = await commands("attach", *[word.replace("{a}", str(folder / "a.pdf")) for word in words])
    assert ended.code == 2
    first, second = ended.err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("hint: ")


async def test_a_mistake_is_reported_as_json(commands: Commands, folder: Path) -> None:
    """One object."""
    commands.login("http://127.0.0.1:1")
    ended = await attach(commands, folder / "a.pdf", "-P", "demo")
    assert ended.code == 2
    assert ended.json["error"]["message"] == "no resource"
    assert ended.json["details"] == []


@pytest.mark.thorough
async def test_closed_projects_are_reported(xnat: TestXnat, ready: Commands, folder: Path) -> None:
    """Missing: 5; read-only: 6; one of several in a table: 8, and the others go on."""
    xnat.add_project(Project("closed", editors=["boss"], readers=["demo"]))
    missing = await attach(ready, folder, "-P", "nope", *TO_E[2:])
    closed = await attach(ready, folder, "-P", "closed", *TO_E[2:])
    assert (missing.code, closed.code) == (5, 6)
    assert closed.json["error"]["hint"]
    table = folder / "table.csv"
    table.write_text("path,project,session\na.pdf,closed,E\na.pdf,demo,E\n", encoding="utf-8")
    several = await attach(ready, "--table", table, "--resource", "R")
    assert several.code == 8
    assert {one["project"]: one["state"] for one in several.json["details"]} == {"closed": "refused", "demo": "stored"}
    assert xnat.live_logins("demo") == 0


async def test_a_server_that_is_away(commands: Commands, folder: Path) -> None:
    """Exit code 4, and no password in any output."""
    commands.login("http://127.0.0.1:1")
    commands.env["XNAT_PASS"] = "s3cret-word"
    ended = await attach(commands, folder, *TO_E)
    assert ended.code == 4
    assert "s3cret-word" not in ended.out + ended.err
    assert ended.err.splitlines()[1].startswith("hint: ")


async def test_a_wrong_password(xnat: TestXnat, ready: Commands, folder: Path) -> None:
    """Exit code 3 after a single attempt."""
    ready.env["XNAT_PASS"] = "s3cret-word"
    ended = await attach(ready, folder, *TO_E)
    assert ended.code == 3
    assert "s3cret-word" not in ended.out + ended.err
    assert xnat.count["login"] == 1


async def test_a_refused_file_is_reported(xnat: TestXnat, ready: Commands, folder: Path) -> None:
    """Exit code 8 with the reason, without control characters."""
    xnat.faults.add(Fault("file", Status(400, "<h3>no \x1b[2J such</h3>"), path="a.pdf"))
    ended = await ready("attach", folder / "a.pdf", *TO_E, "--no-zip")
    assert ended.code == 8
    assert "error attachment refused, 1 file: XNAT refused the file (400: no [2J such)" in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_a_stop_finishes_what_is_in_flight(
    xnat: TestXnat, ready: Commands, session: ArchivedSession, folder: Path
) -> None:
    """Files in flight arrive, and the exit code is 130; the same command resumes, and sends nothing twice."""
    xnat.timing = Timing(saving_seconds=0.05)
    table = folder / "table.csv"
    rows = [f"a.pdf,E,R{number:02}" for number in range(40)]
    table.write_text("\n".join(["path,session,resource", *rows, ""]), encoding="utf-8")
    words = ("attach", "--table", table, "-P", "demo", "-o", "json")
    async with ready.start(*words) as process:
        xnat.faults.add(Fault("file", Tell(lambda: process.send_signal(signal.SIGINT)), nth=10))
        assert process.stdout is not None
        out = b"".join([piece async for piece in process.stdout])
        code = await process.wait()
    ended = Ended(code, out.decode(), "")
    assert (code, ended.json["exit_code"]) == (130, 130)
    assert 0 < ended.json["attachments"]["left"] < 40
    assert ended.json["attachments"]["stored"] == len(ended.json["details"]) == xnat.count["file"]
    assert xnat.live_logins("demo") == 0
    again = await attach(ready, *words[1:-2])
    assert again.code == 0
    assert again.json["attachments"]["stored"] == 40
    assert xnat.count["file"] == len(session.own_resources) == 40


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_a_stop_during_the_login(xnat: TestXnat, ready: Commands, folder: Path) -> None:
    """The command ends, though the server does not answer the login."""
    async with ready.start("attach", folder, *TO_E) as process:
        xnat.faults.add(Fault("login", Tell(lambda: process.send_signal(signal.SIGINT))))
        xnat.faults.add(Fault("login", Stall(), nth=2))
        with in_time():
            assert await process.wait() == 130


async def test_help_shows_the_options_used_most(commands: Commands) -> None:
    """Rare options are not in it."""
    ended = await commands("attach", "--help")
    assert ended.code == 0
    for option in ("--session", "--scan", "--subject", "--resource", "--table", "--replace", "--dry-run"):
        assert option in ended.out


async def test_long_lists_are_cut(xnat: TestXnat, ready: Commands, folder: Path) -> None:
    """Twenty lines of what differs are shown, and the others counted; equal refusals are one line."""
    for number in range(25):
        (folder / f"{number:02}.csv").touch()
        (folder / f"{number:02}.txt").write_bytes(f"{number}".encode())
    xnat.project("demo").editors = ["demo"]
    xnat.faults.add(Fault("file", Status(400, "<h3>no</h3>"), share=1))
    ended = await ready("attach", folder, *TO_E)
    assert ended.code == 8
    assert ended.out.count("it is empty") == 20
    assert ended.out.count("more: see -o json") == 1
    assert "error attachment refused, 28 files: XNAT refused the file (400: no)\n      such as demo / E / " in ended.out
    assert "28 files: 28 refused" in ended.out


async def test_progress_is_written_unless_quiet(ready: Commands, session: ArchivedSession, folder: Path) -> None:
    """It goes to standard error."""
    for number in range(501):
        (folder / f"{number}.csv").write_bytes(f"{number}".encode())
    quiet = await ready("attach", folder, *TO_E, "-q")
    assert (quiet.code, quiet.err) == (0, "")
    told = await ready("attach", folder, *TO_E)
    assert (told.code, told.err) == (0, "500 of 504 files\n")
    assert len(names(session)) == 504
