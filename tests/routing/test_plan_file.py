"""Plans: they survive writing and reading, manifests of other tools are understood, and errors are reported."""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.texts import nfc
from asyncimport.routing.plan_file import Key, KeyKind, PlanRow, split, write_plan
from asyncimport.routing.plan_reader import read_plan

UID = "1.2.840.113619.2.55.3"
ROW = PlanRow(f"{UID}.1", "P", "S1", "S1_MR1")
HEADER = "study_uid,project_id,subject_label,session_label,action"


def plan(*lines: str, header: str = HEADER) -> bytes:
    """Make a plan of lines."""
    return "\r\n".join([header, *lines, ""]).encode()


def problems(data: bytes, project: str = "") -> tuple[str, str]:
    """Return the message and the hint of an invalid plan."""
    with pytest.raises(UsageError) as caught:
        read_plan(data, project=project)
    assert caught.value.hint
    return str(caught.value), caught.value.hint


def targets(rows: Sequence[PlanRow]) -> list[tuple[str, str, str, str]]:
    """Return UID, labels and skip of rows."""
    return [(row.study_uid, row.project_id, row.subject_label, row.session_label) for row in rows]


# What is written


def test_a_plan_looks_like_this() -> None:
    """A plan has a header, commas and CRLF. Empty columns are left out, except those that people fill in."""
    rows = [
        PlanRow(
            f"{UID}.1", "P", "S1", "S1_MR1", "20200131", "MR\\SR", 3, 300, 1_000_000, "/data/a", "", extra={"Note": "x"}
        ),
        PlanRow("2.25.4711000", "", "", "", problems='no "StudyDate",\nno PatientID', skip=True),
    ]
    assert write_plan(rows) == (
        "study_uid,project_id,subject_label,session_label,action,study_date,modalities,series,files,bytes,source,"
        "problems,Note\r\n"
        f"{UID}.1,P,S1,S1_MR1,upload,20200131,MR\\SR,3,300,1000000,/data/a,,x\r\n"
        '2.25.4711000,,,,skip,,,,,,,"no ""StudyDate"",\nno PatientID",\r\n'
    )
    assert read_plan(write_plan(rows).encode()) == [rows[0], replace(rows[1], extra={"Note": ""})]


def test_an_empty_plan() -> None:
    """A plan may have no rows."""
    assert write_plan([]).startswith("study_uid,project_id,")
    assert read_plan(write_plan([]).encode()) == []


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\nx", "  =1", "'=1", "''=1"),
        *("\uff1d1", "\uff0b1", "\uff0d1", "\uff201"),
        *("007", "00", "1234567890123456", "12345678901234567890", "1E5", "12e03", "1.5E-3", "1E-05"),
        *("1.10", "1,5", "1.", "1.234.567", "1-2", "2020-01-31", "31.1.2020", "12:30", "1/2"),
        *("MAR1", "mar01", "1-Mar", "Sept2", "DEC-12", "5 June 2020", "TRUE", "false"),
    ],
)
def test_cells_that_a_spreadsheet_would_change_get_an_apostrophe(text: str) -> None:
    """Formulas, long numbers, dates and truth values get an apostrophe, which reading removes."""
    written = write_plan([replace(ROW, problems=text)])
    assert next(itertools.islice(csv.reader(io.StringIO(written, newline="")), 1, None))[-1] == f"'{text}"
    assert read_plan(written.encode())[0].problems == text


@pytest.mark.parametrize(
    "text",
    [
        "4711",
        "123456789012345",
        "0",
        "20200131",
        "S-1",
        "'t Hooft",
        "'",
        "1A",
        "marker1",
        "E5",
        "a=b",
        "2.25.4711471147",
        "",
    ],
)
def test_other_cells_get_no_apostrophe(text: str) -> None:
    """Other cells get no apostrophe, and one of their own stays."""
    written = write_plan([replace(ROW, problems=text)])
    assert written.endswith(f",{text}\r\n")
    assert read_plan(written.encode())[0].problems == text


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.840.01.5", "2.25", "4711", "STUDY-1", "'1'", "1." * 40 + "1", "1.2.3 "])
def test_an_invalid_uid_of_a_scanner_is_kept(uid: str) -> None:
    """An invalid UID of a header is kept; the apostrophe distinguishes it from a typing error."""
    row = replace(ROW, study_uid=uid)
    written = write_plan([row])
    assert f"\r\n'{uid}," in written
    assert read_plan(written.encode()) == [row]


LABELS = st.text("abAB019_-Ee", min_size=1, max_size=255)
TEMPTATIONS = ["'", "''", "=", "'=", "\uff1d", "0", "'0", "1E", "1.", "MAR", "\t", "'\n", " "]
TEXTS = st.one_of(
    # In composed form, in which all cells are read.
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\t\n")).map(nfc),
    st.builds("{}{}".format, st.sampled_from(TEMPTATIONS), st.text("'=019.E-")),
)
COUNTS = st.none() | st.integers(0, 10**20)
# A name that means another column, or none, is none of an extra column.
NAMES = TEXTS.filter(lambda name: name.strip() and not re.search(r"(?i)[a-z]{4}", name))


@st.composite
def plans(draw: st.DrawFn) -> list[PlanRow]:
    """Draw rows that a plan may hold."""
    names = draw(st.lists(NAMES, unique=True, max_size=3))
    kind = draw(st.sampled_from(KeyKind))
    rows: list[PlanRow] = []
    for number in range(draw(st.integers(0, 4))):
        skip = draw(st.booleans())
        target = TEXTS if skip else LABELS
        row = PlanRow(
            study_uid="",
            project_id=draw(target),
            subject_label=draw(target),
            session_label=draw(target) if skip else f"{draw(st.text('0-_E', max_size=9))}{number}",
            study_date=draw(TEXTS),
            modalities=draw(TEXTS),
            series=draw(COUNTS),
            files=draw(COUNTS),
            bytes=draw(COUNTS),
            source=draw(TEXTS),
            problems=draw(TEXTS),
            skip=skip,
            patient_id=draw(TEXTS),
            extra={name: draw(TEXTS) for name in names},
        )
        match kind:
            case KeyKind.STUDY_UID:
                rows.append(replace(row, study_uid=draw(TEXTS) + str(number), accession_number=draw(TEXTS)))
            case KeyKind.ACCESSION_NUMBER:
                rows.append(replace(row, accession_number=draw(TEXTS) + str(number)))
            case KeyKind.PATIENT_ID_AND_STUDY_DATE:
                rows.append(replace(row, patient_id=draw(TEXTS) + "x", study_date=f"2020013{number}"))
    return rows


@given(plans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_a_plan_survives_writing_and_reading(rows: list[PlanRow], encoding: str) -> None:
    """Any cells in any encoding survive writing and reading."""
    assert read_plan(write_plan(rows).encode(encoding)) == rows


@given(plans(), st.sampled_from(",;\t"), st.sampled_from(["\r\n", "\n", "\r"]), st.booleans())
def test_a_plan_is_read_from_any_dialect(rows: list[PlanRow], delimiter: str, end: str, every: bool) -> None:
    """Spreadsheets save with their own delimiters, line ends and quotes."""
    out = io.StringIO(newline="")
    # Python's own writer does not quote a line end other than its own.
    if every or end != "\r\n":
        table = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    else:
        table = csv.writer(out, delimiter=delimiter, lineterminator=end)
    table.writerows(csv.reader(io.StringIO(write_plan(rows), newline="")))
    assert read_plan(out.getvalue().encode()) == rows


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5))
def test_no_written_cell_is_a_formula(pairs: list[tuple[str, str]]) -> None:
    """No text of a header or path becomes a formula in a spreadsheet."""
    rows = [PlanRow(f"{UID}.{n}", "", a, b, source=b, skip=True) for n, (a, b) in enumerate(pairs)]
    for cells in csv.reader(io.StringIO(write_plan(rows), newline="")):
        assert [cell for cell in cells if cell.lstrip(" ")[:1] in tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")] == []


@given(st.tuples(st.text(), st.text(), st.text()))
def test_no_written_cell_has_control_characters(texts: tuple[str, str, str]) -> None:
    """No cell has control characters."""
    first, second, third = texts
    row = PlanRow(f"{UID}\x1b[2J\x9b{first}", "", second, "\r\x07", source="/a\x1b]0;x\x07", skip=True)
    written = write_plan([replace(row, problems=third, extra={"\x1bc": "\x7f"})])
    assert set(re.findall(r"[\x00-\x1f\x7f-\x9f]", written.replace("\r\n", ""))) <= {"\t", "\n"}
    assert r"\x1b[2J\x9b" in written


def test_invalid_bytes_of_a_path_are_escaped() -> None:
    """A plan can always be encoded."""
    assert ",/data/\\udcff," in write_plan([replace(ROW, source="/data/\udcff")])


def test_rows_that_no_plan_can_hold() -> None:
    """A column cannot have two meanings, and rows with and without UIDs cannot share a header."""
    with pytest.raises(ValueError, match="some have none"):
        write_plan([ROW, replace(ROW, study_uid="", accession_number="A1")])
    with pytest.raises(ValueError, match="may not be named Subject"):
        write_plan([replace(ROW, extra={"Subject": "x"})])


def test_no_repr_shows_names() -> None:
    """No repr shows a patient's data."""
    row = PlanRow("", "P", "S", "E", accession_number="A77", patient_id="PLANTED", extra={"Last Name": "Planted"})
    assert not re.search("planted|A77", repr(row) + repr(row.key), re.IGNORECASE)
    assert hash(row) == hash(replace(row, extra={}))


# What others write

FILES = {
    "Excel, CSV UTF-8": (
        b"\xef\xbb\xbfstudy_uid,project_id,subject_label,session_label,action,bytes,problems\r\n"
        b'1.2.840.1,P,\'007,"007_MR1",upload,1.5E+11,"J\xc3\xb6rg, ""x"""\r\n'
        b"1.2.840.2,P,S2,S2_MR1,Skip,12,\r\n,,,,,,\r\n"
    ),
    "German Excel, CSV": (
        b"study_uid;project_id;subject_label;session_label;action;bytes;problems\r\n"
        b'1.2.840.1;P;\'007;007_MR1;upload;1,5E+11;"J\xf6rg, ""x"""\r\n1.2.840.2;P;S2;S2_MR1;Skip;12;\r\n;;;;;;\r\n'
    ),
    "Excel, Unicode text": (
        "\ufeffstudy_uid\tproject_id\tsubject_label\tsession_label\taction\tbytes\tproblems\r\n"
        '1.2.840.1\tP\t\'007\t007_MR1\tupload\t1.5E+11\t"Jörg, ""x"""\r\n1.2.840.2\tP\tS2\tS2_MR1\tSkip\t12\t\r\n'
    ).encode("utf-16-le"),
    "UTF-16, the other way round": (
        "\ufeffstudy_uid\tproject_id\tsubject_label\tsession_label\taction\tbytes\tproblems\r\n"
        '1.2.840.1\tP\t\'007\t007_MR1\tupload\t1.5E+11\t"Jörg, ""x"""\r\n1.2.840.2\tP\tS2\tS2_MR1\tSkip\t12\t\r\n'
    ).encode("utf-16-be"),
    "for Excel, with sep": (
        b"sep=;\r\nstudy_uid;project_id;subject_label;session_label;action;bytes;problems\r\n"
        b'1.2.840.1;P;007;007_MR1;upload;150000000000;"J\xc3\xb6rg, ""x"""\r\n\r\n1.2.840.2;P;S2;S2_MR1;skip;12\r\n'
    ),
    "LibreOffice, all text quoted": (
        b'"study_uid","project_id","subject_label","session_label","action","bytes","problems"\n'
        b'"1.2.840.1","P","\'007","007_MR1","upload",150000000000,"J\xc3\xb6rg, ""x"""\n'
        b'"1.2.840.2","P","S2","S2_MR1","skip",12,\n'
    ),
    "pandas, with index and gaps": (
        b",study_uid,project_id,subject_label,session_label,action,bytes,problems\n"
        b'0,1.2.840.1,P,\'007,007_MR1,upload,150000000000.0,"J\xc3\xb6rg, ""x"""\n'
        b"1,1.2.840.2,P,S2,S2_MR1,skip,12.0,\n"
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_programs(name: str) -> None:
    """One plan, as it is saved by what people use; the zeros of 007 are still there.

    What tells neither by a mark nor by itself how its letters are written must be named.
    """
    rows = read_plan(FILES[name], encoding="cp1252" if name.startswith("German") else "")
    assert [replace(row, extra={}) for row in rows] == [
        PlanRow("1.2.840.1", "P", "007", "007_MR1", bytes=150_000_000_000, problems='Jörg, "x"'),
        PlanRow("1.2.840.2", "P", "S2", "S2_MR1", bytes=12, skip=True),
    ]
    assert read_plan(write_plan(rows).encode()) == rows


def test_a_separator_line_counts() -> None:
    """The line counts, as in an editor."""
    assert ": line 3, study_uid: " in problems(b"SEP=;\n" + plan("x;P;S;E;upload", header=HEADER.replace(",", ";")))[0]


def test_the_delimiter_is_the_one_that_makes_sense_of_the_header() -> None:
    """Names of columns may contain other delimiters."""
    data = plan(f"{UID};P;S;E;x", header="study_uid;project_id;subject_label;session_label;a,b,c,d,e,f,g,h,i,j")
    assert read_plan(data) == [PlanRow(UID, "P", "S", "E", extra={"a,b,c,d,e,f,g,h,i,j": "x"})]


def test_empty_columns_at_the_end() -> None:
    """Empty columns at the end are ignored; a value in one is an error."""
    assert read_plan(plan(f"{UID},P,S,E,upload,,", header=f"{HEADER},,")) == [PlanRow(UID, "P", "S", "E")]
    told = problems(plan(f"{UID},P,S,E,upload,,x", header=f"{HEADER},,"))[0]
    assert told == "the plan has errors: line 2: 7 cells, but the header has 5"


def test_a_column_without_a_name_is_kept() -> None:
    """The index column of pandas is not an error."""
    rows = read_plan(FILES["pandas, with index and gaps"])
    assert [row.extra for row in rows] == [{"": "0"}, {"": "1"}]
    assert write_plan(rows).startswith(",study_uid,")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_within_cells(end: str) -> None:
    """A quoted cell may have line ends; lines are counted as in an editor."""
    lines = [
        'study_uid,project_id,"subject_label",session_label,note',
        f'{UID}.1,P,S,E,"a',
        'b"',
        "",
        f"{UID}.2,P,S,ä,x",
    ]
    data = end.join(lines)
    assert problems(data.encode())[0] == ("the plan has errors: line 5, session_label: the character 'ä' (U+00E4)")
    assert read_plan(data.replace("ä", "F").encode())[0].extra == {"note": f"a{end}b"}


DESKTOP_CLIENT = (
    "Study UID,Study Date,Modality,Study Description,Patient Name,Patient ID,Scans,"
    "XNAT Subject ID,Session Label,PET Tracer"
)
DQR = "Accession Number,Study Date,Patient ID,Last Name,First Name,DOB,Modality,Subject,Session"
DAX = (
    "object_type,project_id,subject_label,session_type,session_label,"
    "as_label,as_type,as_description,quality,resource,fpath"
)


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        ("study_uid,project_id,subject_label,session_label", f"{UID},P,S,E", KeyKind.STUDY_UID),
        ("STUDY UID,Project,Subject,Session", f"{UID},P,S,E", KeyKind.STUDY_UID),
        ("StudyInstanceUID,project,subject,experiment", f"{UID},P,S,E", KeyKind.STUDY_UID),
        ("Study Instance UID,Project ID,Subject Label,Experiment Label", f"{UID},P,S,E", KeyKind.STUDY_UID),
        (
            DESKTOP_CLIENT,
            f"{UID},20200131,MR,Head,Planted^Patient,4711,5,S,E,",
            KeyKind.STUDY_UID,
        ),
        (
            DQR,
            "A1,20200131,4711,Planted,Patient,19330421,MR,S,E",
            KeyKind.ACCESSION_NUMBER,
        ),
        (
            DQR,
            ",20200131,4711,Planted,Patient,19330421,MR,S,E",
            KeyKind.PATIENT_ID_AND_STUDY_DATE,
        ),
        ("PatientID,StudyDate,Subject,Session", "4711,2020-01-31,S,E", KeyKind.PATIENT_ID_AND_STUDY_DATE),
        ("PatientID,StudyDate,Subject,Session", "4711,2020/01/31,S,E", KeyKind.PATIENT_ID_AND_STUDY_DATE),
        (
            f"{DAX},StudyInstanceUID",
            f"scan,P,S,MR,E,1,T1,,usable,DICOM,/data/1,{UID}",
            KeyKind.STUDY_UID,
        ),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_of_other_tools(header: str, line: str, expected: KeyKind, delimiter: str) -> None:
    """Manifests of XNAT Desktop Client, DQR and dax are read; unknown columns are kept."""
    data = plan(line.replace(",", delimiter), header=header.replace(",", delimiter))
    (row,) = read_plan(data, project="P")
    assert (row.project_id, row.subject_label, row.session_label) == ("P", "S", "E")
    values = {
        KeyKind.STUDY_UID: (UID,),
        KeyKind.ACCESSION_NUMBER: ("A1",),
        KeyKind.PATIENT_ID_AND_STUDY_DATE: ("4711", "20200131"),
    }
    assert row.key == Key(expected, values[expected])
    assert row.study_uid == (UID if expected is KeyKind.STUDY_UID else "")
    for name in ("Patient Name", "Last Name", "DOB", "fpath", "Scans"):
        assert (name in row.extra) == (name in header)
    assert read_plan(write_plan([row]).encode()) == [row]


def test_a_uid_comes_before_other_keys() -> None:
    """With a column of UIDs, each row needs one; an accession number does not replace it."""
    data = plan(f"{UID},A1,P,S,E", ",A2,P,S,F", header="Study UID,Accession Number,project,subject,session")
    assert problems(data)[0] == "the plan has errors: line 3, Study UID: empty"


def test_the_project_of_the_command() -> None:
    """-P applies only to rows without a project."""
    rows = read_plan(plan(f"{UID}.1,,S,E,upload", f"{UID}.2,Q,S,F,upload", f"{UID}.3,,,,skip"), project="P")
    assert [row.project_id for row in rows] == ["P", "Q", "P"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12),
        ("12.0", 12),
        ("1.5E+3", 1500),
        ("1,5E+03", 1500),
        ("", None),
        ("many", None),
        ("inf", None),
        ("nan", None),
    ],
)
def test_rounded_numbers_are_accepted(text: str, expected: int | None) -> None:
    """Rounded numbers are accepted; other texts are unknown."""
    data = plan(f'{UID},P,S,E,upload,"{text}"', header=f"{HEADER},files")
    assert read_plan(data)[0].files == expected


def test_repeating_and_skipping() -> None:
    """A repeated row counts once; skipped rows are not checked for labels."""
    rows = read_plan(
        plan(
            f"{UID}.1,P,S,E,upload",
            f"{UID}.1,P,S,E,UPLOAD ",
            f"{UID}.2,P,Sé,E,skip",
            f"{UID}.3,Q,S,E,upload",
        )
    )
    assert [(row.study_uid[-1], row.skip) for row in rows] == [("1", False), ("2", True), ("3", False)]


# What is wrong


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["1.2.x,P,S,E,upload"], "line 2, study_uid: not a UID: the character 'x' (U+0078)"),
        ([f"{UID} ,P,S,E,upload"], "line 2, study_uid: not a UID: the character ' ' (U+0020)"),
        (["1.2.840.01,P,S,E,upload"], "line 2, study_uid: not a UID: a component that begins with 0"),
        (["1.2..840,P,S,E,upload"], "line 2, study_uid: not a UID: an empty component"),
        ([f"1.2.{'3' * 61},P,S,E,upload"], "line 2, study_uid: not a UID: 65 characters"),
        (["1.2.٣,P,S,E,upload"], "line 2, study_uid: not a UID: the character '٣' (U+0663)"),
        ([",P,S,E,upload"], "line 2, study_uid: empty"),
        (["1.2E+15,P,S,E,upload"], "line 2, study_uid: a number, into which spreadsheets change UIDs"),
        (['"1,23E+10",P,S,E,upload'], "line 2, study_uid: a number, into which spreadsheets change UIDs"),
        (["1.284,P,S,E,upload"], "line 2, study_uid: a number, into which spreadsheets change UIDs"),
        (["1284011361925530,P,S,E,upload"], "line 2, study_uid: a number, into which spreadsheets change UIDs"),
        ([f"{UID},P,1.2E+15,E,upload"], "line 2, subject_label: a number that a spreadsheet or pandas has changed"),
        ([f"{UID},P,S,1E-05,upload"], "line 2, session_label: a number that a spreadsheet or pandas has changed"),
        ([f"{UID},4711.0,S,E,upload"], "line 2, project_id: a number that a spreadsheet or pandas has changed"),
        ([f"{UID},P,S,E,later"], "line 2, action: an unknown action"),
        ([f"{UID},P,S,E,"], "line 2, action: empty"),
        ([f"{UID},P,S,E"], "line 2, action: empty"),
        ([f"{UID},P,S,E,upload,,x"], "line 2: 7 cells, but the header has 5"),
        ([f"{UID},,S,E,upload"], "line 2, project_id: empty"),
        ([f"{UID},P,,E,upload"], "line 2, subject_label: empty"),
        ([f"{UID},P,S,,upload"], "line 2, session_label: empty"),
        ([f"{UID},P,S 1,E,upload"], "line 2, subject_label: the character ' ' (U+0020)"),
        ([f"{UID},P,S,E\u00a0,upload"], "line 2, session_label: the character '\\xa0' (U+00A0)"),
        ([f"{UID},P,S,E\u202e,upload"], "line 2, session_label: the character '\\u202e' (U+202E)"),
        ([f"{UID},P,S,\u0410,upload"], "line 2, session_label: the character '\u0410' (U+0410)"),
        ([f"{UID},P,S,{'x' * 256},upload"], "line 2, session_label: 256 characters"),
        (
            [f"{UID},P,S,E,upload", "", f"{UID},P,S,F,upload"],
            "line 4: the study of line 2 again, with other labels",
        ),
        ([f"{UID},P,S,E,upload", f"{UID},P,S,E,skip"], "line 3: the study of line 2 again, with other labels"),
        (
            [f"{UID}.1,P,S,E,upload", f"{UID}.2,P,T,E,upload"],
            "line 3, session_label: the label of line 2 for another study",
        ),
        (
            [f"{UID},P,S,É,upload", "1.2.,P,S,,upload"],
            (
                "line 2, session_label: the character 'É' (U+00C9); line 3, study_uid: not a UID: an empty component; "
                "line 3, session_label: empty"
            ),
        ),
    ],
)
def test_invalid_rows(lines: list[str], told: str) -> None:
    """All problems are reported at once, by line and column."""
    assert problems(plan(*lines))[0] == f"the plan has errors: {told}"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1.2E+15,,,", "line 2, Accession Number: a number that a spreadsheet or pandas has changed"),
        (",4711.0,20200131,", "line 2, Patient ID: a number that a spreadsheet or pandas has changed"),
        (",4711,31.01.2020,", "line 2, Study Date: not a date"),
        (",4711,2.02E+07,", "line 2, Study Date: not a date"),
        (",4711,,", "line 2: no key"),
        (",,20200131,", "line 2: no key"),
    ],
)
def test_invalid_keys_without_a_uid(line: str, told: str) -> None:
    """Without a UID, the other keys must be complete and valid."""
    data = plan(f"{line}S,E", header="Accession Number,Patient ID,Study Date,Subject,Session")
    assert problems(data, project="P")[0] == f"the plan has errors: {told}"


def test_a_hint_is_given_once() -> None:
    """A hint for several problems is given once."""
    assert problems(plan("1.284,P,1E+15,E,upload"))[1].count("as text") == 1


def test_the_longest_label() -> None:
    """Labels have at most 255 characters."""
    assert read_plan(plan(f"{UID},P,S,{'x' * 255},upload"))[0].session_label == "x" * 255


def test_ten_problems_are_shown() -> None:
    """At most ten problems are shown, and each hint once."""
    message, hint = problems(
        plan(*(f"{UID}.{n},P,S,E {n},upload" for n in range(10)), *("x,P,S,E,upload" for _ in range(3)))
    )
    assert [int(number) for number in re.findall(r"line (\d+)", message)] == list(range(2, 12))
    assert message.endswith("; and 3 more")
    assert hint == "labels are letters, digits, '_' and '-', 255 at most; nothing is cleaned silently"
    assert problems(plan(*(f"{UID}.{n},P,S,E {n},upload" for n in range(10))))[0].count(";") == 9


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (
            "Study UID,Project,Experiment",
            (
                "the plan lacks columns: subject_label (or subject, XNAT Subject ID); "
                "found: study_uid as 'Study UID', project_id as 'Project', session_label as 'Experiment'"
            ),
        ),
        (
            "study_uid,subject,session",
            (
                "the plan lacks columns: project_id (or project); "
                "found: study_uid as 'study_uid', subject_label as 'subject', session_label as 'session'"
            ),
        ),
        (
            "project,subject,session,patient_id",
            (
                "the plan lacks columns: study_uid (or StudyInstanceUID), accession_number, "
                "or both patient_id and study_date; "
                "found: project_id as 'project', subject_label as 'subject', session_label as 'session', "
                "patient_id as 'patient_id'"
            ),
        ),
        (
            "study_uid,project,subject,session,experiment,x,x",
            (
                "the header of the plan: 'session' and 'experiment' both mean session_label; "
                "columns 6 and 7 have the same name"
            ),
        ),
    ],
)
def test_invalid_headers(header: str, told: str) -> None:
    """The error has all names of missing columns, and the columns that were found."""
    assert problems(plan(header=header))[0] == told


def test_a_missing_project_can_be_given() -> None:
    """If only the project is missing, the hint names -P."""
    assert "-P" in problems(plan(header="study_uid,subject,session"))[1]
    assert read_plan(plan(header="study_uid,subject,session"), project="P") == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "the plan is empty"),
        (b"\xef\xbb\xbf\r\n  \r\n", "the plan is empty"),
        (b"PK\x03\x04\x14\x00", "the file is a workbook, not a CSV file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "the file is a workbook, not a CSV file"),
        (b"study_uid\x81\xff", "the file is not text in utf-8"),
        ("study_uid,Müller".encode("cp1252"), "the file is not text in utf-8"),
        (b"\xff\xfea", "the file is not text in utf-16"),
        (b"\xef\xbb\xbf\xff", "the file is not text in utf-8-sig"),
        (plan(f'{UID},P,S,E,"upload', "", "x"), "the plan cannot be read from line 2 on: unexpected end of data"),
        (
            plan(header=f'"{"x" * 200_000}'),
            "the plan cannot be read from line 1 on: field larger than field limit (131072)",
        ),
        (plan("", f'{UID},P,S,E,"up"load', "x"), "the plan cannot be read from line 3 on: ',' expected after '\"'"),
    ],
)
def test_files_that_are_not_plans(data: bytes, told: str) -> None:
    """A file that is not a table is a usage error."""
    assert problems(data)[0] == told


SNIPPETS = st.text("0129.,;\t\"'\r\n=E+-Pa ")


@given(st.binary() | SNIPPETS.map(str.encode) | SNIPPETS.map(plan))
def test_any_file_is_a_plan_or_an_error(data: bytes) -> None:
    """Any file is a plan or a usage error."""
    rows: list[PlanRow] = []
    with suppress(UsageError):
        rows = read_plan(data)
    assert read_plan(write_plan(rows).encode()) == rows


WORD = "Planted"
XDC = "Study UID,Study Date,Patient Name,Patient ID,XNAT Subject ID,Session Label,DOB,action"


@pytest.mark.parametrize(
    "data",
    [
        plan(*(",".join(cells) for cells in itertools.permutations([UID, WORD, "Planted^Patient", "1933-04-21"], 4))),
        plan(f"{UID},{WORD},{WORD},{WORD},S é,E,{WORD},{WORD}", f"{WORD},,{WORD},{WORD},{WORD}é,,{WORD},", header=XDC),
        plan(f"{UID},,{WORD},{WORD},S,E,,upload", f"{UID},,{WORD},,{WORD},F,,skip", header=XDC),
        plan(f"{UID},,{WORD},{WORD},S,E,,upload,{WORD},{WORD}", header=XDC),
        plan(f"{WORD},{WORD},é{WORD}", header="PatientID,StudyDate,Subject,Session"),
        plan(f"{WORD},{WORD},{WORD},{WORD}", header=f"{UID},{WORD},{WORD},{WORD}^X"),
        plan(f"{WORD},{WORD},{WORD},{WORD}", header=f"{HEADER},{WORD},{WORD}"),
        plan(f'{UID},"{WORD}"{WORD}'),
        plan(f'{UID},"{WORD}'),
        plan(f"{UID},{'Planted^' * 40},{WORD * 40},S,upload"),
    ],
)
def test_no_error_shows_a_patient(data: bytes) -> None:
    """A message shows at most one character of a label."""
    text = " ".join(problems(data, project="P")).casefold()
    assert [word for word in ("planted", "patient^", "1933") if word in text] == []
    assert UID not in text


# Parts


def sized(*sizes: tuple[str, int]) -> list[PlanRow]:
    """Make rows of subjects and sizes."""
    return [PlanRow(f"{UID}.{n}", "P", subject, f"E{n}", bytes=size) for n, (subject, size) in enumerate(sizes)]


def test_split() -> None:
    """Parts have about equal size, whole subjects, and the order of the plan."""
    rows = sized(("A", 3), ("B", 5), ("A", 3), ("C", 4), ("D", 1))
    parts = split(rows, 2)
    assert [[row.subject_label for row in part] for part in parts] == [["A", "A", "D"], ["B", "C"]]


def test_split_without_sizes() -> None:
    """Without sizes, sessions are counted; skipped rows have no weight."""
    rows = [replace(row, bytes=None) for row in sized(*((subject, 0) for subject in "AABCDD"))]
    assert [len(part) for part in split(rows, 3)] == [2, 2, 2]
    skipped = [*sized(("A", 10), ("B", 9), ("C", 1)), replace(ROW, subject_label="D", bytes=100, skip=True)]
    assert [[row.subject_label for row in part] for part in split(skipped, 2)] == [["A", "D"], ["B", "C"]]


def test_split_keeps_a_subject_together_whatever_its_case() -> None:
    """Subjects that differ only in case stay in one part, because XNAT merges them."""
    rows = [
        PlanRow(f"1.2.{number}", "P", label, f"E{number}", bytes=10, patient_id=patient)
        for number, (label, patient) in enumerate([("S1", "A"), ("s1", "B"), ("S2", "C"), ("S3", "C"), ("s4", "D")])
    ]
    parts = [{row.subject_label for row in part} for part in split(rows, 4)]
    assert sorted(map(sorted, filter(None, parts))) == [["S1", "s1"], ["S2", "S3"], ["s4"]]


def test_split_ignores_a_patient_id_of_many_subjects() -> None:
    """A PatientID of very many subjects keeps nothing together."""
    rows = [PlanRow(f"1.2.{number}", "P", f"S{number}", f"E{number}", patient_id="ANON") for number in range(20)]
    assert [len(part) for part in split(rows, 2)] == [10, 10]


def test_split_into_more_parts_than_subjects() -> None:
    """Some parts may be empty."""
    assert split(sized(("A", 1), ("A", 2)), 3) == [sized(("A", 1), ("A", 2)), [], []]
    with pytest.raises(UsageError, match="into 0 parts"):
        split([], 0)


@given(st.lists(st.tuples(st.sampled_from("ABCDEFGH"), st.integers(0, 100))), st.integers(1, 5))
def test_split_loses_nothing_and_keeps_subjects_whole(sizes: list[tuple[str, int]], n: int) -> None:
    """Each row and subject is in one part, sizes are balanced, and the order of rows does not matter."""
    rows = sized(*sizes)
    parts = split(rows, n)
    assert len(parts) == n
    assert sorted(itertools.chain(*parts), key=rows.index) == rows
    homes = {(row.subject_label, number) for number, part in enumerate(parts) for row in part}
    assert len(homes) == len({row.subject_label for row in rows})
    loads = [sum(row.bytes or 0 for row in part) for part in parts]
    heaviest = max((sum(size for name, size in sizes if name == subject) for subject, _ in sizes), default=0)
    assert max(loads) - min(loads) <= heaviest
    again = split(rows[::-1], n)
    assert [set(targets(part)) for part in again] == [set(targets(part)) for part in parts]
