"""Sessions that somebody moves, renames, deletes or cuts down while they are compared: what was read counts no more.

Finding a session, listing its scans and reading their catalogs are requests of their own, and others are at work
between any two of them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from builders import image, sop, upload, write
from conftest import Commands

from asyncimport.model.summary import exit_code
from asyncimport.testserver import Fault, Project, Tell, TestXnat

pytestmark = pytest.mark.anyio

SCANS = 3
Act = Callable[[TestXnat], None]


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a session of three scans, an instance each."""
    for number in range(1, SCANS + 1):
        content = image(number, SeriesNumber=number, SeriesInstanceUID=f"1.2.3.{number}")
        write(tmp_path / "visit" / str(number), content)
    return tmp_path / "visit"


def moves(xnat: TestXnat) -> None:
    """Give it to another subject."""
    xnat.archived[0].subject = xnat.add_subject("demo", "OTHER")


def shifts(xnat: TestXnat) -> None:
    """Move it to another project."""
    session = xnat.archived[0]
    xnat.remove_experiment(session)
    session.project = "other"
    xnat.add_experiment(session)


def renames(xnat: TestXnat) -> None:
    """Give it another label."""
    session = xnat.archived[0]
    xnat.remove_experiment(session)
    session.label = "ELSE"
    xnat.add_experiment(session)


def removes(xnat: TestXnat) -> None:
    """Delete it."""
    xnat.remove_experiment(xnat.archived[0])


def cuts(xnat: TestXnat) -> None:
    """Delete its first scan, whose catalog has been read."""
    del xnat.archived[0].scans["1"]


def does(xnat: TestXnat, act: Act) -> None:
    """Do it once: after that there may be nothing left to change."""
    if xnat.archived and xnat.archived[0].label != "ELSE":
        act(xnat)


CASES = [
    pytest.param(moves, "resources?all=true", id="another subject, before the scans are listed"),
    pytest.param(moves, "scans/3/", id="another subject, before the last catalog"),
    pytest.param(shifts, "scans/3/", id="another project"),
    pytest.param(renames, "scans/3/", id="another label"),
    pytest.param(removes, "scans/3/", id="deleted"),
    pytest.param(cuts, "scans/3/", id="a scan less"),
]


@pytest.mark.parametrize(("act", "path"), CASES)
async def test_a_session_that_changes_while_it_is_verified(
    xnat: TestXnat, url: str, commands: Commands, visit: Path, tmp_path: Path, act: Act, path: str
) -> None:
    """`verify` checks the whole session again, and reports what it finds then."""
    xnat.add_project(Project("other"))
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0
    fault = xnat.faults.add(Fault("listing", Tell(partial(does, xnat, act)), path=path))
    safe = tmp_path / "safe"
    verify = await commands("verify", "-P", "demo", "-o", "json", "--safe-to-delete", safe)
    assert fault.hits == 1
    (detail,) = verify.json["details"]
    assert (verify.code, detail["verified"]) == (9, None), detail
    assert len(safe.read_text().splitlines()) == (SCANS - 1 if act is cuts else 0)


@pytest.mark.parametrize(("act", "path"), CASES)
async def test_a_session_that_changes_while_an_upload_compares_it(
    xnat: TestXnat, url: str, visit: Path, tmp_path: Path, act: Act, path: str
) -> None:
    """It does not count as verified. Instances that were removed are sent again."""
    xnat.add_project(Project("other"))
    fault = xnat.faults.add(Fault("listing", Tell(partial(does, xnat, act)), path=path))
    summary = await upload(url, [visit], tmp_path / "book")
    assert fault.hits == 1
    (report,) = summary.sessions
    if act is cuts:
        assert (report.state, report.verified, exit_code(summary)) == ("archived", "uids", 0)
        assert xnat.sop_uids() == {sop(number) for number in range(1, SCANS + 1)}
    else:
        assert report.verified is None
        assert exit_code(summary) == 9


async def test_a_session_that_never_rests_is_not_verified(
    xnat: TestXnat, url: str, commands: Commands, visit: Path
) -> None:
    """It is checked three times and then reported as it is. The next check may succeed."""
    commands.login(url)
    assert (await commands("upload", visit, "-P", "demo", "-q")).code == 0

    def to_and_fro() -> None:
        session = xnat.archived[0]
        session.subject = xnat.add_subject("demo", "S" if session.subject.label == "OTHER" else "OTHER")

    fault = xnat.faults.add(Fault("listing", Tell(to_and_fro), times=1_000, path="scans/3/"))
    back = xnat.faults.add(Fault("listing", Tell(to_and_fro), nth=2, times=1_000, path="experiments?"))
    verify = await commands("verify", "-P", "demo", "-o", "json")
    (detail,) = verify.json["details"]
    assert (verify.code, detail["verified"]) == (9, None)
    assert "was changed in XNAT while it was read" in detail["reason"]
    assert (fault.hits, back.hits) == (3, 2)
    xnat.faults.clear()
    to_and_fro()
    assert (await commands("verify", "-P", "demo")).code == 0
