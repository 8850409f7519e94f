"""The page for users of a curl script: the script on every version of XNAT, and the same work by the commands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from builders import image, sop, write
from conftest import Commands
from pydicom.uid import generate_uid

from asyncimport.testserver import PROFILES, TestXnat, add_session, serve

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="the script is written for bash"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here"),
]
PAGE = Path(__file__).parent.parent.parent / "docs" / "from-curl.md"
FILES = 5
REPORT = b"%PDF-1.4 a report"
OLD = ("1.5.4", "1.6.1")


def script() -> str:
    """Return the script of the page."""
    found: list[str] = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return found[0]


@pytest.fixture
def visit(tmp_path: Path) -> Path:
    """Write a directory of images and, beside it, a report."""
    for number in range(FILES):
        write(tmp_path / "visit" / f"{number}.dcm", image(number))
    (tmp_path / "report.pdf").write_bytes(REPORT)
    return tmp_path / "visit"


async def run_script(url: str, visit: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run the script for the session S1_MR1 of the subject S1."""
    words = ["bash", "-c", script(), "import.sh", str(visit), "demo", "S1", "S1_MR1", str(visit.parent / "report.pdf")]
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "XNAT_HOST": url, "XNAT_USER": "demo", "XNAT_PASS": "demo"}
    return await anyio.run_process(words, env={**env, **settings}, check=False)


def check(xnat: TestXnat) -> None:
    """See that the archive has the session, its reports and what was said of its subject."""
    (session,) = xnat.archived
    assert (session.subject.label, session.label) == ("S1", "S1_MR1")
    assert xnat.sop_uids() == {sop(number) for number in range(FILES)}
    reports = session.own_resources["REPORTS"].files
    assert {file.size for file in reports.values()} == {len(REPORT)}
    expected = {"gender": "female", "dob": "1970-01-31", "handedness": "left"}
    assert session.subject.demographics == expected


@pytest.mark.parametrize("version", PROFILES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"LOGIN": "basic"}, {"TYPE": ""}, {"DEST": "/archive/projects/demo/subjects/S1"}],
    ids=["cookie", "password each time", "no content type", "destination"],
)
async def test_the_script_works_as_its_page_says(
    tmp_path: Path, visit: Path, version: str, settings: dict[str, str]
) -> None:
    """On each version, except that a destination breaks the archiving from 1.8 on (how 1.7 archives is inferred)."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    async with serve(xnat, context=xnat.profile.context) as url:
        done = await run_script(url, visit, **settings)
    if "DEST" in settings and version not in OLD:
        assert (done.returncode, xnat.archived) == (22, [])
        assert [row.status.value for row in xnat.prearchive] == ["ERROR"]
        return
    assert done.returncode == 0, done.stderr
    check(xnat)
    assert set(xnat.archived[0].own_resources["REPORTS"].files) == {"body.pdf", "uploaded.pdf", "form.pdf"}


@pytest.mark.parametrize("version", PROFILES)
async def test_the_commands_do_the_same(tmp_path: Path, visit: Path, commands: Commands, version: str) -> None:
    """And prove it."""
    shutil.copy(visit.parent / "report.pdf", visit / "report.pdf")
    table = write(tmp_path / "subjects.csv", b"subject_label,gender,dob,handedness\nS1,female,1970-01-31,left\n")
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    async with serve(xnat, context=xnat.profile.context) as url:
        commands.login(url)
        labels = ("-P", "demo", "-S", "S1", "-E", "S1_MR1")
        done = await commands(
            "upload", visit, *labels, "--attach", "*.pdf=REPORTS", "--subjects", table.path, "--insecure"
        )
        assert done.code == 0, done.out + done.err
        verified = await commands("verify", "-P", "demo", "--insecure")
        assert verified.code == 0, verified.out + verified.err
    check(xnat)


@pytest.mark.parametrize("version", PROFILES)
async def test_a_session_grows_on_every_version(tmp_path: Path, visit: Path, commands: Commands, version: str) -> None:
    """Files that come later are merged, also where XNAT merges only with `overwrite`."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    async with serve(xnat, context=xnat.profile.context) as url:
        commands.login(url)
        words = ("upload", visit, "-P", "demo", "-S", "S1", "-E", "S1_MR1", "--insecure")
        assert (await commands(*words)).code == 0
        write(visit / "late.dcm", image(FILES, SeriesInstanceUID=generate_uid(), SeriesNumber=2))
        late = await commands(*words)
        assert late.code == 0, late.out + late.err
    assert xnat.sop_uids() == {sop(number) for number in range(FILES + 1)}


@pytest.mark.parametrize("version", OLD)
async def test_an_old_version_is_asked_to_merge_only_what_belongs_together(
    tmp_path: Path, visit: Path, commands: Commands, version: str
) -> None:
    """Another study under the label is left alone: the session is held, and the archive step is not asked for."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    other = add_session(xnat, "S1", "S1_MR1", study_uid="9.9")
    async with serve(xnat, context=xnat.profile.context) as url:
        commands.login(url)
        done = await commands("upload", visit, "-P", "demo", "-S", "S1", "-E", "S1_MR1", "--insecure")
    assert done.code == 9, done.out + done.err
    assert (xnat.count["archive"], xnat.sop_uids(), xnat.archived) == (0, set(), [other])
