"""The command line as its users meet it: real processes, a real server on a real socket, real files."""

import json
import os
import re
import shutil
import signal
import sys
from base64 import b64encode
from pathlib import Path

import aiohttp
import anyio
import anyio.to_thread
import filelock
import pydicom
import pytest
import trustme
from aiohttp import web
from conftest import Commands
from patience import COMMAND, in_time
from pydicom.uid import UID

from asyncimport.cli import main
from asyncimport.journal.database import create_or_open
from asyncimport.testserver import Fault, Project, Reset, Status, Tell, TestXnat, User, faults_from, serve
from asyncimport.testserver.samples import bundled, generated, odd

pytestmark = pytest.mark.anyio


def sop_uids(tree: Path) -> set[str]:
    """Read the SOPInstanceUIDs of all DICOM files below `tree`, by pydicom alone."""
    found = set()
    for path in tree.rglob("*"):
        if path.is_file():
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"], force=True)
            found.add(str(dataset.SOPInstanceUID))
    return found


async def test_everything_arrives_and_the_summary_says_so(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """What the server holds equals what pydicom finds on disk, and the JSON adds up."""
    tree = tmp_path / "tree"
    written = bundled(tree) + generated(tree, sessions=3, files=40, size=3_000, seed=2)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.err
    summary = ended.json
    assert xnat.sop_uids("demo") == sop_uids(tree)
    assert summary["exit_code"] == 0
    assert summary["error"] is None
    assert summary["host"] == url
    assert summary["files"]["found"] == summary["files"]["stored"] == written.instances
    assert summary["bytes"]["stored"] == written.bytes
    assert summary["sessions"] == {
        "total": written.sessions, "archived": written.sessions, "prearchive": 0, "held": 0, "open": 0
    }  # fmt: skip
    assert {detail["verified"] for detail in summary["details"]} == {"uids"}
    assert sum(detail["files"] for detail in summary["details"]) == written.instances
    assert xnat.live_logins("demo") == 0


async def test_other_files_are_counted_by_reason(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """Other files are counted by reason, the rest arrives, and the exit code is 8."""
    tree = tmp_path / "tree"
    written = odd(tree)
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8
    files = ended.json["files"]
    assert files["stored"] == written.instances
    assert (files["duplicate"], files["skipped"], files["unreadable"]) == (1, 1, 1)
    assert files["not_dicom"] == written.files - files["found"] - files["unreadable"]
    reasons = {problem["reason"] for problem in ended.json["problems"]}
    assert "no StudyInstanceUID" in reasons
    assert any(reason.endswith("no StudyDate in the header") for reason in reasons)
    assert len(xnat.sop_uids("demo")) == written.instances


async def test_a_second_run_sends_nothing_and_notices_what_changed(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Added, rewritten and removed files are each noticed; nothing else changes."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    assert xnat.count["import"] == 12

    again = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert again.code == 0
    assert again.json["files"]["already_stored"] == 12
    assert xnat.count["import"] == 12

    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    added = pydicom.dcmread(paths[0])
    added.SOPInstanceUID = added.file_meta.MediaStorageSOPInstanceUID = UID("2.25.42")
    added.save_as(paths[0].with_name("added"))
    rewritten = pydicom.dcmread(paths[1])
    rewritten.ImageComments = "rewritten"
    rewritten.save_as(paths[1])
    paths[2].unlink()

    third = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert third.code == 8
    files = third.json["files"]
    assert (files["stored"], files["skipped"], files["already_stored"]) == (1, 1, 10)
    assert third.json["problems"][0]["reason"] == "changed on disk after XNAT stored it; the new bytes were not sent"
    assert third.json["problems"][0]["example"] == str(paths[1])
    assert "files of an earlier run that no longer exist: 1, of which 0 were never sent" in third.err
    assert xnat.count["import"] == 13
    assert "2.25.42" in xnat.sop_uids("demo")
    assert {detail["state"] for detail in third.json["details"]} == {"archived"}


async def test_the_summary_is_a_table_by_default(url: str, commands: Commands, tree: Path) -> None:
    """A path in it cannot write control characters to the terminal."""
    (tree / "evil\x1b[31m.dcm").write_bytes(b"\0" * 128 + b"DICM")
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo")
    assert ended.code == 8
    assert "12 DICOM files" in ended.out
    assert "2 sessions: 2 archived, 2 of them verified" in ended.out
    assert "apart from these: 1 unreadable" in ended.out
    assert "error unreadable, 1 file: " in ended.out
    assert r"evil\x1b[31m.dcm" in ended.out
    assert "\x1b" not in ended.out + ended.err


async def test_no_archive_leaves_sessions_built(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """--no-archive builds and never commits, also on a project that archives by itself; a later run archives."""
    xnat.project("demo").prearchive_code = 4
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "--no-archive", "-o", "json")
    assert ended.code == 0, ended.out + ended.err
    assert ended.json["sessions"]["prearchive"] == 2
    assert (len(xnat.prearchive), len(xnat.archived)) == (2, 0)
    later = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert later.code == 0, later.out
    assert later.json["sessions"]["archived"] == 2
    assert (len(xnat.prearchive), len(xnat.archived)) == (0, 2)


async def test_other_rules_are_refused_unless_relabel_is_given(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """A journal keeps its rules; --relabel changes them for files that were not sent."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    other = await commands("upload", tree, "-P", "demo", "-E", "{StudyInstanceUID}")
    assert other.code == 2
    assert "session '{PatientID}_{StudyDate}'" in other.err
    generated(tree / "more", sessions=1, files=2, size=2_000, seed=3)
    ended = await commands("upload", tree, "-P", "demo", "-E", "{AccessionNumber}", "--relabel", "-o", "json")
    assert ended.code == 0, ended.err
    assert ended.json["files"]["stored"] == 2
    assert len([session for session in xnat.archived if "_" not in session.label]) == 1


async def test_one_label_for_two_studies_sends_nothing(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """A fixed session label implies that the whole source is scanned first."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-E", "visit", "-o", "json")
    assert ended.code == 2
    assert "session label visit already belongs to study" in ended.json["error"]["message"]
    assert xnat.count["import"] == 0


async def test_colliding_labels_skip_the_study_met_later(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """The first study goes on, and the later one is skipped with its reason."""
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-E", "{SeriesNumber}", "-o", "json")
    assert ended.code == 2, "SeriesNumber is not a field of the study"
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.StudyDate = "P1", "20200101"
        dataset.save_as(path)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8
    (archived,) = xnat.archived
    (problem,) = ended.json["problems"]
    assert f"already belongs to study {archived.study_uid}" in problem["reason"]
    assert ended.json["files"]["skipped"] == problem["files"] > 0
    assert ended.json["files"]["stored"] == len(xnat.sop_uids()) == 12 - problem["files"]


async def test_truncated_files_are_skipped_unless_asked_for(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """A file that ends within its pixel data is reported; --truncated send sends it."""
    path = min(path for path in tree.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-100])
    commands.login(url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8
    assert (ended.json["files"]["unreadable"], ended.json["files"]["stored"]) == (1, 11)
    assert [problem["reason"] for problem in ended.json["problems"]] == ["truncated: the pixel data ends early"]
    again = await commands("upload", tree, "-P", "demo", "--truncated", "send", "-o", "json")
    assert again.code == 0, again.out
    assert (again.json["files"]["unreadable"], again.json["files"]["stored"]) == (0, 1)
    assert len(xnat.sop_uids()) == 12
    assert (await commands("upload", tree, "-P", "demo", "--truncated", "maybe")).code == 2


async def test_archives_that_hold_dicom_are_reported(url: str, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """A zip of DICOM in the tree is not skipped silently, unless the user allows it."""
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    shutil.make_archive(str(zipped / "old"), "zip", tree)
    commands.login(url)
    ended = await commands("upload", zipped, "-P", "demo", "-o", "json")
    assert ended.code == 8
    assert ended.json["files"]["not_dicom"] == 1
    assert [problem["reason"] for problem in ended.json["problems"]] == ["a zip archive that holds DICOM"]
    both = await commands("upload", zipped, tree, "-P", "demo", "--ignore-archives", "-o", "json")
    assert both.code == 0, both.out
    assert both.json["problems"] == []
    assert both.json["files"]["not_dicom"] == 1


async def test_status_and_verify_read_the_journal(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Both agree with the run."""
    commands.login(url)
    label = (await commands("upload", tree, "-P", "demo", "-o", "json")).json["details"][0]["session"]

    status = await commands("status")
    assert status.code == 0
    assert "ended" in status.out
    assert "with exit code 0" in status.out
    assert "2 sessions: 2 archived, 2 of them verified" in status.out
    assert (await commands("status", "-o", "json")).json["files"]["stored"] == 12
    files = (await commands("status", label, "-o", "json")).json["files"]
    (session,) = [session for session in xnat.archived if session.label == label]
    assert len(files) == sum(len(resource.files) for _, resource in session.resources)
    assert {file["state"] for file in files} == {"stored"}
    assert (await commands("status", "nobody")).code == 2

    assert (await commands("verify")).code == 0
    _, resource = next(iter(session.resources))
    resource.files.pop(next(iter(resource.files)))
    verify = await commands("verify", "-o", "json")
    assert verify.code == 9
    assert verify.json["sessions"] == {"total": 2, "verified": 1, "incomplete": 1}
    assert [detail["reason"] for detail in verify.json["details"] if detail["reason"]] == [
        f"1 of {len(files)} instances is missing"
    ]


@pytest.mark.parametrize("command", ["status", "verify"])
async def test_a_journal_without_a_server_is_used_again(commands: Commands, tmp_path: Path, command: str) -> None:
    """It has its tables, but no server: the run was killed between the two."""
    await anyio.to_thread.run_sync(lambda: create_or_open(tmp_path / "x.journal").close())
    ended = await commands(command, "--journal", tmp_path / "x.journal")
    assert "Traceback" not in ended.err
    assert "error: " in ended.err


def writes_nothing(err: str) -> bool:
    """Whether an error is one line and a hint, without a traceback."""
    lines = err.strip().splitlines()
    return lines[-2].startswith("error: ") and lines[-1].startswith("hint: ") and "Traceback" not in err


BAD_INPUT = {
    "no such directory": (("/nowhere/at/all",), {}, 2, "no such file or directory: /nowhere/at/all"),
    "no DICOM": (("EMPTY",), {}, 2, "no DICOM found in"),
    "no project named": (("TREE", "--project", ""), {}, 2, "no project"),
    "no such field": (("TREE", "-S", "{PatientNam}"), {}, 2, "{PatientNam} is not a field"),
    "a malformed template": (("TREE", "-S", "{PatientID"), {}, 2, "malformed"),
    "a file as a subject": (("TREE", "-S", "/etc/passwd"), {}, 2, "is the name of a file"),
    "workers": (("TREE", "-w", "many"), {}, 2, "invalid --workers 'many'"),
    "no workers": (("TREE", "-w", "0"), {}, 2, "invalid --workers '0'"),
    "an unknown option": (("TREE", "--nonsense"), {}, 2, "--nonsense"),
    "retry": (("TREE", "--retry", "all"), {}, 2, "invalid --retry 'all'"),
    "no server": (("TREE",), {"XNAT_HOST": ""}, 2, "no server"),
    "not an address": (("TREE",), {"XNAT_HOST": "xnat.example.org"}, 2, "is not an address"),
    "not encrypted": (("TREE",), {"XNAT_HOST": "http://xnat.example.org"}, 2, "is not encrypted"),
    "no password": (("TREE",), {"XNAT_PASS": ""}, 2, "no password"),
    "wrong password": (("TREE",), {"XNAT_PASS": "wrong"}, 3, "refused the user name or password"),
    "server not there": (("TREE",), {"XNAT_HOST": "http://127.0.0.1:1"}, 4, "does not answer"),
    "project missing": (("TREE", "-P", "nope"), {}, 5, "project nope does not exist"),
    "project read-only": (("TREE", "-P", "readonly"), {}, 6, "may read project readonly"),
}


@pytest.mark.parametrize(("words", "env", "code", "message"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
async def test_bad_input_gets_one_line_and_a_hint(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    tree: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    env: dict[str, str],
    code: int,
    message: str,
) -> None:
    """Each mistake has its exit code, an error that names it, a hint, and JSON for a scheduler."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "note.txt").write_text("not DICOM")
    xnat.add_project(Project("readonly", readers={"demo"}, editors=set()))
    commands.login(url)
    commands.env |= env
    places = {"TREE": str(tree), "EMPTY": str(tmp_path / "empty")}
    arguments = ["upload", *(places.get(word, word) for word in words)]
    if not {"-P", "--project"} & set(words):
        arguments += ["-P", "demo"]
    ended = await commands(*arguments, "-o", "json")
    assert ended.code == code, ended.err
    assert message in ended.err
    assert writes_nothing(ended.err), ended.err
    assert ended.json["exit_code"] == code
    assert message in ended.json["error"]["message"]
    assert xnat.count["import"] == 0
    assert xnat.live_logins("demo") == 0


async def test_a_server_that_is_no_xnat_is_refused(commands: Commands, tree: Path) -> None:
    """It answers everything with a page."""

    async def page(_: web.BaseRequest) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    runner = web.ServerRunner(web.Server(page))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    commands.login(f"http://127.0.0.1:{runner.addresses[0][1]}")
    ended = await commands("upload", tree, "-P", "demo")
    await runner.cleanup()
    assert ended.code == 4
    assert "not an XNAT" in ended.err
    assert writes_nothing(ended.err)


async def test_certificates_are_checked(xnat: TestXnat, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """An untrusted certificate ends the run with a hint to --ca-bundle, which works."""
    import ssl

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    async with serve(xnat, ssl_context=context) as url:
        commands.login(url.replace("127.0.0.1", "localhost"))
        ended = await commands("upload", tree, "-P", "demo")
        assert ended.code == 4
        assert "certificate is not trusted" in ended.err
        assert "--ca-bundle" in ended.err
        assert writes_nothing(ended.err)
        assert (await commands("upload", tree, "-P", "demo", "--ca-bundle", bundle, "-q")).code == 0
    assert len(xnat.sop_uids()) == 12


async def test_a_journal_serves_one_run_at_a_time(url: str, commands: Commands, tree: Path) -> None:
    """A second run ends with 7 and changes nothing; `status` works."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    (journal,) = commands.home.rglob("*.journal")
    with filelock.FileLock(f"{journal}.lock"):
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert ended.code == 7
        assert writes_nothing(ended.err)
        assert (await commands("status")).code == 0
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0


async def test_journals_are_for_their_owner_only(url: str, commands: Commands, tree: Path) -> None:
    """Journals hold patients' identifiers."""
    commands.login(url)
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0
    (journal,) = commands.home.rglob("*.journal")
    assert [path.stat().st_mode & 0o077 for path in journal.parent.iterdir()] == [0] * len(
        list(journal.parent.iterdir())
    )


async def test_no_password_or_patient_is_written_by_default(
    xnat: TestXnat, url: str, commands: Commands, tree: Path
) -> None:
    """Neither standard error nor the journal holds the password."""
    xnat.add_user(User("demo", "correct-horse"))
    commands.login(url)
    commands.env["XNAT_PASS"] = "correct-horse"
    ended = await commands("upload", tree, "-P", "demo")
    assert ended.code == 0
    assert "correct-horse" not in ended.out + ended.err
    assert all(b"correct-horse" not in path.read_bytes() for path in commands.home.rglob("*") if path.is_file())
    assert "S1-" not in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_gracefully_and_the_next_run_finishes(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    """A stopped run records what arrived, logs out, and says how to go on; nothing is sent twice afterwards."""
    tree = tmp_path / "tree"
    generated(tree, sessions=10, files=1_000, size=1_000, seed=4)
    commands.login(url)
    async with commands.start("upload", tree, "-P", "demo", "-o", "json", "-w", "4") as process:
        xnat.faults.add(Fault("import", Tell(lambda: process.send_signal(number)), nth=200))
        assert process.stdout is not None
        assert process.stderr is not None
        out = b"".join([piece async for piece in process.stdout])
        err = b"".join([piece async for piece in process.stderr])
        assert await process.wait() == 128 + number
    summary = json.loads(out)
    assert summary["exit_code"] == 128 + number
    assert summary["files"]["stored"] == xnat.count["import"] < 1_000
    assert summary["error"] is None
    assert b"the same command goes on from here" in err
    assert xnat.live_logins("demo") == 0
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0
    assert xnat.count["import"] == 1_000
    assert xnat.sop_uids() == sop_uids(tree)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
async def test_ctrl_c_while_it_starts() -> None:
    """Nothing was done yet, and nothing is written: no traceback."""
    interrupted = (
        "import os, sys\nfrom asyncimport.cli import main\n"
        "sys.addaudithook(lambda event, of: event == 'import' and of[0] == 'typer' and os.kill(os.getpid(), 2))\n"
        "main()"
    )
    ended = await anyio.run_process([sys.executable, "-c", interrupted], check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


async def test_a_kill_loses_nothing(xnat: TestXnat, url: str, commands: Commands, tmp_path: Path) -> None:
    """A run is killed while sending, and again while archiving; the same command finishes the job."""
    tree = tmp_path / "tree"
    generated(tree, sessions=10, files=400, size=1_000, seed=5)
    commands.login(url)
    for kind, nth in (("import", 150), ("archive", 3), ("build", 2)):
        async with commands.start("upload", tree, "-P", "demo", "-q") as process:
            xnat.faults.add(Fault(kind, Tell(process.kill), nth=nth))
            assert await process.wait() == -signal.SIGKILL
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert ended.json["sessions"]["archived"] == 10
    assert xnat.sop_uids() == sop_uids(tree)
    # At each kill: 16 in flight, as many between worker and recorder, and as many again being settled.
    assert xnat.count["import"] <= 400 + 3 * (16 + 16 + 17)


async def test_transient_errors_are_retried(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Overload, broken connections and an expired login are retried."""
    commands.login(url)
    faults = [
        xnat.faults.add(Fault("import", Status(503, headers={"Retry-After": "0"}), nth=2)),
        xnat.faults.add(Fault("import", Reset(effect=True), nth=4)),
        xnat.faults.add(Fault("import", Reset(effect=False), nth=6)),
        xnat.faults.add(Fault("import", Status(401), nth=8)),
    ]
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 0, ended.out
    assert [fault.hits for fault in faults] == [1, 1, 1, 1]
    assert ended.json["files"]["stored"] == 12
    assert len(xnat.sop_uids()) == 12


async def test_max_duration_stops_gracefully(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """It stops as Ctrl-C does, also while the server is away; the same command resumes."""
    commands.login(url)
    fault = xnat.faults.add(Fault("import", Status(503), nth=1, times=10_000))
    ended = await commands("upload", tree, "-P", "demo", "--max-duration", "1s", "-o", "json")
    assert ended.code == 130
    assert fault.hits > 0
    assert ended.json["files"]["left"] == 12
    xnat.faults.clear()
    assert (await commands("upload", tree, "-P", "demo", "-q")).code == 0


async def test_the_password_may_come_from_standard_input(url: str, commands: Commands, tree: Path) -> None:
    """It is for scripts that do not keep the password in the environment."""
    commands.env["XNAT_HOST"] = url
    ended = await commands("upload", tree, "-P", "demo", "--user", "demo", "--password-stdin", "-q", stdin=b"demo\n")
    assert ended.code == 0, ended.err


async def test_options_may_come_from_the_environment(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Containers and cron set them there."""
    commands.login(url)
    commands.env |= {
        "ASYNCIMPORT_PROJECT": "demo",
        "ASYNCIMPORT_ARCHIVE": "false",
        "ASYNCIMPORT_OUTPUT": "json",
        "ASYNCIMPORT_QUIET": "1",
        "ASYNCIMPORT_STATE_DIR": str(commands.home / "journals"),
        "ASYNCIMPORT_CHECK_FIRST": "true",
    }
    ended = await commands("upload", tree)
    assert ended.code == 0, ended.err
    assert ended.json["sessions"]["prearchive"] == len(xnat.prearchive) == 2
    assert len(list((commands.home / "journals").glob("*.journal"))) == 1


async def test_the_password_may_come_from_netrc(url: str, commands: Commands, tree: Path) -> None:
    """Users of other XNAT clients keep their password in ~/.netrc."""
    netrc = commands.home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login demo password demo\n")
    netrc.chmod(0o600)
    ended = await commands("upload", tree, "-P", "demo", "--host", url, "-q")
    assert ended.code == 0, ended.err


async def test_testserver_serves_until_a_signal(commands: Commands) -> None:
    """The test XNAT runs as a command, shows its page, and stops on SIGTERM."""
    async with commands.start("testserver", "--port", "0", "-o", "json") as process:
        assert process.stdout is not None
        address = json.loads(await process.stdout.receive())
        assert (address["user"], address["password"], address["project"]) == ("demo", "demo", "demo")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_testserver_says_when_its_port_is_taken(url: str, commands: Commands) -> None:
    """The hint says how to choose another one."""
    ended = await commands("testserver", "--port", url.rpartition(":")[2])
    assert ended.code == 2
    assert writes_nothing(ended.err)


async def test_testserver_injects_the_faults_of_a_file(commands: Commands, tmp_path: Path) -> None:
    """The state of the server counts them."""
    file = tmp_path / "faults.json"
    file.write_text(
        '[{"kind": "login", "action": "status", "status": 503, "headers": {"Retry-After": "1"}, "nth": 2},'
        ' {"kind": "listing", "action": "login_page", "path": "projects"}]'
    )
    async with (
        commands.start("testserver", "--faults", file, "--port", "0", "-o", "json") as process,
        aiohttp.ClientSession(headers={"Authorization": f"Basic {b64encode(b'demo:demo').decode()}"}) as http,
    ):
        assert process.stdout is not None
        url = json.loads(await process.stdout.receive())["url"]
        answers = []
        for path in ("JSESSION", "JSESSION", "JSESSION", "projects", "projects"):
            async with http.get(f"{url}/data/{path}") as reply:
                answers.append((reply.status, reply.headers.get("Retry-After"), reply.content_type))
        assert answers == [
            (200, None, "text/plain"),
            (503, "1", "text/plain"),
            (200, None, "text/plain"),
            (200, None, "text/html"),
            (200, None, "application/json"),
        ]
        async with http.get(f"{url}/testserver/state") as reply:
            assert [(fault["action"], fault["hits"]) for fault in (await reply.json())["faults"]] == [
                ("Status", 1),
                ("LoginPage", 1),
            ]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (None, ["No such file or directory"]),
        (b"", ["this is not JSON: Expecting value: line 1 column 1 (char 0)"]),
        (b"[\xff]", ["this is not JSON: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"]),
        (b"[" * 200_000, ["this is not JSON: maximum recursion depth exceeded"]),
        (b"{}", ["faults are a list, not {}"]),
        (
            b'[{"kind": "import"}, {"kind": "import", "action": "empty"}, {"action": "empty"}]',
            ["fault 1: action: null is none of administer, ", "fault 3: kind is missing"],
        ),
    ],
    ids=["missing", "empty", "no text", "deep", "no list", "mistakes"],
)
async def test_testserver_refuses_malformed_faults(
    commands: Commands, tmp_path: Path, content: bytes | None, problems: list[str]
) -> None:
    """Each mistake has one line; a hint follows."""
    file = tmp_path / "faults.json"
    if content is not None:
        file.write_bytes(content)
    with in_time(COMMAND):
        ended = await commands("testserver", "--faults", file, "--port", "0", "-o", "json")
    assert (ended.code, ended.json["exit_code"]) == (2, 2)
    *errors, hint = ended.err.splitlines()
    assert hint == "hint: `asyncimport testserver --help-all` shows an example"
    for error, problem in zip(errors, problems, strict=True):
        assert error.startswith(f"error: --faults {file}: {problem}")


async def test_the_example_of_a_fault_file_works(commands: Commands) -> None:
    """Only --help-all shows it."""
    assert "--faults" not in (await commands("testserver", "--help")).out
    text = " ".join((await commands("testserver", "--help-all")).out.split())
    assert "--faults" in text
    example = re.search(r"\[\{.*?\}\](?=:)", text)
    assert example, text
    first, second = faults_from(json.loads(example[0]))
    assert first == Fault("import", Status(503, headers={"Server": "nginx"}), nth=3, times=2)
    assert second == Fault("any", Reset(effect=True), share=0.05, seed=1, path="prearchive")


async def test_demo_does_the_whole_job(commands: Commands, tmp_path: Path) -> None:
    """It needs no arguments and no XNAT, and leaves nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    commands.env["TMPDIR"] = str(scratch)
    with in_time(COMMAND):
        ended = await commands("demo")
    assert ended.code == 0, ended.out + ended.err
    upload, _, problems = ended.out.partition("What problems look like")
    assert "37 sessions: 37 archived, 37 of them verified" in upload
    assert "The exit code is 0, and the test XNAT itself counts 2,026 archived instances of 2,026." in upload
    assert "error skipped" not in upload
    assert "error skipped, 1 file: " in problems
    assert "This upload ended with exit code 8." in problems
    assert os.listdir(scratch) == []


async def test_help_shows_the_options_used_most_and_help_all_the_rest(commands: Commands) -> None:
    """A new user sees a dozen options; --help-all shows the others."""
    short = (await commands("upload", "--help")).out
    everything = (await commands("upload", "--help-all")).out
    assert "--project" in short
    assert "--max-open-sessions" not in short
    assert "--max-open-sessions" in everything
    assert "does not de-identify" in short


def test_files_of_a_command_belong_to_its_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask of the shell does not matter."""
    monkeypatch.setattr(sys, "argv", ["asyncimport", "--version"])
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        left = os.umask(before)
    assert left == 0o077
