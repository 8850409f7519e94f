"""`asyncimport report`: its page, JSON and CSV, and what it leaves out for others. Browsers have tests of their own."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Commands
from journals import ROOT, Disk, instance, opened, scan, send, session, stored, whole_run
from terminal import open_terminal

from asyncimport.model.activity import Activity
from asyncimport.model.deliveries import Claim, Failed, Held, Outcome, Refused, SealedDelivery, Verdict
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind, Refusal
from asyncimport.testserver import TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

FORMULA = "=cmd|' /C calc'!A0"
NAMES = ("Smith", "Doe", "/src", "xnat.test", "2020", "1.2.", "calc", "conflict", "swordfish")


@pytest.fixture
def blockbuster() -> None:
    """Allow tests to write journals between commands, which run in other processes."""


def answer(claim: Claim) -> Outcome:
    """Store, refuse or fail a file, as its name says."""
    name = claim.instance.file.path
    if "refused" in name:
        return Refused(claim, FORMULA, attempts=2, kind=Refusal.DROPPED)
    return Failed(claim, "no answer", attempts=8) if "failed" in name else stored(claim)


def verdict(sealed: SealedDelivery) -> Verdict:
    """Hold the session."""
    return Held(sealed.delivery, "XNAT did not archive the session (500: conflict with Smith)")


@pytest.fixture
def journal(path: Path) -> Path:
    """Make a journal with sessions and files of many states; its names are those of patients."""
    disk = Disk()
    disk.put(
        instance("Doe/a", session("Smith_20200102", subject="Smith")),
        instance("Doe/b-refused", session("Smith_20200102", subject="Smith")),
        instance("Doe/c-failed", session("=Doe_20200102", subject="Doe")),
        Ignored(File(f"{ROOT}/Doe/torn", 7, 1_000), FileKind.UNREADABLE, "truncated"),
    )
    with opened(path) as run:
        run.describe_run(
            {
                "version": "0.1",
                "command": ["asyncimport", "upload", "/src/Doe"],
                "names": {"sources": ["/src/Doe"], "subject": "{PatientID}"},
                "settings": {"workers": 4, "archive": True},
            }
        )
        scan(run, disk)
        run.queue.record_outcomes([], Activity(2, 20, in_flight=3, allowed=4))
        send(run, answer, verdict=verdict)
        run.end_run(8)
    return path


class TestForms:
    """A page for people, JSON for programs, CSV for spreadsheets."""

    async def test_the_page(self, commands: Commands, journal: Path, tmp_path: Path) -> None:
        """It goes to standard output or into a file, for its owner only; it replaces what is there."""
        to_pipe = await commands("report", "--journal", journal)
        assert to_pipe.code == 0, to_pipe.err
        assert to_pipe.out.startswith("<!DOCTYPE html>")
        (tmp_path / "report.html").write_text("old")
        to_file = await commands("report", "--journal", journal, "--out", tmp_path / "report.html")
        assert (to_file.code, to_file.out, to_file.err) == (0, "", "")
        page = (tmp_path / "report.html").read_text("utf-8")
        assert page.splitlines()[:4] == to_pipe.out.splitlines()[:4]
        assert (tmp_path / "report.html").stat().st_mode & 0o077 == 0
        for part in ("asyncimport upload /src/Doe", "truncated", "no answer", "What to do:", "--archive", "Smith"):
            assert part in page
        # Nothing of it leads elsewhere but into XNAT.
        assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)

    async def test_a_page_is_not_for_a_terminal(self, commands: Commands, journal: Path) -> None:
        """It would be unreadable there: the hint names the option."""
        async with open_terminal("report", "--journal", journal, env=commands.env) as terminal:
            assert await terminal.end() == 2
        assert "--out report.html" in " ".join(terminal.lines)

    async def test_json(self, commands: Commands, journal: Path) -> None:
        """The summary of `upload -o json`, with what the page has beside it."""
        found = (await commands("report", "--journal", journal, "-o", "json")).json
        assert (found["host"], found["exit_code"], found["error"]) == ("https://xnat.test", 0, None)
        assert found["files"]["stored"] == 1
        assert {one["session"]: one["state"] for one in found["details"]} == {
            "Smith_20200102": "held",
            "=Doe_20200102": "held",
        }
        kinds = {(one["kind"], one["files"]) for one in found["problems"]}
        assert {("refused", 1), ("failed", 1), ("unreadable", 1)} <= kinds
        assert all(one["advice"] for one in found["problems"])
        (run,) = found["runs"]
        assert (run["run"], run["exit_code"], run["about"]["settings"]["workers"]) == ("1", 8, 4)
        assert found["activity"][0]["intervals"][0] | {"second": 0} == {
            "second": 0, "files": 2, "size": 20, "failed": 0, "retries": 0, "busy_seconds": 0.0, "slowest_seconds": 0.0,
            "in_flight": 3, "allowed": 4,
        }  # fmt: skip

    async def test_csv(self, commands: Commands, journal: Path) -> None:
        """A row for each session; a spreadsheet runs no formula of it."""
        ended = await commands("report", "--journal", journal, "-o", "csv")
        rows = {row["session"]: row for row in csv.DictReader(io.StringIO(ended.out))}
        assert set(rows) == {"Smith_20200102", "'=Doe_20200102"}
        assert rows["Smith_20200102"] | {"reason": ""} == {
            "project": "P", "subject": "Smith", "session": "Smith_20200102", "study_uid": "1.2.Smith_20200102",
            "date": "", "modalities": "", "scans": "1", "files": "2", "bytes": "20", "state": "held", "verified": "",
            "reason": "", "uri": "",
        }  # fmt: skip


class TestAnonymous:
    """A report that names nobody."""

    @pytest.mark.parametrize("form", ["html", "json", "csv"])
    async def test_names_are_left_out(self, commands: Commands, journal: Path, form: str) -> None:
        """Labels, paths, UIDs, dates of studies, the server, and texts that may quote them."""
        open_text = (await commands("report", "--journal", journal, "-o", form)).out
        ended = await commands("report", "--journal", journal, "-o", form, "--anonymous")
        assert ended.code == 0, ended.err
        text = re.sub(
            r"2026-\d\d-\d\d|\(https?://[^)]*\)|<script>.*?</script>|<style>.*?</style>", "", ended.out, flags=re.DOTALL
        )
        assert [name for name in NAMES if name in text] == []
        assert "Smith" in open_text
        assert "session-" in text

    async def test_codes_are_of_one_report(self, commands: Commands, journal: Path) -> None:
        """Equal labels have equal codes in it, and nobody can compare them with those of another one."""

        async def codes() -> list[tuple[str, str, str]]:
            ended = await commands("report", "--journal", journal, "-o", "csv", "--anonymous")
            return [(row["project"], row["subject"], row["session"]) for row in csv.DictReader(io.StringIO(ended.out))]

        first, second = await codes(), await codes()
        assert len({project for project, _, _ in first}) == 1
        assert len({label for _, _, label in first}) == 2
        assert not {*first[0]} & {*second[0]}


class TestRuns:
    """Of all that a journal holds, or of one run."""

    async def test_one_run(self, commands: Commands, path: Path) -> None:
        """What it settled, and nothing else."""
        disk = Disk()
        disk.put(instance("a", session("E1")))
        whole_run(path, disk)
        disk.put(instance("b", session("E2")))
        with opened(path) as run:
            scan(run, disk)
            send(run)
            run.end_run(0)
        found = (await commands("report", "2", "--journal", path, "-o", "json")).json
        assert "E2" in {one["session"] for one in found["details"]}
        assert [run["run"] for run in found["runs"]] == ["2"]
        both = (await commands("report", "--journal", path, "-o", "json")).json
        assert {one["session"] for one in both["details"]} == {"E1", "E2"}

    async def test_a_run_that_is_not_there(self, commands: Commands, journal: Path) -> None:
        """The hint says which there are."""
        ended = await commands("report", "7", "--journal", journal)
        assert (ended.code, ended.out) == (2, "")
        assert "the journal has no run 7" in ended.err
        assert "its runs are 1 to 1" in ended.err

    async def test_a_run_that_goes_on(self, commands: Commands, path: Path) -> None:
        """The report says so, and is of what is done; after a kill it says that too."""
        disk = Disk()
        disk.put(instance("a", session("E1")))
        with opened(path) as run:
            scan(run, disk)
            page = (await commands("report", "--journal", path)).out
            assert '<p class="status busy" role="status">running</p>' in page
        page = (await commands("report", "--journal", path)).out
        assert "the last run was killed, or has not ended" in page

    async def test_no_journal(self, commands: Commands, tmp_path: Path) -> None:
        """It is an error in one line."""
        ended = await commands("report", "--journal", tmp_path / "none", "--out", tmp_path / "report.html")
        assert ended.code == 2
        assert "there is no journal" in ended.err
        assert not (tmp_path / "report.html").exists()


async def test_a_run_describes_itself_without_secrets(
    commands: Commands, xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """Its command, sources, settings and versions are in the report; dates, modalities and scans of studies too."""
    xnat.users["demo"] = replace(xnat.users["demo"], password="swordfish")
    generated(tmp_path / "files", sessions=2, files=12, size=2_000, seed=1)
    commands.login(url)
    commands.env["XNAT_PASS"] = "swordfish"
    assert (await commands("upload", tmp_path / "files", "-P", "demo", "-q")).code == 0
    text = (await commands("report", "-P", "demo", "-o", "json")).out
    assert "swordfish" not in text
    found: dict[str, Any] = json.loads(text)
    about = found["runs"][0]["about"]
    assert about["names"]["sources"] == [str(tmp_path / "files")]
    assert {"version", "python", "system", "command", "settings"} <= set(about)
    for one in found["details"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", one["date"])
        assert one["modalities"]
        assert one["scans"]
        assert one["verified"] == "uids"
    assert sum(each["files"] for each in found["activity"][0]["intervals"]) == 12
    rows = csv.DictReader(io.StringIO((await commands("report", "-P", "demo", "-o", "csv")).out))
    assert {row["date"] for row in rows} == {one["date"] for one in found["details"]}
