"""The resource and name of attachments, and tables of attachments. No disk, no server."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.attachments import ResourceOwner
from asyncimport.model.csv_table import TableIssue
from asyncimport.routing.attachment_file import AttachRow, read_attachments
from asyncimport.routing.attachments import AttachRule, check_resource, name_in_resource, name_problem, resource_of


def read(text: str, *, project: str = "P", resource: str = "R") -> tuple[list[AttachRow], list[TableIssue]]:
    """Read a table."""
    return read_attachments(text.encode(), project=project, resource=resource)


def only_flaw(text: str, **defaults: str) -> tuple[int, str, str]:
    """Return line, column and text of the only issue of a table without rows."""
    rows, issues = read(text, **defaults)
    assert rows == []
    (issue,) = issues
    assert issue.hint
    assert not issue.is_warning
    return issue.line, issue.column, issue.text


class TestRules:
    """PATTERN=RESOURCE."""

    @pytest.mark.parametrize(
        ("text", "path", "matches"),
        [
            ("*.pdf=R", "a.pdf", True),
            ("*.pdf=R", "visit/deep/A.PDF", True),
            ("*.PDF=R", "a.pdf", True),
            ("*.pdf=R", "a.pdf.bak", False),
            ("*.pdf=R", "a.pdf/b.csv", False),
            ("report?.pdf=R", "x/report1.pdf", True),
            ("report?.pdf=R", "x/report.pdf", False),
            ("[ab]*=R", "Bc", True),
            # With a slash it is the path below the source, whose `/` a star passes.
            ("reports/*=R", "reports/deep/a.pdf", True),
            ("reports/*=R", "visit/reports/a.pdf", False),
            ("*/reports/*=R", "visit/Reports/a.pdf", True),
            # The last equals sign divides, so that patterns may have some.
            ("a=b*=R", "a=b1.txt", True),
            ("*=R", "\udcff.pdf", True),
            ("*=R", "two\nlines", True),
        ],
    )
    def test_match(self, text: str, path: str, matches: bool) -> None:
        """A rule matches a name or a path in any case."""
        rule = AttachRule.parse(text)
        assert rule.resource == "R"
        assert rule.matches(path) is matches

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "invalid --attach"),
            ("*.pdf", "invalid --attach"),
            ("=R", "invalid --attach"),
            ("*.pdf=", "is not a label"),
            ("*.pdf=a b", "is not a label"),
            ("*.pdf=a'b", "is not a label"),
            ("*.pdf=R\n", "is not a label"),
            ("*.pdf=Ä", "is not a label"),
            ("*.pdf=a/b", "is not a label"),
            ("*.pdf=12", "the number of some resource"),
        ],
    )
    def test_bad_texts(self, text: str, reason: str) -> None:
        """Invalid rules are usage errors with a hint."""
        with pytest.raises(UsageError, match=reason) as caught:
            AttachRule.parse(text)
        assert "--attach" in str(caught.value)
        assert caught.value.hint

    def test_the_first_rule_wins(self) -> None:
        """The first matching rule decides; other files are not attached."""
        rules = [AttachRule.parse(text) for text in ("final*.pdf=FINAL", "*.pdf=REPORTS", "*.csv=DATA")]
        found = {path: resource_of(rules, path) for path in ("final1.pdf", "a.pdf", "v/b.CSV", "c.txt")}
        assert found == {"final1.pdf": "FINAL", "a.pdf": "REPORTS", "v/b.CSV": "DATA", "c.txt": None}
        assert resource_of([], "a.pdf") is None

    @pytest.mark.parametrize("label", ["R", "1a", "a-b_c", "2024-01"])
    def test_labels(self, label: str) -> None:
        """Labels have the characters that XNAT does not change."""
        check_resource(label, "--resource")

    @pytest.mark.parametrize("label", ["", " ", "a.b", "7", "007", "a\x00"])
    def test_labels_that_xnat_reads_as_something_else(self, label: str) -> None:
        """XNAT takes a number for the key of any resource."""
        with pytest.raises(UsageError, match="--resource"):
            check_resource(label, "--resource")


class TestNames:
    """The path in the resource."""

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("a.pdf", "a.pdf"),
            ("in/side/a-b_c.1.pdf", "in/side/a-b_c.1.pdf"),
            ("Übersicht für Zoë.pdf", "Ubersicht_fur_Zoe.pdf"),
            ("U\u0308ber.pdf", "Uber.pdf"),
            ("a b%20c+d&e.pdf", "a_b_20c_d_e.pdf"),
            ("報告.pdf", "__.pdf"),
            ("\udcff\udc80.pdf", "__.pdf"),
            ("a\x00\n.pdf", "a__.pdf"),
            (".hidden", ".hidden"),
            ("../../etc/passwd", "etc/passwd"),
            ("./a//b/../c", "a/b/c"),
            ("/abs/a", "abs/a"),
            ("...", "___"),
            # Some characters come apart into dots, into a slash, or into nothing.
            ("\u2024\u2024/a", "__/a"),
            ("\u2100.pdf", "a_c.pdf"),
            ("dir/\u0301", "dir/_"),
            ("..", ""),
        ],
    )
    def test_names_in_resources(self, path: str, name: str) -> None:
        """Accents are removed, unsafe characters become `_`, and no path leads out of the resource."""
        assert name_in_resource(path) == name

    @given(st.text() | st.binary().map(os.fsdecode))
    def test_names_are_always_safe(self, path: str) -> None:
        """Any path keeps its number of parts, with safe characters, and no part has only dots."""
        name = name_in_resource(path)
        wanted = [part for part in path.split("/") if part not in {"", ".", ".."}]
        parts = name.split("/") if name else []
        assert len(parts) == len(wanted)
        for part in parts:
            assert re.fullmatch(r"[A-Za-z0-9._-]+", part)
            assert part.strip(".")
        assert name_in_resource(name) == name

    @pytest.mark.parametrize(
        ("name", "size", "reason"),
        [
            ("a.pdf", 1, None),
            ("catalog.xml", 1, None),
            ("a.pdf", 0, "it is empty"),
            ("R_catalog.xml", 1, "its own catalog"),
            ("in/R_CATALOG.XML", 1, "its own catalog"),
            ("", 1, "its path has no usable name"),
            (f"in/{'a' * 255}", 1, None),
            (f"{'a' * 256}/b", 1, "its name has more than 255 characters"),
            (name_in_resource("\ufdfa" * 60), 1, "its name has more than 255 characters"),
        ],
    )
    def test_files_that_xnat_cannot_store(self, name: str, size: int, reason: str | None) -> None:
        """Each such file has a reason."""
        said = name_problem(name, size)
        assert said is None if reason is None else said is not None and reason in said


class TestTables:
    """CSV: a path, and the owner of its resource."""

    def test_all_columns(self) -> None:
        """All columns are read."""
        text = (
            "path,project_id,subject_label,session_label,study_uid,scan,level,resource,name,format,content,tags\n"
            "a/b.pdf,P1,S1,E1,1.2.3,4,scan,REPORTS,r.pdf,PDF,report,\"x,y\"\n"
        )  # fmt: skip
        assert read(text) == (
            [
                AttachRow(
                    2,
                    "a/b.pdf",
                    ResourceOwner("P1", "S1", "E1", "1.2.3", "4"),
                    "REPORTS",
                    "r.pdf",
                    "PDF",
                    "report",
                    "x,y",
                )
            ],
            [],
        )

    def test_aliases_and_defaults(self) -> None:
        """Column names of pyxnat's scripts and of XNAT, semicolons and a byte order mark are understood."""
        text = "\ufeffFile;Experiment Label;StudyInstanceUID\na.pdf;E1;\nb.pdf;;1.2\n"
        assert read(text) == (
            [
                AttachRow(2, "a.pdf", ResourceOwner("P", "", "E1"), "R"),
                AttachRow(3, "b.pdf", ResourceOwner("P", "", "", "1.2"), "R"),
            ],
            [],
        )

    def test_apostrophes_that_spreadsheets_need(self) -> None:
        """A guarding apostrophe is removed; others stay."""
        text = "path,session,study_uid\n'-a.pdf,'0012,'1.20\n'a.pdf,E,\n"
        rows, issues = read(text)
        assert [(row.path, row.owner.session, row.owner.study_uid) for row in rows] == [
            ("-a.pdf", "0012", "1.20"),
            ("'a.pdf", "E", ""),
        ]
        assert issues == []

    @pytest.mark.parametrize(
        ("columns", "cells", "place"),
        [
            ("session", "E", ResourceOwner("P", "", "E")),
            ("session,scan", "E,1", ResourceOwner("P", "", "E", "", "1")),
            ("subject", "S", ResourceOwner("P", "S")),
            ("subject,level", "S,Subject", ResourceOwner("P", "S")),
            ("subject,session,level", "S,E,session", ResourceOwner("P", "S", "E")),
            ("study_uid,level", "1.2,session", ResourceOwner("P", "", "", "1.2")),
            ("session,scan,level", "E,1,scan", ResourceOwner("P", "", "E", "", "1")),
            ("level", "PROJECT", ResourceOwner("P")),
        ],
    )
    def test_levels(self, columns: str, cells: str, place: ResourceOwner) -> None:
        """Project, subject, session, scan."""
        rows, issues = read(f"path,{columns}\na,{cells}\n")
        assert ([row.owner for row in rows], issues) == ([place], [])

    @pytest.mark.parametrize(
        ("columns", "cells", "column", "text"),
        [
            ("path,session", ",E", "path", "is empty"),
            ("path,session", "a,", "session_label", "no owner"),
            ("path,session", "a,E 1", "session_label", "the character ' ' (U+0020)"),
            ("path,subject", "a,Ä", "subject_label", "(U+00C4)"),
            ("path,project,session", "a,P/Q,E", "project_id", "'/'"),
            ("path,session,resource", "a,E,12", "resource", "the number of some resource"),
            ("path,session,resource", "a,E,x y", "resource", "is not a label"),
            ("path,session,level", "a,E,site", "level", "is not a level"),
            ("path,session,level", "a,E,project", "level", "a file of the project"),
            ("path,scan,level", "a,1,project", "level", "a file of the project"),
            ("path,subject,scan", "a,S,1", "scan", "belongs to a session"),
            ("path,subject,session,level", "a,S,E,subject", "level", "the other columns name a session"),
            ("path,session,level", "a,E,subject", "level", "name a session"),
            ("path,session,scan,level", "a,E,1,session", "level", "is session, but the other columns name a scan"),
            ("path,session,level", "a,E,scan", "level", "is scan, but the other columns name a session"),
            ("path,subject,level", "a,S,session", "level", "name a subject"),
            ("path,subject,level", "a,S,scan", "level", "name a subject"),
            # A path with a comma and no quotes: what is before it may be the path of another file.
            ("path,session", "a, b.pdf,E", "", "3 cells, but the header names 2"),
            ("path,session,format", "a,b,E,", "", "4 cells, but the header names 3"),
        ],
    )
    def test_issues(self, columns: str, cells: str, column: str, text: str) -> None:
        """Each issue has line and column; other rows are read."""
        assert text in only_flaw(f"{columns}\n{cells}\n")[2]
        names = [*columns.split(","), *(() if "session" in columns else ("session",))]
        good = ",".join({"path": "good", "session": "E"}.get(name, "") for name in names)
        rows, issues = read(f"{','.join(names)}\n\n{cells}\n{good}\n")
        assert [row.path for row in rows] == ["good"]
        assert [(issue.line, issue.column) for issue in issues] == [(3, column)]

    @pytest.mark.parametrize(("lacking", "column"), [("project", "project_id"), ("resource", "resource")])
    def test_missing_project_and_resource(self, lacking: str, column: str) -> None:
        """Without -P and --resource the table must have them."""
        assert only_flaw("path,session\na,E\n", **{lacking: ""})[:2] == (2, column)

    def test_unknown_columns_are_warnings(self) -> None:
        """Unknown columns are warnings, and their rows are sent; columns without a name are ignored."""
        rows, issues = read("path,session,comment,\na,E,x,\nb,E,x,y\n")
        assert [row.path for row in rows] == ["a"]
        assert [(issue.line, issue.column, issue.is_warning) for issue in issues] == [
            (1, "comment", True),
            (3, "", False),
        ]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "no column path"),
            (b"session,resource\nE,R\n", "no column path"),
            (b"path,file,session\na,b,E\n", "several columns for one thing: path, file"),
            (b'path,session\n"a,E\n', "cannot be read from line 2"),
            (b"PK\x03\x04", "a workbook"),
        ],
    )
    def test_invalid_tables(self, data: bytes, reason: str) -> None:
        """Invalid tables are refused."""
        with pytest.raises(UsageError, match=reason) as caught:
            read_attachments(data)
        assert caught.value.hint

    def test_issues_show_no_cell(self) -> None:
        """Issues show at most one character of a label."""
        _, issues = read("path,session\na,Doe Jane\n")
        assert "Doe" not in f"{issues[0].text} {issues[0].hint}"
