"""Names, identifiers and secrets: the test searches everything that the program writes for a planted patient."""

import os
import stat
from pathlib import Path

import pydicom
import pytest
from builders import SESSION
from conftest import Commands, Ended

from asyncimport.model.files import File, Instance, Patient
from asyncimport.testserver import Fault, Reset, Status, TestXnat, User
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio

NAME, BIRTH, ID, PASSWORD = "Planted^Patient", "19330421", "PLANTED7", "horse-battery"


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Write two sessions: one of a patient to search for, and one with invalid values."""
    tree = tmp_path / "tree"
    generated(tree, sessions=2, files=8, size=2_000, seed=7)
    for number, path in enumerate(sorted(path for path in tree.rglob("*") if path.is_file())):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = NAME, BIRTH, ID
        dataset.StudyDate = str(20200101 + int(dataset.StudyInstanceUID[-1]))
        if number == 0:
            dataset.PatientName = "Planted^Other"
        dataset.save_as(path)
    odd = tree / "odd"
    odd.mkdir()
    # pydicom would log the value of an invalid date or number, and of an unknown character set.
    broken = pydicom.dcmread(path)
    broken.SOPInstanceUID = broken.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("2.25.77")
    broken.save_as(odd / "broken")
    content = (odd / "broken").read_bytes()
    (odd / "broken").write_bytes(content.replace(b"ISO_IR", b"ISO-XX").replace(BIRTH.encode(), b"PLANTEDX"))
    return tree


def patient_in(text: str) -> list[str]:
    """Return the values of the planted patient that are in a text."""
    lowered = text.lower()
    return [word for word in ("planted", "patient^", BIRTH, PASSWORD) if word in lowered]


async def whole_story(xnat: TestXnat, commands: Commands, planted: Path, *options: str) -> list[Ended]:
    """Upload with problems of every kind, upload again, and run the commands that report."""
    xnat.faults.add(Fault("import", Status(400, "<h3>unable to read DICOM object upload.dcm</h3>"), nth=2))
    xnat.faults.add(Fault("import", Reset(effect=True), nth=4))
    xnat.faults.add(Fault("archive", Status(500, f"<h3>FAILED: Unable to archive {ID}_2020</h3>"), nth=1))
    return [
        await commands("upload", planted, "-P", "demo", *options),
        await commands("upload", planted, "-P", "demo", "--retry", "held", *options),
        await commands("upload", planted, "-P", "demo", "-S", "{PatientName}", *options),
        await commands("upload", planted, "-P", "nope", *options),
    ]


async def test_no_log_speaks_of_a_patient(xnat: TestXnat, url: str, commands: Commands, planted: Path) -> None:
    """Schedulers log standard error: it names no patient and no label, because labels are patient IDs."""
    commands.login(url)
    for ended in await whole_story(xnat, commands, planted):
        assert patient_in(ended.err) == [], ended.err


async def test_no_output_tells_a_name_or_a_birth_date(
    xnat: TestXnat, url: str, commands: Commands, planted: Path
) -> None:
    """The summary names sessions by the labels that the user chose. Nothing else of a patient appears."""
    commands.login(url)
    told = await whole_story(xnat, commands, planted, "-o", "json")
    told += [await commands(*words) for words in (["status"], ["status", "-o", "json"], ["verify"])]
    for ended in told:
        text = (ended.out + ended.err).lower()
        assert "patient^" not in text
        assert "planted^" not in text
        assert BIRTH not in text


async def test_secrets_stay_where_they_are(xnat: TestXnat, url: str, commands: Commands, planted: Path) -> None:
    """The password is in no output, in no file, and in no argument of a process."""
    xnat.add_user(User("demo", PASSWORD))
    commands.login(url)
    commands.env["XNAT_PASS"] = PASSWORD
    for ended in await whole_story(xnat, commands, planted):
        assert PASSWORD not in ended.out + ended.err
    commands.env["XNAT_PASS"] = f"wrong-{PASSWORD}"
    refused = await commands("upload", planted, "-P", "demo")
    assert refused.code == 3
    assert PASSWORD not in refused.out + refused.err
    files = [path for path in commands.home.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has a umask")
async def test_what_is_made_is_for_its_owner_only(url: str, commands: Commands, planted: Path) -> None:
    """Journal, lock and directories: other users cannot read them, whatever the umask is."""
    commands.login(url)
    await commands("upload", planted, "-P", "demo", "-q")
    made = [path for path in commands.home.rglob("*") if "asyncimport" in str(path.relative_to(commands.home))]
    assert len(made) >= 3
    assert [path for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


async def test_a_path_cannot_write_to_the_terminal(url: str, commands: Commands, tmp_path: Path) -> None:
    """Control characters, markup and bytes that are no text are shown, not obeyed."""
    tree = tmp_path / "tree"
    generated(tree, sessions=1, files=1, size=2_000, seed=8)
    names = [b"\x1b]0;title\x07", b"[bold]x[red]", b"\xff\xfe", b"a\nb", "\u202egnp".encode()]
    for name in names:
        (tree / os.fsdecode(name)).write_bytes(b"\0" * 128 + b"DICM")
    commands.login(url)
    commands.env |= {"PYTHONIOENCODING": "utf-8"}
    for words in ([], ["-o", "json"]):
        ended = await commands("upload", tree, "-P", "demo", *words)
        assert ended.code == 8
        text = ended.out + ended.err
        assert [character for character in text if not (character.isprintable() or character == "\n")] == []
    (tree / os.fsdecode(names[0])).unlink()
    (tree / os.fsdecode(names[3])).unlink()
    assert "[bold]x[red]" in (await commands("upload", tree, "-P", "demo")).out


def test_no_repr_shows_the_patient() -> None:
    """Logs and tracebacks show neither name nor birth date nor PatientID."""
    patient = Patient("MRN-4711", "planted^name", "19700101")
    shown = repr(Instance(File("/f", 1, 1), "1.2", "1.3", SESSION, patient)) + repr(patient)
    assert not any(word in shown for word in ("MRN-4711", "planted", "19700101"))
