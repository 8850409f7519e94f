"""The library: requests, calls and results, without a terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from anyio import run_process, to_thread
from builders import image, write

import asyncimport
from asyncimport import (
    AttachRequest,
    Credentials,
    DoctorRequest,
    ForgetRequest,
    Observer,
    PlanRequest,
    Server,
    StatusRequest,
    SubjectsRequest,
    UploadRequest,
    VerifyRequest,
    rules_from,
)
from asyncimport.errors import LoginRefusedError
from asyncimport.model.attachments import ResourceOwner
from asyncimport.operations.journals import journal_path
from asyncimport.operations.subjects import read_table
from asyncimport.reporting.entries import Entry, RunEnded, RunStarted
from asyncimport.routing.attachment_file import AttachRow
from asyncimport.source.attachment_files import group_by_resource

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


class Told(Observer):
    """Keeps all entries and texts."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def note(self, entry: Entry) -> None:
        """Keep it."""
        self.entries.append(entry)


def test_only_the_library_is_offered() -> None:
    """`import asyncimport` is quick, and offers operations with their requests and results."""
    for name in asyncimport.__all__:
        assert getattr(asyncimport, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'pipeline_of_old'"):
        _ = asyncimport.pipeline_of_old
    code = "import sys, asyncimport; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_the_whole_job(url: str, tmp_path: Path) -> None:
    """Doctor, plan, dry run, upload, attach, subjects, verify, status and forget run in order."""
    for number in range(3):
        write(tmp_path / "files" / f"{number}.dcm", image(number))
    report = tmp_path / "report.pdf"
    report.write_bytes(b"%PDF-1.7")
    table = tmp_path / "subjects.csv"
    table.write_text("subject_label,gender\nP1,F\n")
    state, rules, told = tmp_path / "state", rules_from("demo"), Told()
    server = Server(url, Credentials("demo", "demo"))
    found = await asyncimport.doctor(DoctorRequest(host=url, credentials=server.credentials, insecure=True))
    assert found.findings
    planned = await asyncimport.plan(
        PlanRequest(sources=[tmp_path / "files"], routes=rules, out_file=tmp_path / "plan.csv", state_dir=state)
    )
    assert planned.raise_for_error().exit_code == 0
    assert planned.plan is not None
    assert len(planned.plan.rows) == 1
    request = UploadRequest(server=server, sources=[tmp_path / "files"], project="demo", routes=rules, state_dir=state)
    rehearsed = (await asyncimport.dry_run(request)).raise_for_error()
    assert rehearsed.exit_code == 0
    result = (await asyncimport.upload(request, report=told)).raise_for_error()
    assert result.exit_code == 0
    assert result.summary is not None
    assert result.summary.files.stored == 3
    assert isinstance(told.entries[0], RunStarted)
    assert isinstance(told.entries[-1], RunEnded)
    (session,) = [one.session for one in result.summary.sessions]
    row = AttachRow(0, str(report), ResourceOwner("demo", "", session.label, "", ""), "REPORTS", "", "", "", "")
    batches = await to_thread.run_sync(group_by_resource, [row], [])
    attached = await asyncimport.attach(AttachRequest(server=server, batches=batches))
    assert attached.raise_for_error().counts()["sent"] == 1
    rows, issues = await to_thread.run_sync(read_table, table, "demo")
    described = await asyncimport.subjects(SubjectsRequest(server=server, rows=rows, issues=issues))
    assert described.raise_for_error().counts()["total"] == 1
    journal = journal_path(url, "demo", state)
    verified = (await asyncimport.verify(VerifyRequest(server=server, journal=journal))).raise_for_error()
    assert verified.exit_code == 0
    assert len(verified.findings) == 1
    read = (await asyncimport.status(StatusRequest(journal=journal))).raise_for_error()
    assert read.summary is not None
    assert read.summary.files.stored == 3
    kept = await asyncimport.forget(ForgetRequest(journal=journal, sessions=[session.label]), agree=lambda _: False)
    assert (len(kept.raise_for_error().found), kept.is_done) == (1, False)
    gone = await asyncimport.forget(ForgetRequest(journal=journal, sessions=[session.label]), agree=lambda _: True)
    assert gone.raise_for_error().is_done


async def test_the_example_of_the_documents_works(url: str, tmp_path: Path) -> None:
    """The copied example does what the page says."""
    text = (Path(__file__).parent.parent.parent / "docs" / "library.md").read_text("utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for number in range(2):
        write(tmp_path / "files" / f"{number}.dcm", image(number))
    for before, after in {
        "https://xnat.example.org": url,
        '"anna", "secret"': '"demo", "demo"',
        "/data/export": str(tmp_path / "files"),
        '"P"': '"demo"',
    }.items():
        assert before in example
        example = example.replace(before, after)
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = await run_process([sys.executable, "-c", example], env=env, check=True)
    assert done.stdout == b"2 files stored, exit code 0\n"


async def test_an_error_is_in_the_result(url: str, tmp_path: Path) -> None:
    """The result also has what was done before the error; `raise_for_error` raises it."""
    write(tmp_path / "files" / "a.dcm", image(1))
    request = UploadRequest(
        server=Server(url, Credentials("demo", "wrong")),
        sources=[tmp_path / "files"],
        project="demo",
        routes=rules_from("demo"),
        state_dir=tmp_path / "state",
    )
    result = await asyncimport.upload(request)
    assert result.exit_code == LoginRefusedError.exit_code
    with pytest.raises(LoginRefusedError):
        result.raise_for_error()


IN_A_NOTEBOOK = """
import asyncio, sys
from pathlib import Path
from asyncimport import PlanRequest, plan, rules_from, run_sync

async def cell():
    files, state = map(Path, sys.argv[1:])
    result = run_sync(plan, PlanRequest(sources=[files], routes=rules_from("P"), state_dir=state))
    print(result.exit_code, len(result.plan.rows))

asyncio.run(cell())
"""


def test_a_blocking_call_works_inside_a_loop(tmp_path: Path) -> None:
    """It works in a notebook, which has a running loop."""
    write(tmp_path / "files" / "a.dcm", image(1))
    command = [sys.executable, "-c", IN_A_NOTEBOOK, str(tmp_path / "files"), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
