"""Lookup tables: keys, values, delimiters, and errors by line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import UnroutableError

FIELDS = frozenset({"PatientID", "StudyDate", "site"})


def table(text: str) -> LookupTable:
    """Parse a table for two fields of the study and one of the path."""
    return LookupTable.parse(text, FIELDS)


@pytest.mark.parametrize(
    "text",
    [
        "PatientID,subject_label,arm\n4711,S1,A\n",
        "PatientID;subject_label;arm\r\n4711;S1;A\r\n",
        "PatientID\tsubject_label\tarm\n4711\tS1\tA",
        "\ufeffPatientID,subject_label,arm\n4711,S1,A\n",
        "arm,PatientID,subject_label\nA,4711,S1\n",
        '"PatientID","subject_label","arm"\n"4711","S1","A"\n',
        "\n PatientID , subject_label , arm \n\n 4711 , S1 , A \n , , \n",
        "PatientID,subject_label,arm,,\n4711,S1,A,,\n",
        "PatientID,subject_label,arm\n4711,S1,A\n4711,S1,A\n",
    ],
)
def test_forms(text: str) -> None:
    """Delimiter, order of columns, byte order mark, quotes, blanks, blank and repeated lines do not matter."""
    assert table(text).find({"PatientID": " 4711 "}) == {"subject_label": "S1", "arm": "A"}
    assert table(text).fingerprint == table("PatientID,arm,subject_label\n4711,A,S1\n").fingerprint


def test_delimiter_in_quotes() -> None:
    """Quoted text does not decide the delimiter, and may have line breaks."""
    parsed = table('PatientID;"a,b,c"\n1;"x\ny"\n')
    assert parsed.find({"PatientID": "1"}) == {"a,b,c": "x\ny"}


def test_several_keys() -> None:
    """All columns named like fields of the study or the path are the key."""
    parsed = table("site,PatientID,StudyDate,visit\nA,1,20000101,v1\nA,1,20010101,v2\nB,1,20000101,v3\n")
    assert parsed.keys == ("site", "PatientID", "StudyDate")
    assert parsed.find({"PatientID": "1", "StudyDate": "20010101", "site": "A"}) == {"visit": "v2"}
    assert parsed.find({"PatientID": "1", "StudyDate": "20000101", "site": "B"}) == {"visit": "v3"}


@pytest.mark.parametrize("fields", [{}, {"PatientID": "2"}, {"PatientID": "01"}, {"PatientID": ""}, {"site": "1"}])
def test_not_in_the_table(fields: dict[str, str]) -> None:
    """A file that the table lacks is not routed; a table with only keys selects files."""
    parsed = table("PatientID\n1\n")
    assert parsed.find({"PatientID": "1"}) == {}
    with pytest.raises(UnroutableError, match=r"^its PatientID is not in --label-map$"):
        parsed.find(fields)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("project_id,subject_label,session_label", ("project_id", "subject_label", "session_label")),
        ("session,subject,project", ("project", "subject", "session")),
        ("arm", (None, None, None)),
    ],
)
def test_columns_of_labels(columns: str, expected: tuple[str | None, ...]) -> None:
    """Label columns have XNAT's long names or short ones."""
    parsed = table(f"PatientID,{columns}\n1{',x' * (columns.count(',') + 1)}\n")
    assert tuple(parsed.column(label) for label in ("project", "subject", "session")) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--label-map, line 1: no column is named like a field"),
        ("\n \n", "--label-map, line 1: no column is named like a field"),
        ("SECRET,S1\n4712,S2\n", "--label-map, line 1: no column is named like a field"),
        ("\nsubject,arm\n", "--label-map, line 2: no column is named like a field"),
        ("PatientID|arm\n1|A\n", "--label-map, line 1: no column is named like a field"),
        ("PatientID,subject\n", "--label-map: no line below the header"),
        ("PatientID,arm,arm\n1,A,B\n", "--label-map, line 1: columns 2 and 3 have the same name"),
        ("PatientID,PatientID\n1,1\n", "--label-map, line 1: columns 1 and 2 have the same name"),
        ("patient id,subject\n1,A\n", "--label-map, line 1: the name of column 1 is not exactly PatientID"),
        ("PatientID,Study_Date\n1,A\n", "--label-map, line 1: the name of column 2 is not exactly StudyDate"),
        ("PatientID,Subject Label\n1,A\n", "--label-map, line 1: the name of column 2 is not exactly subject_label"),
        ("PatientID,Modality\n1,A\n", "--label-map, line 1: a column cannot be named Modality"),
        ("PatientID,StudyIndex\n1,A\n", "--label-map, line 1: a column cannot be named StudyIndex"),
        ("PatientID,project,project_id\n1,A,B\n", "--label-map, line 1: project_id and project mean the same"),
        ("PatientID,arm\n1,A\n2\n", "--label-map, line 3: 1 column(s) instead of 2"),
        ("PatientID,arm\n1,A,SECRET\n", "--label-map, line 2: 3 column(s) instead of 2"),
        ("PatientID,arm,\n1,A,SECRET\n", "--label-map, line 2: a value in a column without a name"),
        ("PatientID,arm\n\n,SECRET\n", "--label-map, line 3: no PatientID"),
        (
            "PatientID,arm\nSECRET,A\n2,B\nSECRET,B\n",
            "--label-map, line 4: the same PatientID as line 2, but other values",
        ),
        (
            "PatientID,StudyDate,arm\n1,2,A\n1,2,B\n",
            "--label-map, line 3: the same PatientID and StudyDate as line 2, but other values",
        ),
        ('PatientID,arm\n1,"x\ny"\n1,B\n', "--label-map, line 4: the same PatientID as line 2, but other values"),
        ('PatientID,arm\n1,"SECRET\n', "--label-map, line 2: not CSV: "),
        ('PatientID,arm\n1,"SECRET"x\n', "--label-map, line 2: not CSV: "),
    ],
)
def test_mistakes(text: str, words: str) -> None:
    """Errors have their line, and no values."""
    with pytest.raises(UsageError) as caught:
        table(text)
    assert str(caught.value).startswith(words)
    assert "SECRET" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("cell", ["1.2E+15", "1,2E+15", "1E+15", "1.23457e+08", "5E-324", "-1.E+10"])
def test_shortened_numbers(cell: str) -> None:
    """A key that a spreadsheet has shortened is an error."""
    with pytest.raises(UsageError, match="line 3: the PatientID looks like a large number that a spreadsheet"):
        table(f"arm;PatientID\nA;1\nB;{cell}\n")


@pytest.mark.parametrize("cell", ["12E4", "1.2.840", "E+1", "1.5", "0012", "a1E+5"])
def test_identifiers_like_shortened_numbers(cell: str) -> None:
    """Identifiers may have an E between digits; spreadsheets write a sign after it."""
    assert table(f"PatientID,x\n{cell},1.2E+15\n").find({"PatientID": cell}) == {"x": "1.2E+15"}


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(str.strip)


@given(st.dictionaries(st.integers().map(str), st.tuples(CELL, CELL)).filter(bool), st.sampled_from(",;\t"))
def test_every_key_finds_its_values(rows: dict[str, tuple[str, str]], delimiter: str) -> None:
    """Every key finds its values."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["PatientID", "a", "b"])
    writer.writerows([key, *row] for key, row in rows.items())
    parsed = table(file.getvalue())
    for key, (a, b) in rows.items():
        assert parsed.find({"PatientID": key}) == {"a": a, "b": b}
