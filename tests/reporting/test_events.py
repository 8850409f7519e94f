"""Reports of a run: events as JSON, and a log without names."""

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import anyio
import anyio.to_thread
import jsonschema
import pydicom
import pytest
from builders import upload
from conftest import Commands
from entries_of_a_run import CLAIM, EVERYTHING, QUOTING, SUMMARY
from patience import COMMAND, MOMENT, in_time

import asyncimport.reporting
from asyncimport.errors import UnavailableError, UsageError
from asyncimport.model.deliveries import (
    Held,
    Outcome,
    Stored,
)
from asyncimport.model.events import (
    Event,
    OutcomesRecorded,
    RetryScheduled,
    Scanned,
    ServerUnavailable,
)
from asyncimport.model.summary import Files
from asyncimport.reporting.entries import Entry, RunEnded
from asyncimport.reporting.json_lines import as_json
from asyncimport.reporting.log import log_lines
from asyncimport.reporting.writer import Recorder, append_lines
from asyncimport.testserver import Fault, Reset, Status, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

SCHEMA = json.loads((Path(asyncimport.reporting.__file__).parent / "schema" / "events.json").read_text("utf-8"))
PAGE = (Path(__file__).parent.parent.parent / "docs" / "json.md").read_text("utf-8")


def event(entry: Entry) -> dict[str, Any]:
    """Return the only event of an entry."""
    (line,) = as_json(1_700_000_000.1239, entry)
    assert line.endswith("\n")
    found: dict[str, Any] = json.loads(line)
    return found


def validate(line: dict[str, Any]) -> None:
    """Check a line by the schema."""
    jsonschema.Draft202012Validator(SCHEMA).validate(line)


def check_event(line: dict[str, Any]) -> None:
    """Check a line by the schema, which must know all its keys."""
    validate(line)
    assert line.keys() <= SCHEMA["properties"].keys() | SCHEMA["$defs"][line["event"]]["properties"].keys()


def logged(entry: Entry, *, names: bool = False) -> str:
    """Return the log lines of an entry."""
    return "".join(log_lines(names=names)(1_700_000_000.1239, entry))


class TestJson:
    """Events as JSON, which programs depend on."""

    @pytest.mark.parametrize("name", EVERYTHING)
    def test_has_a_name_and_a_time(self, name: str) -> None:
        """Each event begins with its time in UTC and its name."""
        assert list(event(EVERYTHING[name]).items())[:2] == [
            ("ts", "2023-11-14T22:13:20.123+00:00"),
            ("event", name),
        ]

    def test_every_event_has_json(self) -> None:
        """Every kind of event has JSON, and a row in docs/json.md."""
        told = {type(entry) for entry in EVERYTHING.values()}
        assert told >= set(get_args(Event)) | set(get_args(Entry))
        outcomes = {type(entry.outcomes[0]) for entry in EVERYTHING.values() if isinstance(entry, OutcomesRecorded)}
        assert outcomes == set(get_args(Outcome))
        _, _, rest = PAGE.partition("\n## Events\n")
        rows = re.findall(r"^\| (`.*?`) \|", re.split(r"\n#", rest)[0], re.MULTILINE)
        assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(EVERYTHING)

    def test_a_file(self) -> None:
        """The event has session, path, UID, size, attempts, and the address or the reason."""
        common = {
            "ts": "2023-11-14T22:13:20.123+00:00", "project": "P", "subject": "LABEL1", "session": "LABEL1_20200101",
            "study_uid": "1.2.3", "delivery": 1, "path": "/data/LABEL1/\\xff.dcm", "sop_uid": "1.2.3.4.1",
            "bytes": 1_000, "schema": 1,
        }  # fmt: skip
        uri = "/data/prearchive/projects/P/1/LABEL1_20200101"
        reason = "XNAT refused the file (400: of LABEL1)"
        assert event(EVERYTHING["file_stored"]) == common | {
            "event": "file_stored",
            "attempts": 2,
            "uri": uri,
            "lane": "file",
            "sent_bytes": 1_000,
        }
        assert event(EVERYTHING["file_refused"]) == common | {"event": "file_refused", "attempts": 3, "reason": reason}
        assert event(EVERYTHING["file_failed"]) == common | {
            "event": "file_failed",
            "attempts": 1,
            "reason": "no answer",
        }

    def test_an_attachment_and_a_subject(self) -> None:
        """An attachment has its address and whether it was sent; a subject has fields, but no values."""
        names = {"project": "P", "subject": "LABEL1"}
        stored, refused = event(EVERYTHING["attachment_stored"]), event(EVERYTHING["attachment_refused"])
        common = {"session": "LABEL1_20200101", "resource": "REPORTS", "name": "_.pdf", "bytes": 1_000}
        assert stored.items() >= {**names, **common, "sent": True, "md5": "ab"}.items()
        assert stored["path"] == "/data/LABEL1/\\xff.pdf"
        assert refused.items() >= {**names, **common, "reason": "the archive has no such session (LABEL1)"}.items()
        subject = event(EVERYTHING["subject_stored"])
        assert (subject["written"], subject["kept"], subject["taken"]) == (["gender"], ["yob"], ["gender"])

    def test_a_session_and_a_run(self) -> None:
        """The events have outcomes, reasons and counts."""
        assert event(EVERYTHING["session_held"])["reason"] == QUOTING
        assert event(EVERYTHING["session_incomplete"])["missing"] == ["1.2.8", "1.2.9"]
        began, ended = event(EVERYTHING["run_began"]), event(EVERYTHING["run_ended"])
        assert began["options"] == {"workers": 4, "sources": ["/data/LABEL1"]}
        assert (ended["run"], ended["exit_code"], ended["reason"]) == ("1", 8, None)
        assert (ended["files"]["found"], ended["files"]["refused"], ended["sessions"]["total"]) == (3, 1, 0)
        assert event(RunEnded(None, 4, UnavailableError("away"), None))["reason"] == "away"


class TestSchema:
    """The schema that is shipped, which programs may check lines by."""

    def test_it_is_a_schema_of_all_events(self) -> None:
        """It has a definition for each event, and its version is that of the lines."""
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        assert set(SCHEMA["$defs"]) == set(EVERYTHING)
        assert [one["if"]["properties"]["event"]["const"] for one in SCHEMA["allOf"]] == list(SCHEMA["$defs"])
        assert SCHEMA["description"].startswith(f"Version {SCHEMA['properties']['schema']['const']}. ")

    @pytest.mark.parametrize("name", EVERYTHING)
    def test_each_event_meets_it(self, name: str) -> None:
        """It has all keys that the schema asks for, no other ones, and may lack none of them."""
        found = event(EVERYTHING[name])
        check_event(found)
        common, own = SCHEMA["properties"], SCHEMA["$defs"][name]
        assert not common.keys() & own["properties"].keys()
        for key in found:
            spoilt = {other: value for other, value in found.items() if other != key}
            if key in (*SCHEMA["required"], *own["required"]):
                with pytest.raises(jsonschema.ValidationError):
                    check_event(spoilt)
            if key != "event":
                with pytest.raises(jsonschema.ValidationError):
                    check_event(found | {key: (None,)})

    def test_it_lets_new_events_and_keys_in(self) -> None:
        """A later minor version may have them."""
        validate(event(EVERYTHING["scanned"]) | {"more": 1})
        validate({"ts": "2026-01-31T12:00:00.000+00:00", "event": "something_new", "schema": 1})


class TestLog:
    """The log, which people read and others may see."""

    @pytest.mark.parametrize("name", EVERYTHING)
    def test_the_log_has_no_names(self, name: str) -> None:
        """Without -v there are no labels and paths, and only the status of XNAT's words."""
        assert "LABEL1" not in logged(EVERYTHING[name])

    def test_the_log_has_time_level_and_uids(self) -> None:
        """Each line has a time, a level, and UIDs instead of names."""
        assert logged(EVERYTHING["session_held"]) == (
            "2023-11-14T22:13:20.123+00:00 WARNING held: study 1.2.3: "
            "XNAT did not archive the session (500); `--overwrite append` helps\n"
        )
        assert logged(EVERYTHING["run_began"]).endswith(
            "INFO    run 1 began: asyncimport 0.1, https://xnat.test, project P; workers=4\n"
        )
        assert logged(EVERYTHING["run_ended"]).endswith("WARNING run 1 ended with exit code 8: 2 stored, 1 refused\n")
        assert "refused: instance 1.2.3.4.1 of study 1.2.3" in logged(EVERYTHING["file_refused"])
        assert "postponed to the next run: study 1.2.3: the server failed (500)" in logged(
            EVERYTHING["session_postponed"]
        )
        assert logged(EVERYTHING["file_withheld"]).endswith("begun by somebody else (…); archive it\n")
        assert "INFO    archived, verified by uids: study 1.2.3\n" in logged(EVERYTHING["session_archived"])
        assert logged(EVERYTHING["call_repeated"]) == logged(EVERYTHING["file_stored"]) == ""

    def test_with_names(self) -> None:
        """With -v there are labels, paths and repetitions."""
        assert "(P / LABEL1 / LABEL1_20200101): XNAT did" in logged(EVERYTHING["session_held"], names=True)
        assert "(/data/LABEL1/\\xff.dcm)" in logged(EVERYTHING["file_refused"], names=True)
        assert "INFO    repeated: the server failed (500: LABEL1)" in logged(EVERYTHING["call_repeated"], names=True)
        assert "sources=['/data/LABEL1']" in logged(EVERYTHING["run_began"], names=True)

    def test_how_a_run_ended(self) -> None:
        """The log has the error, except texts about the command line, which may name people."""
        away = RunEnded("1", 4, UnavailableError("the server has been away (503: LABEL1)"), None)
        assert logged(away).endswith("ERROR   run 1 ended with exit code 4; the server has been away (503)\n")
        usage = RunEnded(None, 2, UsageError("no such file: /data/LABEL1"), None)
        assert logged(usage).endswith("the run did not begin: exit code 2; standard error says why\n")
        assert "/data/LABEL1" in logged(usage, names=True)
        assert " INFO " in logged(RunEnded("1", 0, None, replace(SUMMARY, files=Files())))
        assert "nothing was found" in logged(RunEnded("1", 0, None, replace(SUMMARY, files=Files())))

    @pytest.mark.parametrize(
        ("reason", "told"),
        [
            ("no (500: FAILED (1): x); (a) `b`", "no (500) `b`"),
            ("no (LABEL1) and (404)", "no (…)"),
            ("(12)", "(…)"),
            ("(404", "(404"),
            (") 404 (", ") 404 ("),
            (") no (404)", ") no (404)"),
            ("(4\n04: x)", "(…)"),
        ],
    )
    def test_quoted_words_are_left_out(self, reason: str, told: str) -> None:
        """Everything between the first and the last bracket is left out, except the status."""
        assert logged(Held(CLAIM.delivery, reason)).endswith(f": study 1.2.3: {told}\n")

    def test_many_brackets_take_linear_time(self) -> None:
        """Ten times as many brackets take about ten times as long."""

        def seconds(brackets: int) -> float:
            held = Held(CLAIM.delivery, "(" * brackets)
            began = time.process_time()
            logged(held)
            return time.process_time() - began

        few = min(seconds(10_000) for _ in range(5))
        assert seconds(100_000) < 50 * max(few, 0.001)

    def test_line_ends_are_escaped(self) -> None:
        """Line ends and control characters are escaped."""
        text = logged(Held(CLAIM.delivery, "a\nb\x1b[2J\udcff"), names=True)
        assert text.count("\n") == 1
        assert "a\\nb\\x1b[2J\\udcff\n" in text


class Disk:
    """An output that blocks the writer, or fails."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.complaints: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.is_full = False

    def write(self, text: str) -> None:
        """Write lines after a delay."""
        self.may_go_on.wait()
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines += text.splitlines()

    def recorder(self, *, patience: float = 10.0) -> Recorder:
        """Make a recorder of this disk."""
        return Recorder(as_json, self.write, self.complaints.append, patience_seconds=patience)

    def events(self) -> list[str]:
        """Return the names of all events, and the numbers of lost ones."""
        found = [json.loads(line) for line in self.lines]
        return [f"{one['event']} {one['count']}" if "count" in one else one["event"] for one in found]


def until(condition: Callable[[], bool]) -> None:
    """Wait for a thread."""
    end = time.monotonic() + MOMENT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class TestRecorder:
    """The thread that writes."""

    def test_a_slow_disk_does_not_delay_the_loop(self) -> None:
        """Dropped events are counted, reported once, and noted in their place."""
        disk = Disk()
        many = OutcomesRecorded((Stored(CLAIM, "/x"),) * 10_000)
        with disk.recorder() as recorder:
            disk.may_go_on.clear()
            recorder.note(many)
            recorder.note(many)
            recorder.note(ServerUnavailable("one too many"))
            recorder.note(many)
            disk.may_go_on.set()
            until(lambda: len(disk.lines) == 20_000)
            until(lambda: recorder._written == recorder._noted)
            recorder.note(ServerUnavailable(None))
        assert disk.events()[20_000:] == ["events_lost 10001", "server_back"]
        assert disk.complaints == ["is too slow, and lacks events"]

    def test_events_lost_at_the_end_are_reported(self) -> None:
        """They are reported without a later event."""
        disk = Disk()
        disk.may_go_on.clear()
        recorder = disk.recorder()
        with recorder:
            recorder.note(OutcomesRecorded((Stored(CLAIM, "/x"),) * 20_000))
            recorder.note(RetryScheduled("lost"))
            disk.may_go_on.set()
        assert disk.events()[20_000:] == ["events_lost 1"]

    def test_a_full_disk_is_reported_once_and_retried(self) -> None:
        """The run goes on; when there is space again, the number of lost events comes first."""
        disk = Disk()
        with disk.recorder() as recorder:
            recorder.note(Scanned(1, 1))
            until(lambda: len(disk.lines) == 1)
            disk.is_full = True
            recorder.note(OutcomesRecorded((Stored(CLAIM, "/x"),) * 3))
            until(lambda: len(disk.complaints) == 1)
            recorder.note(Scanned(1, 1))
            until(lambda: recorder._written == recorder._noted)
            disk.is_full = False
            recorder.note(ServerUnavailable(None))
        assert disk.events() == ["scanned", "events_lost 4", "server_back"]
        assert disk.complaints == ["cannot be written (no space left on device)"]

    def test_a_hanging_disk_does_not_block_the_exit(self) -> None:
        """The exit waits for a limited time."""
        disk = Disk()
        disk.may_go_on.clear()
        with disk.recorder(patience=0.05) as recorder:
            recorder.note(Scanned(1, 1))
        assert disk.complaints == ["is too slow, and lacks the end"]
        disk.may_go_on.set()

    def test_a_partial_line_is_removed(self, tmp_path: Path) -> None:
        """A disk that fills up in the middle of a line keeps whole lines only."""
        code = (
            "import pathlib, resource, sys; from asyncimport.reporting.writer import append_lines\n"
            "with append_lines(pathlib.Path(sys.argv[1]), '--events') as write:\n"
            "    write('one\\n'); resource.setrlimit(resource.RLIMIT_FSIZE, (6, 6))\n"
            "    try: write('two\\n')\n"
            "    except OSError: write('x\\n')\n"
        )
        if sys.platform == "win32":
            pytest.skip("Windows has no such limits")
        path = tmp_path / "events"
        subprocess.run([sys.executable, "-c", code, path], check=True)
        assert path.read_text() == "one\nx\n"

    def test_an_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        """An output that cannot be written is refused first."""
        with pytest.raises(UsageError, match="--log-file"), append_lines(tmp_path, "--log-file"):
            pass


def events_in(path: Path) -> list[dict[str, Any]]:
    """Read a file of events, each of which meets the schema."""
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in found:
        check_event(line)
    return found


async def test_a_whole_run(xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """Each counted file and session has its event; another run appends."""
    xnat.faults.add(Fault("import", Status(500, "<h3>trouble</h3>"), nth=3))
    xnat.faults.add(Fault("import", Status(400, "<h3>no SOP Class</h3>"), nth=6))
    commands.login(url)
    path = tmp_path / "events"
    # One at a time: else the file that is repeated may be the one that is refused.
    ended = await commands("upload", tree, "-P", "demo", "-w", "1", "-o", "json", "--events", path)
    assert ended.code == 8, ended.err
    found = events_in(path)
    assert [one["event"] for one in found][:2] == ["run_began", "scanned"]
    stored = [one for one in found if one["event"] == "file_stored"]
    waiting = {file.sop_uid for row in xnat.prearchive for file in row.files}
    assert waiting
    assert {one["sop_uid"] for one in stored} == xnat.sop_uids("demo") | waiting
    assert {one["path"] for one in stored} < {str(path) for path in tree.rglob("*")}
    assert sum(one["attempts"] for one in stored) == 12
    assert [one["reason"] for one in found if one["event"] == "file_refused"] == [
        "XNAT refused the file (400: no SOP Class)"
    ]
    (repeated,) = (one for one in found if one["event"] == "call_repeated")
    assert (repeated["reason"], repeated["attempt"]) == ("the server failed (500: trouble)", 1)
    assert repeated["sop_uid"] in {one["sop_uid"] for one in found if one["event"] == "file_stored"}
    assert len([one for one in found if one["event"] == "session_archived"]) == ended.json["sessions"]["archived"]
    assert found[-1]["files"] == ended.json["files"]
    assert [one["ts"] for one in found] == sorted(one["ts"] for one in found)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = await commands("upload", tree, "-P", "demo", "-q", "--events", path, "--retry", "refused")
    assert again.code == 0, again.err
    more = events_in(path)
    assert more[: len(found)] == found
    assert [one["run"] for one in more if one["event"] == "run_ended"] == ["1", "2"]


async def test_the_loop_never_waits(xnat: TestXnat, url: str, tree: Path, tmp_path: Path) -> None:
    """A disk that hangs does not block the loop."""
    disk = Disk()
    disk.may_go_on.clear()
    recorder = disk.recorder()
    await anyio.to_thread.run_sync(recorder.__enter__)
    summary = await upload(url, [tree], tmp_path / "journal", report=recorder.note)
    assert summary.files.stored == len(xnat.sop_uids()) == 12
    assert disk.lines == []
    disk.may_go_on.set()
    await anyio.to_thread.run_sync(recorder.__exit__, None, None, None)
    assert disk.events().count("file_stored") == 12


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_everything_is_written_after_ctrl_c(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """All stored files have an event, and the last line is the end of the run."""
    tree = tmp_path / "tree"
    generated(tree, sessions=2, files=400, size=2_000, seed=3)
    commands.login(url)
    path = tmp_path / "events"
    async with commands.start("upload", tree, "-P", "demo", "-w", "2", "--events", path) as process:
        xnat.faults.add(Fault("import", Tell(lambda: process.send_signal(signal.SIGINT)), nth=21))
        with in_time(COMMAND):
            assert await process.wait() == 130
    found = events_in(path)
    stored = [one for one in found if one["event"] == "file_stored"]
    assert 20 <= len(stored) < 400
    assert (found[-1]["event"], found[-1]["exit_code"]) == ("run_ended", 130)
    assert found[-1]["files"]["stored"] == len(stored)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
async def test_a_full_disk_stops_no_upload(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Standard error says it once, and all files arrive."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "--events", "/dev/full", "--log-file", "/dev/full")
    assert ended.code == 0
    assert ended.err.count("--events /dev/full cannot be written (no space left on device); the upload goes on") == 1
    assert ended.err.count("--log-file") == 1
    assert len(xnat.sop_uids()) == 12


@pytest.mark.parametrize("option", ["--events", "--log-file"])
async def test_an_unwritable_output_is_a_usage_error(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path, option: str
) -> None:
    """It is a usage error, found before anything is sent."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json", option, tmp_path / "none" / "file")
    assert ended.code == 2
    assert option in ended.json["error"]["message"]
    assert xnat.count["login"] == 0


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Write three sessions of a patient whose name is searched."""
    tree = tmp_path / "PLANTED7"
    generated(tree, sessions=3, files=12, size=2_000, seed=7)
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = "Planted^Patient", "19330421", "PLANTED7"
        dataset.StudyDate = str(20200101 + int(dataset.StudyInstanceUID[-1]))
        dataset.save_as(path)
    return tree


async def test_the_log_of_a_run(xnat: TestXnat, url: str, commands: Commands, planted: Path, tmp_path: Path) -> None:
    """It reports every kind of trouble without names; with -v, standard error has labels, but no patient."""
    for fault in (
        Fault("import", Status(400, "<h3>of PLANTED7</h3>"), nth=2),
        Fault("import", Reset(), nth=4),
        Fault("archive", Status(500, "<h3>FAILED: Unable to archive PLANTED7_2020</h3>"), nth=1),
    ):
        xnat.faults.add(fault)
    commands.login(url)
    log = tmp_path / "log"
    ended = await commands("upload", planted, "-P", "demo", "--log-file", log)
    assert ended.code == 8
    text = log.read_text("utf-8")
    assert "planted" not in text.lower()
    assert "demo:demo" not in text
    for words in ("run 1 began", "the scan is finished", "refused: instance", "held: study", "archived, verified"):
        assert words in text
    assert "run 1 ended with exit code 8: 11 stored, 1 refused, 1 archived, 2 held" in text
    if os.name == "posix":
        assert stat.S_IMODE(log.stat().st_mode) == 0o600

    await commands("upload", planted, "-P", "nope", "--log-file", log, "--state-dir", tmp_path / "other")
    text = log.read_text("utf-8")
    # Which journal it is, the project's own ID tells: without one there is no run.
    assert "ERROR   the run did not begin: exit code 5" in text

    verbose = await commands("upload", planted, "-P", "demo", "--retry", "held", "-v", "-q", "--log-file", log)
    told = log.read_text("utf-8")[len(text) :]
    # But for its time, which each has of its own.
    assert [line[29:] for line in verbose.err.splitlines()] == [line[29:] for line in told.splitlines()]
    assert "PLANTED7_2020" in told
    assert "Planted^" not in told + verbose.err
    assert "19330421" not in told + verbose.err
