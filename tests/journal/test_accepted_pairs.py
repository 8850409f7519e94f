"""People of one PatientID that a table accepts: the pair goes, and a third person stays out."""

from pathlib import Path
from typing import Any

import pytest
from builders import image, write
from conftest import Commands

from asyncimport.journal import Journal
from asyncimport.model.files import File, Instance, Patient, Session
from asyncimport.routing.accepted_patients import NOBODY, AcceptedPatients
from asyncimport.testserver import TestXnat

PAIR = "patient_id,name_1,birth_date_1,name_2,birth_date_2\n1,Doe,1950-01-01,Roe,1960-01-01\n"
ACCEPTED = AcceptedPatients.parse(PAIR.encode())
DOE, ROE = Patient("1", "doe", "19500101"), Patient("1", "roe", "19600101")


def instance(number: int, patient: Patient, subject: str = "S") -> Instance:
    """Make an instance of a study of its own."""
    session = Session("P", subject, f"E{number}", f"1.2.{number}")
    return Instance(File(f"/data/{number}", 10, 1), f"1.2.{number}.1", "1.9", session, patient)


def reasons(path: Path, *instances: Instance, accepted: AcceptedPatients = ACCEPTED) -> list[str]:
    """Admit instances one by one, and return why some were skipped."""
    with Journal(path, destination="http://x", rules={}, accepted=accepted) as journal:
        for one in instances:
            journal.scan.admit([one])
        return [reason for reason, _ in journal.scan.skip_reasons()]


@pytest.mark.parametrize("subject", ["S", "T"])
def test_a_pair_is_let_in_for_good(tmp_path: Path, subject: str) -> None:
    """In one subject or in two; later runs know both people, without the table."""
    first, second = instance(1, DOE), instance(2, ROE, subject)
    assert reasons(tmp_path / "j", first, second) == []
    assert reasons(tmp_path / "j", instance(3, DOE), instance(4, ROE, subject), accepted=NOBODY) == []
    (why,) = reasons(tmp_path / "k", first, second, accepted=NOBODY)
    assert "one PatientID with two names: study 1.2.1 has another; --accept-patients accepts this pair" in why


@pytest.mark.parametrize(
    "third",
    [
        pytest.param(Patient("1", "poe", "19500101"), id="a third name"),
        pytest.param(Patient("1", "roe", "19700101"), id="a third birth date"),
        pytest.param(Patient("2", "roe", "19600101"), id="another PatientID"),
        pytest.param(Patient("", "roe", "19600101"), id="no PatientID"),
    ],
)
@pytest.mark.parametrize("table", [ACCEPTED, NOBODY])
def test_a_third_person_stays_out(tmp_path: Path, third: Patient, table: AcceptedPatients) -> None:
    """Whoever comes after the pair is compared with both, with the table and without it."""
    assert reasons(tmp_path / "j", instance(1, DOE), instance(2, ROE)) == []
    assert len(reasons(tmp_path / "j", instance(3, third), accepted=table)) == 1


@pytest.mark.parametrize("one", ["Doe,1950-01-01", "Roe,1960-01-01"])
def test_pairs_do_not_let_a_third_in_by_one_of_them(tmp_path: Path, one: str) -> None:
    """Doe is Roe and Doe is Poe, but nobody has said that Roe is Poe: whoever comes third stays out."""
    accepted = AcceptedPatients.parse(f"{PAIR}1,{one},Poe,1970-01-01\n".encode())
    people = (instance(1, DOE), instance(2, ROE), instance(3, Patient("1", "poe", "19700101")))
    (why,) = reasons(tmp_path / "j", *people, accepted=accepted)
    assert why.startswith("study 1.2.3, ")


@pytest.mark.parametrize(
    "bridge",
    [
        pytest.param(Patient("1", "", "19600101"), id="without a name"),
        pytest.param(Patient("1", "roe", ""), id="without a birth date"),
    ],
)
def test_nobody_comes_in_as_somebody_of_whom_less_is_known(tmp_path: Path, bridge: Patient) -> None:
    """A file that lacks a name or a birth date agrees with Roe, and must not make a third person known."""
    third = Patient("1", "poe" if not bridge.name else "roe", bridge.birth_date or "19700101")
    found = reasons(tmp_path / "j", instance(1, DOE), instance(2, bridge), instance(3, third))
    assert [reason.partition(",")[0] for reason in found] == ["study 1.2.3"]
    assert reasons(tmp_path / "j", instance(4, ROE)) == []


def test_an_accepted_person_is_no_exception(tmp_path: Path) -> None:
    """What --allow-mixed-patients lets in is not compared with the archive; what a table accepts is."""
    path = tmp_path / "j"
    assert reasons(path, instance(1, DOE), instance(2, ROE)) == []
    with Journal(path, destination="http://x", rules={}) as journal:
        assert journal.connection.one("SELECT count(*) FROM patient WHERE allowed IS NOT NULL") == (0,)


def test_what_was_allowed_stays_allowed(tmp_path: Path) -> None:
    """More about a person whom --allow-mixed-patients let in, or about the one before, keeps nobody out."""
    path = tmp_path / "j"
    with Journal(path, destination="http://x", rules={}, allow_mixed_patients=True) as journal:
        journal.scan.admit([instance(1, Patient("1", "doe")), instance(2, Patient("1", "poe"))])
    known = instance(3, Patient("1", "poe", "19990101")), instance(4, DOE)
    assert reasons(path, *known, accepted=NOBODY) == []


def study(number: int, name: str, **values: Any) -> bytes:
    """Return an instance of a study of one PatientID."""
    return image(
        number,
        StudyInstanceUID=f"1.2.{number}",
        SeriesInstanceUID=f"1.2.{number}.1",
        PatientID="1",
        PatientName=name,
        StudyDate=f"202001{number:02}",
        **values,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make three studies of one PatientID with three names."""
    for number, name in ((1, "Doe^Jane"), (2, "Roe^Jane"), (3, "Poe^Jane")):
        write(tmp_path / "source" / f"{number}" / "a", study(number, name))
    return tmp_path / "source"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Accept the first two."""
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffpatient_id;name_1;name_2\n1;Roe^Jane;doe^jane\n", encoding="utf-8")
    return path


@pytest.mark.anyio
@pytest.mark.parametrize("words", [(), ("--check-first",), ("--max-sessions", "9"), ("-S", "one", "-E", "{StudyDate}")])
async def test_plan_rehearsal_and_run_accept_the_same(
    xnat: TestXnat, url: str, commands: Commands, source: Path, table: Path, words: tuple[str, ...]
) -> None:
    """However a run decides, the pair is accepted and the third person is not."""
    commands.login(url)
    first = await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words)
    assert "one PatientID with two names: study 1.2.1 has another" in first.out
    accept = ("--accept-patients", table)
    plan_words = () if "--check-first" in words else words
    made = await commands("plan", source, "-P", "demo", "-o", "json", *plan_words, *accept)
    (problem,) = [one for one in made.json["problems"] if one["code"] == "two-people"]
    assert (problem["study_uid"], problem["other_study"], made.json["sessions"]) == ("1.2.3", "1.2.1", 2)
    assert "--accept-patients" in problem["advice"]
    shown = await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words, *accept, "--dry-run")
    ended = await commands("upload", source, "-P", "demo", "-q", "-o", "json", *words, *accept)
    assert shown.code == ended.code
    whole = {1, 2} if "--check-first" not in words else set()
    assert {int(one.study_uid.rpartition(".")[2]) for one in xnat.archived} == whole


@pytest.mark.anyio
async def test_a_plan_file_and_a_later_run(
    xnat: TestXnat, url: str, commands: Commands, source: Path, table: Path, tmp_path: Path
) -> None:
    """A plan that was made with the table needs it again; what the journal knows is compared too."""
    commands.login(url)
    (source / "3" / "a").unlink()
    plan = tmp_path / "plan.csv"
    accept = ("--accept-patients", table)
    assert (await commands("plan", source, "-P", "demo", "--out", plan, *accept)).code == 0
    refused = await commands("upload", source, "--plan", plan, "-q", "-o", "json")
    assert (refused.code, len(xnat.archived)) == (2, 0)
    assert "study 1.2.1 has another" in refused.json["error"]["message"]
    assert (await commands("upload", source, "--plan", plan, "-q", *accept)).code == 0
    write(tmp_path / "later" / "a", study(4, "Poe^Jane"))
    later = await commands("upload", tmp_path / "later", "--plan", plan, "-P", "demo", "-q", *accept)
    assert (later.code, len(xnat.archived)) == (2, 2)


@pytest.mark.anyio
async def test_names_are_in_no_file_and_no_pipe(
    url: str, commands: Commands, source: Path, table: Path, tmp_path: Path
) -> None:
    """Output, log, events, receipts, metrics, journal and header cache of other people's eyes hold no name."""
    commands.login(url)
    files = [tmp_path / name for name in ("events", "log", "receipts", "report.html")]
    state = tmp_path / "state"
    logs = ("--events", files[0], "--log-file", files[1], "--receipts", files[2], "--state-dir", state, "-v")
    shown = [await commands("upload", source, "-P", "demo", *logs)]
    shown.append(await commands("upload", source, "-P", "demo", "--accept-patients", table, *logs))
    shown.append(await commands("plan", source, "-P", "demo", "-o", "json", "--state-dir", state))
    shown.append(await commands("status", "-P", "demo", "--state-dir", state))
    journals = [path for path in state.iterdir() if path.suffix not in {".survey", ".survey-wal", ".survey-shm"}]
    texts = [one.out + one.err for one in shown]
    texts += [path.read_bytes().decode("latin-1") for path in (*files[:3], *journals) if path.is_file()]
    assert all("two names" in text for text in texts[:1])
    assert not [text for text in texts if any(name in text.lower() for name in ("doe^", "roe^", "poe^"))]


@pytest.mark.anyio
async def test_nobody_comes_into_a_plan_as_somebody_of_whom_less_is_known(commands: Commands, tmp_path: Path) -> None:
    """A plan compares as the journal does: a nameless study is no bridge to a third person."""
    source, table = tmp_path / "source", tmp_path / "pairs.csv"
    table.write_text(PAIR)
    for number, name, born in ((1, "Doe", "19500101"), (2, "", "19600101"), (3, "Poe", "19600101")):
        write(source / f"{number}" / "a", study(number, name, PatientBirthDate=born))
    made = await commands("plan", source, "-P", "demo", "-o", "json", "--accept-patients", table)
    assert [(one["code"], one["study_uid"]) for one in made.json["problems"]] == [("two-people", "1.2.3")]
