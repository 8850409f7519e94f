"""A name is one name in both Unicode forms: in headers, cells of plans, paths and patterns."""

import csv
import io
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
from builders import image, sop, write
from conftest import Commands

from asyncimport.routing.plan_file import PlanRow, write_plan
from asyncimport.routing.plan_reader import read_plan
from asyncimport.testserver import TestXnat

pytestmark = pytest.mark.anyio

FORMS = pytest.mark.parametrize(("here", "there"), [("NFC", "NFD"), ("NFD", "NFC")])
NAME = "Mu\u0308ller"
Form = Literal["NFC", "NFD"]


def study(form: Form) -> dict[str, Any]:
    """Return the attributes of a study whose patient, issuer and accession number have accents."""
    name = unicodedata.normalize(form, NAME)
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientID": name,
        "IssuerOfPatientID": f"{name}-Klinik",
        "AccessionNumber": f"{name}-1",
    }


KEYS = {
    "study_uid": (),
    "accession_number": ("study_uid",),
    "patient_id": ("study_uid", "accession_number"),
}


@FORMS
@pytest.mark.parametrize("key", KEYS)
async def test_a_plan_that_was_edited_on_another_system(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, key: str, here: Form, there: Form
) -> None:
    """Its rows match and bind as before."""
    commands.login(url)
    write(tmp_path / "source" / "1.dcm", image(1, **study(here)))
    plan = tmp_path / "plan.csv"
    assert (await commands("plan", tmp_path / "source", "-P", "demo", "--out", plan)).code == 0
    (row,) = csv.DictReader(io.StringIO(unicodedata.normalize(there, plan.read_text("utf-8-sig"))))
    row = {"accession_number": study(there)["AccessionNumber"], **row}
    row = {name: value for name, value in row.items() if name not in KEYS[key]}
    with plan.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)
    for words in (("--dry-run",), ()):
        ended = await commands("upload", tmp_path / "source", "--plan", plan, "-q", *words)
        assert ended.code == 0, ended
    assert xnat.sop_uids() == {sop(1)}


@FORMS
@pytest.mark.parametrize("option", ["--include", "--exclude"])
async def test_patterns_of_paths(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, option: str, here: Form, there: Form
) -> None:
    """--include and --exclude match names from any system."""
    commands.login(url)
    for number, name in enumerate([unicodedata.normalize(here, NAME), "Meyer"], start=1):
        ids: dict[str, Any] = {"StudyInstanceUID": f"1.2.{number}", "PatientID": f"P{number}"}
        write(tmp_path / "source" / name / "1.dcm", image(number, **ids))
    pattern = f"{unicodedata.normalize(there, NAME)}/*"
    words = ("-P", "demo", option, pattern, "-q", "-o", "json")
    plan = await commands("plan", tmp_path / "source", *words)
    ended = await commands("upload", tmp_path / "source", *words)
    sent = {"--include": 1, "--exclude": 2}[option]
    assert (plan.code, ended.code) == (0, 0), ended
    assert [row["study_uid"] for row in plan.json["rows"] if not row["skip"]] == [f"1.2.{sent}"]
    assert xnat.sop_uids() == {sop(sent)}


@FORMS
@pytest.mark.parametrize("pattern", ["{}*.txt=NOTES", "{}/*.txt=NOTES"])
async def test_patterns_of_attachments(
    url: str, commands: Commands, tmp_path: Path, pattern: str, here: Form, there: Form
) -> None:
    """Attachments are found by their names and directories; a dry run finds them too."""
    commands.login(url)
    name = unicodedata.normalize(here, NAME)
    write(tmp_path / "source" / name / "1.dcm", image(1))
    write(tmp_path / "source" / name / f"{name}-1.txt", b"a note")
    rule = pattern.format(unicodedata.normalize(there, NAME))
    words = ("upload", tmp_path / "source", "-P", "demo", "-q", "-o", "json", "--attach", rule)
    said = await commands(*words, "--dry-run")
    done = await commands(*words)
    assert (said.code, said.json["resources"], said.json["attachments"]["left"]) == (0, {"NOTES": 1}, 1), said
    assert (done.code, done.json["attachments"]["stored"]) == (0, 1), done


@FORMS
async def test_a_label_map_by_a_field_of_paths(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, here: Form, there: Form
) -> None:
    """A path pattern with an accent, and a table by its field: both match either form."""
    commands.login(url)
    name = unicodedata.normalize(here, NAME)
    write(tmp_path / "source" / f"Klinik {name}" / f"{name} 1" / "1.dcm", image(1))
    text = f"who;subject_label;session_label\n{NAME} 1;S1;S1_v1\n"
    (tmp_path / "map.csv").write_text(unicodedata.normalize(there, text), "utf-8")
    pattern = unicodedata.normalize(there, f"Klinik {NAME}/{{who}}/*")
    words = ("upload", tmp_path / "source", "-P", "demo", "-q", "--path-pattern", pattern)
    for more in (("--dry-run",), ()):
        ended = await commands(*words, "--label-map", tmp_path / "map.csv", *more)
        assert ended.code == 0, ended
    assert [(one.subject.label, one.label) for one in xnat.archived] == [("S1", "S1_v1")]


@FORMS
def test_a_plan_reads_the_same_in_both_forms(here: Form, there: Form) -> None:
    """A run by it is the same run, which its journal knows."""
    row = PlanRow("1.2.3", "demo", "S", "E", patient_id=NAME, issuer=NAME, accession_number=NAME)
    text = write_plan([row])
    one, other = (read_plan(unicodedata.normalize(form, text).encode()) for form in (here, there))
    assert one == other
