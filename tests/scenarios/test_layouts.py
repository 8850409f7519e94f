"""Twelve collections as sites have them: plan, dry run and upload agree where each instance goes."""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import image, sop, write
from conftest import Commands
from pydicom.uid import MediaStorageDirectoryStorage

from asyncimport.testserver import TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

Place = tuple[str, str]
"""A subject and a session."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A tree, the options that it takes, and where its instances belong, by their numbers."""

    name: str
    files: Mapping[str, bytes]
    expected: Mapping[Place, set[int]]
    options: tuple[str, ...] = ()
    left_out: int = 0
    """The number of instances that are reported as not sent."""
    says: str = ""
    """The problem that is reported."""


def mr(number: int, study: str, **attributes: Any) -> bytes:
    """Make an instance of a study, with one series for each modality."""
    modality = attributes.get("Modality", "MR")
    series = attributes.pop("series", {"MR": 1, "CT": 1, "PT": 2, "SR": 3}[modality])
    values = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{series}",
        "SeriesNumber": series,
        "SeriesDescription": f"{modality} {series}",
        **attributes,
    }
    return image(number, pixels=8, **values)


def bids() -> Layout:
    """Directories name subject and session; the headers know only the scanner's own numbers."""
    files, expected = {}, {}
    for at, (subject, session) in enumerate([("01", "baseline"), ("01", "month6"), ("02", "baseline")]):
        numbers = {10 * at + 1, 10 * at + 2}
        for number in numbers:
            path = f"sourcedata/sub-{subject}/ses-{session}/anat/{number}.dcm"
            files[path] = mr(number, f"1.2.{at}", PatientID=f"EX{at:04}")
        expected[subject, f"{subject}_{session}"] = numbers
    # A person has a different number at each examination.
    options = ("--path-pattern", "sourcedata/sub-{subject}/ses-{session}/**", "-S", "{subject}")
    return Layout(
        "BIDS-like sourcedata", files, expected, (*options, "-E", "{subject}_{session}", "--allow-mixed-patients")
    )


def pacs_export() -> Layout:
    """Export from a PACS: an index, and files of two patients with meaningless names."""
    index = image(900, SOPClassUID=MediaStorageDirectoryStorage, PixelData=None)
    files = {"DICOMDIR": index, "README.TXT": b"to be opened with the viewer", "AUTORUN.INF": b"[autorun]"}
    expected: dict[Place, set[int]] = defaultdict(set)
    for number in range(1, 7):
        patient = 1 + number % 2
        files[f"DICOM/PA{number % 2}/ST0/SE0/IM{number:06}"] = mr(number, f"1.2.{patient}", PatientID=f"P{patient}")
        expected[f"P{patient}", f"P{patient}_20200102"].add(number)
    return Layout("PACS export with a DICOMDIR", files, expected)


def xnat_export() -> Layout:
    """Sessions from the archive of another XNAT, with its catalogs. The headers are those of the scanner."""
    files, expected = {}, {}
    for at in (1, 2):
        numbers = {10 * at, 10 * at + 1}
        for number in numbers:
            files[f"arc001/MR_{at}/SCANS/1/DICOM/1.2-{number}.dcm"] = mr(number, f"1.2.{at}", PatientID=f"S{at}")
        files[f"arc001/MR_{at}/SCANS/1/DICOM/scan_1_catalog.xml"] = b"<cat:DCMCatalog xmlns:cat='c'/>"
        files[f"arc001/MR_{at}/SCANS/1/SNAPSHOTS/a.gif"] = b"GIF89a"
        expected[f"S{at}", f"MR_{at}"] = numbers
    options = ("--path-pattern", "arc001/{session}/SCANS/**", "-E", "{session}")
    return Layout("XNAT's own archive", files, expected, options)


def flat_dump() -> Layout:
    """All files from a scanner in one directory, in the order of arrival."""
    files: dict[str, bytes] = {}
    expected: dict[Place, set[int]] = defaultdict(set)
    for number in range(12):
        at = number % 3
        patient, date = ("P1", "P1", "P2")[at], ("20200102", "20200301", "20200102")[at]
        files[f"{number:08}"] = mr(number, f"1.2.{at}", PatientID=patient, StudyDate=date)
        expected[patient, f"{patient}_{date}"].add(number)
    return Layout("flat dump of a scanner", files, expected)


def accessions() -> Layout:
    """Make a directory for each accession, which names the session."""
    files, expected = {}, {}
    for at in (1, 2, 3):
        # Two of them are of one patient, on one day.
        patient = f"P{max(at, 2)}"
        files[f"ACC{at:04}/1.dcm"] = mr(at, f"1.2.{at}", PatientID=patient, AccessionNumber=f"ACC{at:04}")
        expected[patient, f"ACC{at:04}"] = {at}
    return Layout("a directory for each accession", files, expected, ("-E", "{AccessionNumber}"))


def several_centres() -> Layout:
    """Two hospitals number their patients from 1: P1 of one is not P1 of the other."""
    files, expected = {}, {}
    for at, centre in enumerate(("NORTH", "SOUTH"), 1):
        files[f"{centre}/P1/1.dcm"] = mr(
            at, f"1.2.{at}", PatientID="P1", IssuerOfPatientID=centre, PatientName=f"{centre}^A"
        )
        expected[f"{centre}_P1", f"{centre}_P1_20200102"] = {at}
    options = ("-S", "{IssuerOfPatientID}_{PatientID}", "-E", "{IssuerOfPatientID}_{PatientID}_{StudyDate}")
    return Layout("several centres, by issuer", files, expected, options)


def several_centres_in_one() -> Layout:
    """Do the same with default rules: the second P1 does not get into the subject of the first."""
    files = {
        f"{centre}/P1/1.dcm": mr(
            at,
            f"1.2.{at}",
            PatientID="P1",
            IssuerOfPatientID=centre,
            PatientName=f"{centre}^A",
            StudyDate=f"2020010{at}",
        )
        for at, centre in enumerate(("NORTH", "SOUTH"), 1)
    }
    return Layout("several centres, unnoticed", files, {("P1", "P1_20200101"): {1}}, (), 1, "P1")


def pet_ct() -> Layout:
    """Make one session of a study of two modalities."""
    files = {f"{kind}/{at}.dcm": mr(at, "1.2.1", PatientID="P1", Modality=kind) for at, kind in [(1, "CT"), (2, "PT")]}
    return Layout("PET and CT in one study", files, {("P1", "P1_20200102"): {1, 2}})


def midnight() -> Layout:
    """Begin a study before midnight: it has two dates, and is one session."""
    files = {
        f"{at}.dcm": mr(at, "1.2.1", PatientID="P1", StudyDate=date, series=at)
        for at, date in [(1, "20200102"), (2, "20200102"), (3, "20200103")]
    }
    return Layout("a study over midnight", files, {}, (), 3, "20200103")


def rescans() -> Layout:
    """Scan a patient twice on one day: two studies need two labels."""
    files = {f"{at}/1.dcm": mr(at, f"1.2.{at}", PatientID="P1", StudyTime=f"{8 + at:02}0000") for at in (1, 2)}
    expected = {("P1", "P1_20200102"): {1}, ("P1", "P1_20200102_2"): {2}}
    return Layout("re-scans on one day", files, expected, ("--on-collision", "suffix"))


def phantoms() -> Layout:
    """Phantoms of the daily quality assurance lie beside the patients and are left out."""
    files = {
        "qa/1.dcm": mr(1, "1.2.1", PatientID="PHANTOM", PatientName="ACR^Phantom"),
        "qa/2.dcm": mr(2, "1.2.2", PatientID="PHANTOM", PatientName="ACR^Phantom"),
        "patients/1.dcm": mr(3, "1.2.3", PatientID="P1"),
    }
    return Layout("phantom series", files, {("P1", "P1_20200102"): {3}}, ("--exclude", "qa/*"))


def scrubbed() -> Layout:
    """Anonymisation gave all files one StudyInstanceUID: sessions cannot be told apart."""
    files = {
        f"{subject}/1.dcm": mr(at, "1.2.9", PatientID="ANON", PatientName="ANON")
        for at, subject in enumerate(("S01", "S02"), 1)
    }
    options = ("--path-pattern", "{subject}/**", "-S", "{subject}", "-E", "{subject}_{StudyDate}")
    return Layout("scrubbed UIDs", files, {}, options, 2, "1.2.9")


def written_names() -> Layout:
    """Japanese and Korean names with an empty first group still tell two people apart."""
    files = {
        "1.dcm": mr(
            1, "1.2.1", PatientID="P1", PatientName="=山田^太郎=やまだ^たろう", SpecificCharacterSet="ISO_IR 192"
        ),
        "2.dcm": mr(
            2,
            "1.2.2",
            PatientID="P1",
            PatientName="=鈴木^花子=すずき^はなこ",
            SpecificCharacterSet="ISO_IR 192",
            StudyDate="20200301",
        ),
        "3.dcm": mr(
            3,
            "1.2.3",
            PatientID="P3",
            PatientName="Hong^Gildong=洪^吉洞=홍^길동",
            SpecificCharacterSet=["", "ISO 2022 IR 149"],
        ),
    }
    return Layout(
        "Japanese and Korean names", files, {("P1", "P1_20200102"): {1}, ("P3", "P3_20200102"): {3}}, (), 1, "two names"
    )


LAYOUTS: list[Callable[[], Layout]] = [
    bids,
    pacs_export,
    xnat_export,
    flat_dump,
    accessions,
    several_centres,
    several_centres_in_one,
    pet_ct,
    midnight,
    rescans,
    phantoms,
    scrubbed,
    written_names,
]


def archived(xnat: TestXnat) -> dict[Place, set[int]]:
    """Return what the archive holds, by subject and session."""
    numbers = {sop(number): number for number in range(1000)}
    found: dict[Place, set[int]] = defaultdict(set)
    for session, _, file in xnat.instances("demo"):
        found[session.subject.label, session.label].add(numbers[file.sop_uid])
    return dict(found)


@pytest.mark.parametrize("make", LAYOUTS, ids=[make.__name__ for make in LAYOUTS])
async def test_where_each_instance_ends(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, make: Callable[[], Layout]
) -> None:
    """Plan and dry run say where everything goes, the upload sends it there, and a second upload sends nothing."""
    layout = make()
    source = tmp_path / "source"
    for path, content in layout.files.items():
        write(source / path, content)
    commands.login(url)
    options = ("-P", "demo", *layout.options)
    planned = await commands("plan", source, *options, "--out", tmp_path / "plan.csv", "-o", "json", "-q")
    rehearsed = await commands("upload", source, *options, "--dry-run", "-o", "json", "-q")
    assert not xnat.count["import"]
    rows = csv.DictReader(io.StringIO((tmp_path / "plan.csv").read_text("utf-8-sig")))
    places = {
        (row["subject_label"].lstrip("'"), row["session_label"].lstrip("'"))
        for row in rows
        if row["action"] == "upload"
    }
    uploaded = await commands("upload", source, *options, "-o", "json", "-q")
    assert archived(xnat) == layout.expected, uploaded.out + uploaded.err
    assert places >= set(layout.expected)
    codes = (planned.code == 0, rehearsed.code == 0, uploaded.code == 0)
    assert codes == (not layout.left_out,) * 3, planned.out + rehearsed.out + uploaded.out
    assert layout.says in uploaded.out
    imports = xnat.count["import"]
    again = await commands("upload", source, *options, "-o", "json", "-q")
    assert again.code == uploaded.code
    assert (xnat.count["import"], archived(xnat)) == (imports, layout.expected)


async def test_a_study_over_midnight_goes_by_its_plan(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """The plan has a row for it without labels. With labels filled in, the whole study is sent."""
    for path, content in midnight().files.items():
        write(tmp_path / "source" / path, content)
    commands.login(url)
    plan = tmp_path / "plan.csv"
    await commands("plan", tmp_path / "source", "-P", "demo", "--out", plan, "-q")
    rows = csv.DictReader(io.StringIO(plan.read_text("utf-8-sig")))
    (row,) = list(rows)
    row |= {"project_id": "demo", "subject_label": "P1", "session_label": "P1_20200102", "action": "upload"}
    with plan.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows.fieldnames or ())
        table.writeheader()
        table.writerow(row)
    ended = await commands("upload", tmp_path / "source", "--plan", plan, "-q", "-o", "json")
    assert ended.code == 0, ended.err
    assert archived(xnat) == {("P1", "P1_20200102"): {1, 2, 3}}
