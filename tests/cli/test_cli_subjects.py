"""`asyncimport subjects`, as users run it."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from conftest import Commands, Ended
from patience import in_time

from asyncimport.testserver import Fault, Project, Stall, Status, Tell, TestXnat, Timing

pytestmark = pytest.mark.anyio

TABLE = "subject_label,sex,birth_date,handedness\nS1,F,1970-01-31,r\nS2,m,,\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Write a table of two subjects."""
    path = tmp_path / "subjects.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


async def as_json(commands: Commands, table: Path, *options: str) -> Ended:
    """Run it for JSON, and see that its exit code is the one in it."""
    ended = await commands("subjects", table, "-P", "demo", "-o", "json", *options)
    assert ended.json["exit_code"] == ended.code
    return ended


async def test_the_second_call_changes_nothing(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The first one creates subjects and sets their demographics."""
    first = await as_json(ready, table)
    assert first.code == 0
    assert first.json["subjects"] == {
        "total": 2,
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "refused": 0,
        "failed": 0,
        "left": 0,
    }
    assert first.json["details"][0] == {
        "project": "demo",
        "subject": "S1",
        "label": "S1",
        "accession": first.json["details"][0]["accession"],
        "state": "created",
        "written": ["gender", "dob", "handedness"],
        "kept": [],
        "replaced": [],
        "unchanged": [],
        "alike": [],
        "reason": None,
    }
    subject = xnat.subject("demo", first.json["details"][0]["accession"])
    assert subject is not None
    assert subject.demographics == {"gender": "female", "dob": "1970-01-31", "handedness": "right"}
    second = await as_json(ready, table)
    assert (second.code, second.json["subjects"]["unchanged"]) == (0, 2)
    shown = await ready("subjects", table, "-P", "demo")
    assert (shown.code, shown.out) == (0, "2 subjects: 2 unchanged\n")


async def test_a_dry_run_changes_nothing(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """It reports what would be changed."""
    xnat.add_subject("demo", "s1", gender="male")
    ended = await ready("subjects", table, "-P", "demo", "--dry-run")
    assert ended.code == 0
    assert "2 subjects: would be 1 created, 1 updated" in ended.out
    assert "kept: demo / S1 (in XNAT s1): gender" in ended.out
    assert "--overwrite-demographics" in ended.out
    assert [(one.label, one.demographics) for one in xnat.subjects("demo")] == [("s1", {"gender": "male"})]


async def test_different_values_are_kept_unless_overwritten(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """A kept value is not an error."""
    xnat.add_subject("demo", "S1", gender="male", yob=1971)
    kept = await as_json(ready, table, "--existing-only")
    assert kept.code == 8  # S2 is not there
    assert (kept.json["details"][0]["kept"], kept.json["details"][0]["written"]) == (["gender", "dob"], ["handedness"])
    assert kept.json["details"][1]["reason"] == "XNAT has no such subject"
    ended = await as_json(ready, table, "--overwrite-demographics")
    assert ended.code == 0
    assert ended.json["details"][0]["replaced"] == ["gender", "dob"]
    assert xnat.subject("demo", "S1").demographics == {  # type: ignore[union-attr]
        "gender": "female",
        "dob": "1970-01-31",
        "handedness": "right",
    }


async def test_wrong_rows_are_reported_and_others_sent(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The report names line and column."""
    table.write_text(TABLE + "S3,xyz,31/01/1970,,\nS4,f,,\n", encoding="utf-8")
    ended = await as_json(ready, table)
    assert ended.code == 8
    assert ended.json["subjects"]["created"] == 3
    assert [(issue["line"], issue["column"]) for issue in ended.json["flaws"]] == [(4, "sex"), (4, "birth_date")]
    assert {one.label for one in xnat.subjects("demo")} == {"S1", "S2", "S4"}
    shown = await ready("subjects", table, "-P", "demo")
    assert shown.code == 8
    assert "not sent: line 4, birth_date: not a date such as 1970-01-31" in shown.out
    assert "xyz" not in shown.out + shown.err + ended.out


async def test_an_unknown_column_is_a_warning(ready: Commands, table: Path) -> None:
    """The rows are sent all the same."""
    table.write_text(TABLE.replace("handedness", "handednes"), encoding="utf-8")
    ended = await as_json(ready, table)
    assert (ended.code, ended.json["flaws"][0]["warning"], ended.json["flaws"][0]["column"]) == (0, True, "handednes")
    assert "warning: line 1, handednes" in (await ready("subjects", table, "-P", "demo")).out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "no column of subjects"),
        ("Jane^Doe,F\n", "no column of subjects"),
        ("subject,sex\nS1,xyz\n", "has no row that can be sent"),
        ("subject,sex\n", "has no row that can be sent"),
    ],
)
async def test_an_unusable_table_is_refused(ready: Commands, table: Path, text: str | None, said: str) -> None:
    """The server is not asked."""
    if text is None:
        table.unlink()
    else:
        table.write_text(text, encoding="utf-8")
    ready.env["XNAT_HOST"] = "http://127.0.0.1:9"
    ended = await as_json(ready, table)
    assert ended.code == 2
    assert said in ended.err
    assert "hint:" in ended.err
    assert ended.json["error"]["message"] in ended.err


async def test_null_clears_a_field_only_if_asked_for(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """Otherwise it is a word like any other."""
    xnat.add_subject("demo", "S1", race="x")
    table.write_text("subject,race\nS1,NULL\n", encoding="utf-8")
    assert (await as_json(ready, table, "--overwrite-demographics")).code == 2
    assert xnat.subject("demo", "S1").demographics == {"race": "x"}  # type: ignore[union-attr]
    assert (await as_json(ready, table, "--overwrite-demographics", "--null-clears")).code == 0
    assert xnat.subject("demo", "S1").demographics == {}  # type: ignore[union-attr]


async def test_an_encoding_may_be_given(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """It is not guessed, because other encodings read other letters."""
    table.write_bytes("subject,race\nS1,łódź\n".encode("cp1250"))
    ended = await as_json(ready, table)
    assert (ended.code, "--encoding" in ended.err, xnat.subjects("demo")) == (2, True, [])
    assert (await as_json(ready, table, "--encoding", "cp1250")).code == 0
    assert xnat.subjects("demo")[0].demographics == {"race": "łódź"}
    assert (await as_json(ready, table, "--encoding", "klingon")).code == 2


async def test_subjects_that_differ_in_case_are_reported(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The values go to the one that the table names."""
    xnat.add_subject("demo", "S1")
    xnat.add_subject("demo", "s1")
    ended = await ready("subjects", table, "-P", "demo")
    assert ended.code == 0
    assert "alike: demo / S1: XNAT also has s1" in ended.out


async def test_missing_projects_and_aliases(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """A missing project ends the run; among several, only its subjects are refused."""
    assert (await ready("subjects", table, "-P", "nope")).code == 5
    xnat.add_project(Project("real", aliases=["alias"]))
    table.write_text("project,subject,sex\nnope,S1,f\nalias,S2,f\n,S3,f\n", encoding="utf-8")
    ended = await as_json(ready, table)
    assert ended.code == 8
    assert [(one["project"], one["state"]) for one in ended.json["details"]] == [
        ("nope", "refused"),
        ("real", "created"),
        ("demo", "created"),
    ]


async def test_a_user_without_rights_is_told(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The error says that the user may not edit the project."""
    xnat.projects["demo"].editors = []
    xnat.projects["demo"].readers = ["demo"]
    ended = await as_json(ready, table)
    assert ended.code == 6
    assert {one["state"] for one in ended.json["details"]} == {"refused"}
    assert "let this user create subjects" in ended.json["details"][0]["reason"]


async def test_a_wrong_password(ready: Commands, table: Path) -> None:
    """Exit code 3, as in other commands."""
    ready.env["XNAT_PASS"] = "wrong"
    assert (await as_json(ready, table)).code == 3


async def test_a_server_that_goes_away_ends_the_command(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The result has what was done; the next run does the rest."""
    names = [f"S{number}" for number in range(30)]
    table.write_text("subject,sex\n" + "".join(f"{name},f\n" for name in names), encoding="utf-8")
    xnat.faults.add(Fault("any", Status(503, "away"), nth=40, times=10_000, path="subjects"))
    ended = await as_json(ready, table)
    assert ended.code == 4
    counts = ended.json["subjects"]
    assert counts["created"] + counts["left"] == 30
    assert 0 < counts["created"] < 30
    assert "run the command again" in ended.err
    xnat.faults.clear()
    again = await as_json(ready, table)
    assert (again.code, again.json["subjects"]["left"]) == (0, 0)
    assert {one.label for one in xnat.subjects("demo")} == set(names)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_stop_finishes_what_is_in_flight(
    xnat: TestXnat, ready: Commands, table: Path, number: signal.Signals, code: int
) -> None:
    """Subjects in flight are finished, the others are left, and the JSON says which; the same command resumes."""
    xnat.timing = Timing(saving_seconds=0.05)
    names = [f"S{number}" for number in range(40)]
    table.write_text("subject,sex\n" + "".join(f"{name},f\n" for name in names), encoding="utf-8")
    async with ready.start("subjects", table, "-P", "demo", "-o", "json") as process:
        xnat.faults.add(Fault("subject", Tell(lambda: process.send_signal(number)), nth=10))
        assert process.stdout is not None
        out = b"".join([piece async for piece in process.stdout])
        ended = Ended(await process.wait(), out.decode(), "")
    assert (ended.code, ended.json["exit_code"]) == (code, code)
    counts = ended.json["subjects"]
    assert 0 < counts["left"] < 40
    assert counts["created"] == len(ended.json["details"]) == 40 - counts["left"]
    assert {one.label for one in xnat.subjects("demo")} == {one["label"] for one in ended.json["details"]}
    assert xnat.live_logins("demo") == 0
    again = await as_json(ready, table)
    assert (again.code, again.json["subjects"]["created"]) == (0, counts["left"])
    assert {one.label for one in xnat.subjects("demo")} == set(names)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_a_stop_during_the_login(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """The command ends, though the server does not answer the login."""
    async with ready.start("subjects", table, "-P", "demo") as process:
        xnat.faults.add(Fault("login", Tell(lambda: process.send_signal(signal.SIGINT))))
        xnat.faults.add(Fault("login", Stall(), nth=2))
        with in_time():
            assert await process.wait() == 130


async def test_sites_that_need_a_reason_get_one(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """Without one, such a site fails without a message."""
    xnat.needs_reason = True
    assert (await as_json(ready, table)).code == 0
    table.write_text("subject,age\nS1,34\n", encoding="utf-8")
    ended = await as_json(ready, table, "--overwrite-demographics", "--event-reason", "")
    assert (ended.code, ended.json["details"][0]["state"]) == (8, "failed")
    assert "--event-reason" in ended.json["details"][0]["reason"]


async def test_values_are_in_no_output(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """Nor in an argument of a process, whatever goes wrong."""
    xnat.add_subject("demo", "S1", race="planted-there", gender="male")
    table.write_text(
        "subject,race,gender,dob\nS1,planted-here,f,1933-04-21\nS2,planted-2,planted-3,1933-04-21\nS3,planted-4,f,\n",
        encoding="utf-8",
    )
    accession = xnat.subject("demo", "S1").id  # type: ignore[union-attr]
    text = "<h3>race : 'planted' Must Be A Valid String</h3>"
    refused = xnat.faults.add(Fault("subject", Status(400, text), path="subjects?label=S3"))
    failing = xnat.faults.add(
        Fault("any", Status(500, "<h3>planted</h3>"), nth=3, times=9, path=f"subjects/{accession}")
    )
    told = [
        await ready("subjects", table, "-P", "demo", *options)
        for options in (["--dry-run"], ["-o", "json"], [], ["--overwrite-demographics"], ["-o", "json"])
    ]
    assert {ended.code for ended in told} == {8}
    assert refused.hits
    assert failing.hits
    for ended in told:
        text = (ended.out + ended.err).lower()
        assert "planted" not in text
        assert "1933" not in text
        # Labels are patients too, for logs.
        assert "S1" not in ended.err


async def test_values_are_shown_on_a_terminal_if_asked_for(xnat: TestXnat, ready: Commands, table: Path) -> None:
    """They are shown nowhere else."""
    for options in ([], ["-o", "json"]):
        ended = await ready("subjects", table, "-P", "demo", "--show-values", *options)
        assert ended.code == 2
        assert "only on a terminal" in ended.err
    xnat.add_subject("demo", "S1", gender="male", yob=1971)
    shown = await anyio.to_thread.run_sync(_on_a_terminal, ready, table, "--show-values")
    assert "gender female, in XNAT gender male" in shown
    assert "dob 1970-01-31, in XNAT yob 1971" in shown
    assert "female" not in await anyio.to_thread.run_sync(_on_a_terminal, ready, table)


def _on_a_terminal(commands: Commands, table: Path, *options: str) -> str:
    """Run the command on a terminal, and return what it shows there."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "asyncimport", "subjects", str(table), "-P", "demo", *options]
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=commands.env) as process:
        os.close(theirs)
        told = b""
        try:
            while piece := os.read(ours, 4096):
                told += piece
        except OSError:  # the other end is closed
            pass
        process.wait()
    os.close(ours)
    return told.decode()
