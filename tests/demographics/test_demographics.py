"""Demographics: tables are checked cell by cell, headers are checked, and no message shows a value."""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.demographics.comparison import Difference, compute_changes, missing_values, same_value
from asyncimport.demographics.fields import FIELDS, NULL, Kind
from asyncimport.demographics.headers import agreed_values, header_keywords, header_values
from asyncimport.demographics.table import Demographics, fill_gaps, read_subjects
from asyncimport.errors import UsageError
from asyncimport.model.csv_table import TableIssue, escape_cell

TODAY = date(2026, 1, 31)


def read(text: str, *, project: str = "P", null_clears: bool = False) -> tuple[list[Demographics], list[TableIssue]]:
    """Read a table as of a certain day."""
    return read_subjects(text.encode(), project=project, null_clears=null_clears, today=TODAY)


def one_value(column: str, cell: str) -> str | TableIssue:
    """Return the value of one cell, or its issue."""
    rows, issues = read(f"subject_label\t{column}\nS1\t{cell}\n")
    return issues[0] if issues else rows[0].values[FIELDS[column].name]


def told(fields: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Return the values of one header, as of a certain day."""
    return agreed_values({name: [value] for name, value in header_values(fields, wanted, today=TODAY).items()}, wanted)[
        0
    ]


class TestCells:
    """One cell at a time."""

    @pytest.mark.parametrize(
        ("column", "cell", "value"),
        [
            ("gender", "FEMALE", "female"),
            ("gender", " m ", "male"),
            ("gender", "F", "female"),
            ("gender", "O", "other"),
            ("gender", "unknown", "unknown"),
            ("handedness", "R", "right"),
            ("handedness", "Ambidextrous", "ambidextrous"),
            ("dob", "1970-01-31", "1970-01-31"),
            ("dob", "19700131", "1970-01-31"),
            ("dob", "'1970-01-31", "1970-01-31"),
            ("dob", "2000-02-29", "2000-02-29"),
            ("dob", "2026-01-31", "2026-01-31"),
            ("yob", "1970", "1970"),
            ("yob", "1970.0", "1970"),
            ("age", "0", "0"),
            ("age", "034", "34"),
            ("education", "30", "30"),
            ("height", "70.50", "70.5"),
            ("weight", "150", "150"),
            ("weight", "0070", "70"),
            ("race", "Zoë & 日本", "Zoë & 日本"),
            ("group", "'=control", "=control"),
            ("educationDesc", "x" * 255, "x" * 255),
        ],
    )
    def test_taken(self, column: str, cell: str, value: str) -> None:
        """Unambiguous values are sent in XNAT's form."""
        assert one_value(column, cell) == value

    @pytest.mark.parametrize(
        ("column", "cell", "said"),
        [
            ("gender", "xyz", "not one of its words"),
            ("gender", "mail", "not one of its words"),
            ("handedness", "both", "not one of its words"),
            ("dob", "31/01/1970", "not a date"),
            ("dob", "01/02/1970", "not a date"),
            ("dob", "31.01.1970", "not a date"),
            ("dob", "1970-1-31", "not a date"),
            ("dob", "1970", "not a date"),
            ("dob", "196912", "not a date"),
            ("dob", "1970-02-30", "not a valid birth date"),
            ("dob", "19701301", "not a valid birth date"),
            ("dob", "2001-02-29", "not a valid birth date"),
            ("dob", "2026-02-01", "not a valid birth date"),
            ("dob", "1776-07-04", "not a valid birth date"),
            ("yob", "70", "out of bounds"),
            ("yob", "2027", "out of bounds"),
            ("age", "34Y", "not a whole number"),
            ("age", "34.5", "not a whole number"),
            ("age", "-1", "not a whole number"),
            ("age", "131", "out of bounds"),
            ("age", "³4", "not a whole number"),
            ("education", "31", "out of bounds"),
            ("height", "70,5", "a decimal comma, which XNAT does not read"),
            ("height", "1.78 m", "not a number"),
            ("height", "1e2", "not a number"),
            ("weight", "nan", "not a number"),
            ("weight", "0", "out of bounds"),
            ("race", "x" * 256, "256 characters"),
            ("race", "a &amp; b", "a character reference"),
            ("race", "a &#38; b", "a character reference"),
            ("race", '"two\nlines"', "the character '\\n' (U+000A)"),
            ("gender", "NULL", "the word NULL"),
            ("race", "null", "the word NULL"),
        ],
    )
    def test_refused(self, column: str, cell: str, said: str) -> None:
        """A value that XNAT would refuse or misunderstand is an issue with its place."""
        issue = one_value(column, cell)
        assert isinstance(issue, TableIssue)
        assert (issue.line, issue.column) == (2, column)
        assert issue.text.startswith(said)
        assert issue.hint

    @pytest.mark.parametrize("cell", ["", "  ", "n/a", "N/A"])
    def test_unknown(self, cell: str) -> None:
        """An empty cell, or BIDS's `n/a`, does not change the field."""
        rows, issues = read(f"participant_id,sex,age\nS1,{cell},34\n")
        assert issues == []
        assert rows == [Demographics("S1", {"age": "34"}, "P")]

    def test_null_when_asked(self) -> None:
        """NULL clears the field only if asked to."""
        rows, issues = read("subject,race,age\nS1,null,NULL\n", null_clears=True)
        assert issues == []
        assert rows[0].values == {"race": NULL, "age": NULL}
        assert read("subject,gender\nNull,f\n", null_clears=True)[1][0].text == "the word NULL"

    @given(st.sampled_from(sorted(FIELDS)), st.data())
    def test_round_trip(self, name: str, data: st.DataObject) -> None:
        """Values survive writing and reading, with an apostrophe if a spreadsheet would change them."""
        one = FIELDS[name]
        values: Mapping[Kind, st.SearchStrategy[str]] = {
            Kind.WORD: st.sampled_from(sorted(set(one.words.values()))),
            Kind.DATE: st.dates(date(1850, 1, 1), TODAY).map(date.isoformat),
            Kind.INTEGER: st.integers(int(one.lowest), min(int(one.highest), TODAY.year)).map(str),
            Kind.FLOAT: st.integers(int(one.lowest) + 1, int(one.highest)).map(lambda number: f"{number}"),
            Kind.TEXT: st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=255),
        }
        value = data.draw(values[one.kind])
        # An apostrophe of its own stays, unless what follows it is what a spreadsheet changes.
        cell = escape_cell(value).replace('"', '""')
        rows, issues = read(f'subject_label,{name}\nS1,"{cell}"\n')
        if value.upper() == NULL or html.unescape(value) != value:
            assert [issue.line for issue in issues] == [2]
        else:
            assert issues == []
            assert rows[0].values == ({name: value} if value.casefold() != "n/a" else {})

    @given(st.sampled_from(sorted(FIELDS)), st.text(max_size=40))
    def test_any_text(self, name: str, text: str) -> None:
        """Any cell gives a row or an issue, or the table is refused."""
        cell = text.replace('"', '""')
        try:
            data = f'subject_label,{name}\nS1,"{cell}"\n'.encode("utf-8", "surrogatepass")
            rows, issues = read_subjects(data, project="P", today=TODAY)
        except UsageError:
            return
        assert bool(rows) != bool(issues)

    @given(st.sampled_from([*sorted(FIELDS), "subject"]), st.text("日本語中", min_size=2, max_size=300))
    def test_no_issue_shows_a_value(self, name: str, text: str) -> None:
        """An issue shows at most one character of a cell."""
        _, issues = read(f"subject,{name}\n{text},{text}\n" if name != "subject" else f"subject,sex\n{text},f\n")
        assert issues
        for issue in issues:
            assert sum(one in "日本語中" for one in f"{issue}") <= 1


class TestTables:
    """A whole table."""

    def test_invalid_rows_keep_no_others_back(self) -> None:
        """Each issue has its line, and a row may have several."""
        rows, issues = read(
            "Subject;Sex;Birth Date;Age;Weight\r\n"
            "S1;F;1970-01-31;;150\r\n"
            "S2;xyz;31/01/1970;;70,5\r\n"
            "\r\n"
            "S3;M;;40;\r\n"
            ";M;;;\r\n"
            "S 4;M;;;\r\n"
            "S5;M;;;;9\r\n"
        )
        assert [row.subject for row in rows] == ["S1", "S3"]
        assert rows[0].values == {"gender": "female", "dob": "1970-01-31", "weight": "150"}
        assert [(issue.line, issue.column) for issue in issues] == [
            (3, "Sex"),
            (3, "Birth Date"),
            (3, "Weight"),
            (6, "Subject"),
            (7, "Subject"),
            (8, ""),
        ]

    def test_projects(self) -> None:
        """A column of projects comes before -P, which fills its gaps."""
        rows, issues = read("project,subject,gender\nQ,S1,f\n,S1,m\nQ R,S2,m\n")
        assert [(row.project, row.subject) for row in rows] == [("Q", "S1"), ("P", "S1")]
        assert [(issue.line, issue.column) for issue in issues] == [(4, "project")]

    def test_twice(self) -> None:
        """Two equal rows of a subject count as one; two different ones are issues."""
        rows, issues = read("subject,gender\nS1,f\nS1,F\nS2,f\nS2,m\nS2,f\nS3,m\n")
        assert [row.subject for row in rows] == ["S1", "S3"]
        assert [(issue.line, issue.text) for issue in issues] == [(5, "the subject of line 4 again")]

    def test_letter_case(self) -> None:
        """Subjects that differ only in case are one subject."""
        rows, issues = read("subject,gender\nsub1,f\nSUB1,f\n")
        assert rows == []
        assert len(issues) == 1

    @pytest.mark.parametrize("births", ["1970-01-31,1970,", ",1970,55", "1970-01-31,,55"])
    def test_one_birth(self, births: str) -> None:
        """XNAT keeps one of dob, yob and age."""
        rows, (issue,) = read(f"subject,dob,yob,age\nS1,{births}\n")
        assert rows == []
        assert issue.text == "more than one"

    def test_unknown_columns(self) -> None:
        """An unknown column is a warning, because XNAT would ignore it; its row is sent."""
        rows, issues = read("subject,gender,handednes,notes,notes\nS1,f,left,x,y\n")
        assert rows[0].values == {"gender": "female"}
        assert [(issue.line, issue.column, issue.is_warning) for issue in issues] == [
            (1, "handednes", True),
            (1, "notes", True),
        ]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "no column of subjects"),
            ("Jane^Doe,f,1970-01-31\n", "no column of subjects"),
            ("subject,colour\nS1,red\n", "no column for a field of XNAT"),
            ("subject,sex,gender\nS1,m,f\n", "'sex' and 'gender' both mean gender"),
            ('subject,sex\nS1,"m\n', "the table cannot be read from line 2 on"),
        ],
    )
    def test_no_table(self, text: str, said: str) -> None:
        """Without a valid header nothing is sent, and no value is shown."""
        with pytest.raises(UsageError, match=said) as caught:
            read(text)
        assert "Jane" not in f"{caught.value} {caught.value.hint}"

    def test_no_project(self) -> None:
        """A table without projects needs -P."""
        with pytest.raises(UsageError, match="names no project"):
            read("subject,sex\nS1,m\n", project="")

    def test_as_spreadsheets_save_it(self) -> None:
        """UTF-16 with tabs, a byte order mark, a separator line, and a named Windows encoding are read."""
        text = "subject\trace\nS1\tZoë\n"
        for data, encoding in (
            (text.encode("utf-16"), ""),
            (text.encode("utf-8-sig"), "cp1252"),
            (text.encode("cp1252"), "cp1252"),
            (text.encode("utf-16-le"), "utf-16-le"),
            (b"sep=\t\n" + text.encode(), ""),
        ):
            rows, issues = read_subjects(data, project="P", encoding=encoding, today=TODAY)
            assert (issues, rows[0].values) == ([], {"race": "Zoë"})

    @pytest.mark.parametrize(
        ("data", "encoding", "said"),
        [
            ("subject,race\nS1,łódź\n".encode("cp1250"), "", "not text in utf-8"),
            ("subject,race\nS1,x\n".encode("utf-16-le"), "", "not text in utf-8"),
            (b"subject,race\nS1,x\n", "klingon", "invalid --encoding 'klingon'"),
            (b"subject,race\nS1,x\n", "rot13", "invalid --encoding 'rot13'"),
        ],
    )
    def test_no_encoding_is_guessed(self, data: bytes, encoding: str, said: str) -> None:
        """An encoding other than UTF-8 must be named."""
        with pytest.raises(UsageError, match=said) as caught:
            read_subjects(data, project="P", encoding=encoding, today=TODAY)
        assert caught.value.hint

    @pytest.mark.parametrize("other", ["H", "w", "Ж"])
    def test_the_initials_of_another_language(self, other: str) -> None:
        """Beside H (hombre), M is female (mujer): initials are accepted only if all are English."""
        rows, issues = read(f"subject,gender,hand\nS1,M,L\nS2,{other},R\nS3,female,R\nS4,,L\nS5,F,\n")
        assert [row.subject for row in rows] == ["S3", "S4"]
        assert [(issue.line, issue.column) for issue in issues] == [(2, "gender"), (3, "gender"), (6, "gender")]
        rows, _ = read("subject,gender\nS1,M\nS2,xyz\nS3,U\n")
        assert [row.subject for row in rows] == ["S1", "S3"]

    def test_paths_and_custom_fields_are_no_columns(self) -> None:
        """Paths and custom fields are not sent: XNAT would stop reading at an unknown path."""
        paths = [
            "xnat:subjectData/demographics[@xsi:type=xnat:demographicData]/gender",
            "xnat:subjectData/fields/field[name=site]/field",
            "fields/field[name=x]/field",
        ]
        rows, issues = read(f"subject,age,{','.join(paths)}\nS1,34,male,x,y\n")
        assert [row.values for row in rows] == [{"age": "34"}]
        assert [(issue.column, issue.is_warning) for issue in issues] == [(path, True) for path in paths]

    def test_no_repr_shows_a_value(self) -> None:
        """No repr shows a value."""
        row = Demographics("S1", {"race": "planted"}, "P")
        assert "planted" not in repr(row)
        assert "planted" not in repr(Difference("race", "planted", "planted"))
        assert "planted" not in repr(compute_changes(row.values, {"race": "planted too"}, overwrite=True))


def test_the_columns_of_the_docs_are_the_live_ones() -> None:
    """The table in docs/demographics.md names every field with all its other names, and the attribute that fills it."""
    page = (Path(__file__).parent.parent.parent / "docs" / "demographics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|.*?\|(.*)\|$", page, re.MULTILINE)
    told = {name: (tuple(re.findall(r"`(\w+)`", also)), keyword.split(",")[0].strip()) for name, also, keyword in rows}
    assert told == {one.name: (one.aliases, one.keyword) for one in FIELDS.values()}


class TestHeaders:
    """Values of headers."""

    @pytest.mark.parametrize(
        ("wanted", "keyword", "text", "value"),
        [
            ("gender", "PatientSex", "M", "male"),
            ("gender", "PatientSex", "f", "female"),
            ("gender", "PatientSex", "O", "other"),
            ("gender", "PatientSex", "U", None),
            ("gender", "PatientSex", "M\\F", None),
            ("dob", "PatientBirthDate", "19700131", "1970-01-31"),
            ("yob", "PatientBirthDate", "19700131", "1970"),
            ("dob", "PatientBirthDate", "1970", None),
            ("dob", "PatientBirthDate", "1970-01-31", None),
            ("dob", "PatientBirthDate", "19000101", None),
            ("yob", "PatientBirthDate", "19000101", None),
            ("dob", "PatientBirthDate", "18000101", None),
            ("dob", "PatientBirthDate", "20260201", None),
            ("dob", "PatientBirthDate", "19700230", None),
            ("age", "PatientAge", "034Y", "34"),
            ("age", "PatientAge", "018M", None),
            ("age", "PatientAge", "000Y", None),
            ("age", "PatientAge", "999Y", None),
            ("height", "PatientSize", "1.78", "70.1"),
            ("height", "PatientSize", "178", None),
            ("height", "PatientSize", "0", None),
            ("weight", "PatientWeight", "70", "154.3"),
            ("weight", "PatientWeight", "0.0000", None),
            ("weight", "PatientWeight", "1e2", None),
            ("ethnicity", "EthnicGroup", "B", "B"),
            ("ethnicity", "EthnicGroup", "Null", None),
            ("ethnicity", "EthnicGroup", "A&B", "A&B"),
            ("ethnicity", "EthnicGroup", "A &amp; B", None),
        ],
    )
    def test_one(self, wanted: str, keyword: str, text: str, value: str | None) -> None:
        """Valid values are in XNAT's units; partial and impossible ones are left out."""
        found = told({keyword: text, "PatientName": "x"}, [wanted])
        assert found == ({} if value is None else {wanted: value})
        assert header_keywords([wanted]) == {keyword}

    def test_one_birth(self) -> None:
        """Of dob, yob and age, the first with a value counts."""
        fields = {"PatientBirthDate": "1970", "PatientAge": "055Y"}
        assert told(fields, ["dob", "age"]) == {"age": "55"}
        fields["PatientBirthDate"] = "19700131"
        assert told(fields, ["age", "dob", "yob"]) == {"age": "55"}
        assert told(fields, ["yob", "age"]) == {"yob": "1970"}

    def test_several_headers(self) -> None:
        """One different header makes a contradiction; dob, yob and age count as one field."""
        wanted = ["gender", "dob", "age", "weight"]
        said = {"gender": ["male", "female", "female"], "dob": ["1970-01-31"], "age": ["55"], "weight": []}
        assert agreed_values(said, wanted) == ({"dob": "1970-01-31"}, ("gender",))
        assert agreed_values({**said, "dob": ["1970-01-31", "1970-01-30"]}, wanted) == ({}, ("gender", "dob"))
        assert agreed_values({**said, "age": ["55", "56"]}, wanted) == ({}, ("gender", "age"))
        assert agreed_values({"yob": ["1970"], "dob": ["1970-01-31"]}, ["yob", "dob"]) == ({"yob": "1970"}, ())

    def test_fields_that_headers_do_not_have(self) -> None:
        """A field that headers do not have is an error."""
        for ask in (header_keywords, lambda wanted: told({}, wanted)):
            with pytest.raises(UsageError, match="headers do not have handedness, shoe_size"):
                ask(["sex", "handedness", "shoe_size"])

    def test_headers_fill_gaps_only(self) -> None:
        """Values of the table stay, and its dob excludes an age."""
        given = Demographics("S1", {"dob": "1970-01-31", "gender": "female"}, "P")
        assert fill_gaps(given, {"gender": "male", "age": "55", "weight": "154.3"}).values == {
            "dob": "1970-01-31",
            "gender": "female",
            "weight": "154.3",
        }


class TestComparison:
    """Values compared with those in XNAT."""

    @pytest.mark.parametrize(
        ("name", "ours", "theirs", "are_same"),
        [
            ("weight", "70", "70.0", True),
            ("weight", "70.55", "70.55000305175781", True),
            ("weight", "70", "71", False),
            ("weight", "70", "much", False),
            ("age", "34", "34", True),
            ("gender", "male", "M", True),
            ("gender", "female", "Female", True),
            ("gender", "female", "male", False),
            ("dob", "1970-01-31", "1970-01-31 00:00:00.0", True),
            ("dob", "1970-01-31", "1970-01-30", False),
            ("race", "a & b", "a &amp; b", True),
            ("race", "a &amp; b", "a &amp; b", False),
            ("race", "a", "A", False),
            ("race", "", "a", False),
            ("race", NULL, "", True),
            ("race", NULL, "a", False),
        ],
    )
    def test_same(self, name: str, ours: str, theirs: str, are_same: bool) -> None:
        """Values are compared by their meaning."""
        assert same_value(name, ours, theirs) is are_same

    def test_existing_values_are_kept(self) -> None:
        """Existing values are kept without --overwrite; missing ones are written in any case."""
        given, existing = {"gender": "female", "age": "34", "race": "x"}, {"gender": "M", "race": "x"}
        kept = compute_changes(given, existing, overwrite=False)
        assert (kept.written, kept.unchanged, [one.name for one in kept.kept]) == (("age",), ("race",), ["gender"])
        replaced = compute_changes(given, existing, overwrite=True)
        assert replaced.write == {"gender": "female", "age": "34"}
        assert replaced.replaced == (Difference("gender", "female", "M"),)

    def test_another_birth_is_another_value(self) -> None:
        """A dob is not written beside a yob in XNAT, or replaces it."""
        kept = compute_changes({"dob": "1970-01-31"}, {"yob": "1970"}, overwrite=False)
        assert (kept.write, kept.kept) == ({}, (Difference("dob", "1970-01-31", "1970", "yob"),))
        replaced = compute_changes({"dob": "1970-01-31"}, {"yob": "1970"}, overwrite=True)
        assert replaced.write == {"dob": "1970-01-31", "yob": NULL}
        assert replaced.written == ("dob",)

    @given(
        st.dictionaries(st.sampled_from(["gender", "dob", "race"]), st.sampled_from(["a", "b", NULL])),
        st.dictionaries(st.sampled_from(["gender", "yob", "race", "src"]), st.sampled_from(["a", "b"])),
        st.booleans(),
    )
    def test_a_second_time_there_is_nothing_to_write(
        self, given_values: dict[str, str], existing: dict[str, str], overwrite: bool
    ) -> None:
        """A second time, there is nothing to write."""
        first = compute_changes(given_values, existing, overwrite=overwrite)
        now = {name: value for name, value in {**existing, **first.write}.items() if value != NULL}
        assert missing_values(first.write, now) == ()
        assert compute_changes(given_values, now, overwrite=overwrite).write == {}
        assert now.get("src") == existing.get("src")
        if not overwrite:
            assert all(now.get(name) == value for name, value in existing.items())
