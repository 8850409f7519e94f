"""The table of accepted pairs: it accepts two people and nobody else, and refuses what nobody can have meant."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.files import Patient
from asyncimport.operations.rules import accepted_from
from asyncimport.routing.accepted_patients import MAX_BYTES, NOBODY, AcceptedPatients
from asyncimport.routing.patients import digest_patient, patient_difference, patient_of

HEADER = "patient_id,name_1,birth_date_1,name_2,birth_date_2,issuer\n"


def person(name: str = "", born: str = "", patient_id: str = "4711", issuer: str = "") -> Patient:
    """Return a patient as the journal compares it."""
    fields = {"PatientID": patient_id, "PatientName": name, "PatientBirthDate": born, "IssuerOfPatientID": issuer}
    return digest_patient(patient_of(fields))


DOE, ROE = person("Doe^Jane", "19500101"), person("Roe^Jane", "19500101")


def table(*rows: str, header: str = HEADER) -> AcceptedPatients:
    """Parse a table of these rows."""
    return AcceptedPatients.parse((header + "\n".join(rows) + "\n").encode())


@pytest.mark.parametrize(
    "row",
    [
        "4711,Doe^Jane,19500101,Roe^Jane,19500101,",
        "4711,Roe^Jane,19500101,Doe^Jane,19500101,",
        "4711,DOE^jane,1950-01-01,roe^JANE^^,1950.01.01,",
        " 4711 , Doe^Jane ,, Roe^Jane ,,",
    ],
)
def test_a_pair_is_accepted_in_both_orders(row: str) -> None:
    """Names are compared as in headers: case, spaces and empty components do not count."""
    accepted = table(row)
    assert accepted.accepts(DOE, ROE)
    assert accepted.accepts(ROE, DOE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(DOE, person("Poe^Jane", "19500101"), id="a third name"),
        pytest.param(person("Poe^Jane"), person("Moe^Jane"), id="two others"),
        pytest.param(DOE, person("Roe^Jane", "19600101"), id="another birth date"),
        pytest.param(person("Doe^Jane", "19600101"), person("Roe^Jane", "19600101"), id="both born on another day"),
        pytest.param(
            person("Doe^Jane", "19500101", "4712"), person("Roe^Jane", "19500101", "4712"), id="another PatientID"
        ),
        pytest.param(person("Doe^Jane", "19500101", ""), person("Roe^Jane", "19500101", ""), id="no PatientID"),
        pytest.param(DOE, person("Roe^Jane=山田", "19600101"), id="another group and birth date"),
        pytest.param(person("Doe^Jane=山田"), person("Roe^Jane=鈴木"), id="a group that the row does not have"),
        pytest.param(person("Doe^Jane^B"), ROE, id="another middle name"),
    ],
)
def test_a_pair_accepts_nobody_else(one: Patient, other: Patient) -> None:
    """Each pair is decided by itself, by all in which the two differ."""
    accepted = table("4711,Doe^Jane,19500101,Roe^Jane,19500101,")
    assert not accepted.accepts(one, other)
    assert not accepted.accepts(other, one)
    assert not NOBODY.accepts(one, other)


def test_a_row_states_all_that_differs() -> None:
    """A row of names accepts no two birth dates, and a row of birth dates no names."""
    names = table("4711,Doe^Jane,,Roe^Jane,,")
    assert names.accepts(DOE, ROE)
    assert not names.accepts(DOE, person("Roe^Jane", "19600101"))
    dates = table("4711,Doe^Jane,19500101,Doe^Jane,19510101,")
    assert dates.accepts(DOE, person("Doe^Jane", "19510101"))
    assert not dates.accepts(person("Poe^Jane", "19500101"), person("Poe^Jane", "19510101"))
    blank = table("4711,,19500101,,19510101,")
    assert not blank.accepts(DOE, person("Doe^Jane", "19510101"))
    assert blank.accepts(person("", "19500101"), person("", "19510101"))


def test_pairs_do_not_add_up() -> None:
    """Doe is Roe, and Roe is Poe, but nobody has said that Doe is Poe."""
    accepted = table("4711,Doe^Jane,,Roe^Jane,,", "4711,Roe^Jane,,Poe^Jane,,")
    assert accepted.accepts(ROE, person("Poe^Jane"))
    assert not accepted.accepts(DOE, person("Poe^Jane"))


def test_a_cell_that_was_escaped() -> None:
    """The rows that a terminal shows have an apostrophe where a spreadsheet would change a cell."""
    accepted = table("'0123,Doe^Jane,,'-Roe^Jane,,")
    assert accepted.accepts(person("Doe^Jane", patient_id="0123"), person("-Roe^Jane", patient_id="0123"))


def test_an_issuer_limits_a_pair() -> None:
    """The same PatientID of another issuer is another patient."""
    accepted = table("4711,Doe^Jane,,Roe^Jane,,A")
    assert accepted.accepts(person("Doe^Jane", issuer="A"), person("Roe^Jane", issuer="A"))
    assert not accepted.accepts(person("Doe^Jane", issuer="B"), person("Roe^Jane", issuer="B"))


ROW = "4711,Doe^Jane,19500101,Roe^Jane,19500101,"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xef\xbb\xbf" + (HEADER + ROW).encode(), id="BOM"),
        pytest.param((HEADER + ROW).encode("utf-16"), id="UTF-16"),
        pytest.param((HEADER + ROW).replace(",", ";").encode(), id="semicolons"),
        pytest.param((HEADER + ROW).replace(",", "\t").encode(), id="tabs"),
        pytest.param(("sep=;\n" + HEADER + ROW).replace(",", ";").encode(), id="sep"),
        pytest.param((HEADER + ROW).replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param((HEADER + ROW + "\n" + ROW + "\n\n\n").encode(), id="twice, and blank lines"),
        pytest.param((HEADER.upper().replace("_", " ") + ROW).encode(), id="names of columns with spaces"),
        pytest.param(b"name_2,patient_id,name_1\nRoe^Jane,4711,Doe^Jane\n", id="another order, fewer columns"),
    ],
)
def test_tables_as_spreadsheets_save_them(data: bytes) -> None:
    """Encodings, separators and order of columns do not matter."""
    assert AcceptedPatients.parse(data).accepts(DOE, ROE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column patient_id"),
        (HEADER, "no line below the header"),
        ("a,b\n1,2\n", "line 1: column 1 has no name of this table"),
        ("PatientID,name_1,name_3\n1,A,B\n", "line 1: column 3 has no name of this table"),
        ("patient_id,name_1\n1,A\n", "line 1: no column name_2"),
        ("patient_id,name_1,name_2,Name 1\n1,A,B,C\n", "line 1: two columns name_1"),
        (f"{HEADER},Doe^Jane,,Roe^Jane,,\n", "line 2: no patient_id"),
        (f"{HEADER}4711,Doe^Jane,,Roe^Jane\n", "line 2: 4 cells instead of 6"),
        (f"{HEADER}{ROW}\n4711,Doe^Jane,,doe^jane^,,\n", "line 3: the two do not differ"),
        (f"{HEADER}4711,Doe^Jane,,,,\n", "line 2: the two do not differ"),
        (f"{HEADER}4711,,,,,\n", "line 2: the two do not differ"),
        (f"{HEADER}4711,Doe^Jane,31.01.1950,Roe^Jane,,\n", "line 2: birth_date_1 is not a date"),
        (f"{HEADER}4711,Doe^Jane,,Roe^Jane,secret,\n", "line 2: birth_date_2 is not a date"),
        (f"{HEADER}4.7E+11,Doe^Jane,,Roe^Jane,,\n", "line 2: the patient_id looks like a large number"),
        (f'{HEADER}4711,"Doe^Jane,,Roe^Jane,,\n', "cannot be read from line 2 on"),
        (f"{HEADER}4711,{'x' * 200_000},,Roe^Jane,,\n", "cannot be read from line 2 on"),
        ("PK\x03\x04", "is a workbook"),
    ],
)
def test_what_nobody_can_have_meant_is_refused(text: str, message: str) -> None:
    """The message has the line, a hint, and nothing of a patient."""
    with pytest.raises(UsageError, match=message) as error:
        AcceptedPatients.parse(text.encode())
    assert error.value.hint
    told = f"{error.value} {error.value.hint}"
    assert not any(value in told for value in ("4711", "Doe", "Roe", "secret"))


@pytest.mark.parametrize("path", ["/dev/zero", "huge"])
def test_a_hostile_size_is_not_read(tmp_path: Path, path: str) -> None:
    """Of a file without end, no more is read than a table can have."""
    file = Path(path) if path.startswith("/") else tmp_path / path
    if path == "huge":
        with file.open("wb") as huge:
            huge.truncate(MAX_BYTES * 1000)
    with pytest.raises(UsageError, match="more than 16 MiB"):
        accepted_from(file)
    with pytest.raises(UsageError, match="cannot be read"):
        accepted_from(tmp_path)


def test_many_pairs_of_one_patient_are_found() -> None:
    """A table may have thousands of rows for one PatientID."""
    accepted = table(*(f"4711,Doe^{number},,Roe^{number},," for number in range(5_000)))
    assert accepted.accepts(person("Roe^4999"), person("Doe^4999"))
    assert not accepted.accepts(person("Roe^4999"), person("Doe^4998"))


NAMES = st.sampled_from(["", "Doe^Jane", "Roe^Jane", "Poe^Jane", "Doe^Jane=山田", "Roe^Jane=鈴木"])
DATES = st.sampled_from(["", "19500101", "19600101"])
PEOPLE = st.builds(person, NAMES, DATES)


@given(PEOPLE, PEOPLE)
def test_whatever_is_accepted_is_in_the_row(one: Patient, other: Patient) -> None:
    """Of any two people, each is one of the row, by all that is known of both."""
    if patient_difference(one, other) and table(ROW).accepts(one, other):
        assert {one.name, other.name} <= {
            DOE.name,
            ROE.name,
            person("Doe^Jane=山田").name,
            person("Roe^Jane=鈴木").name,
        }
        assert {one.birth_date, other.birth_date} <= {"", DOE.birth_date}
