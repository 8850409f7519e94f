"""Project and labels of a study by header, path and table."""

import re
from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model.files import Session
from asyncimport.routing.label_map import LookupTable
from asyncimport.routing.labels import UnroutableError, clean_label
from asyncimport.routing.paths import PathPattern
from asyncimport.routing.router import DEFAULT_SESSION, DEFAULT_SUBJECT, Router

KEYWORDS = frozenset({"PatientID", "PatientName", "StudyDate"})
FIELDS = {"PatientID": "4711", "PatientName": "Röntgen^Wilhelm", "StudyDate": "18951108"}


def router(subject: str = DEFAULT_SUBJECT, session: str = DEFAULT_SESSION, project: str = "P") -> Router:
    """Make a router that knows three fields."""
    return Router(project, subject, session, keywords=KEYWORDS)


def label(template: str, fields: Mapping[str, str] = FIELDS) -> str:
    """Return the session label that a template gives."""
    return router(subject="S", session=template).route("1.2.3", fields).label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4711", "4711"),
        ("A-b_9", "A-b_9"),
        ("Röntgen^W. C.", "R_ntgen_W__C_"),
        ("  padded \n", "padded"),
        ("a/../b", "a____b"),
        ("漢字", "__"),
        ("", ""),
    ],
)
def test_clean_label(text: str, expected: str) -> None:
    """Each invalid character becomes `_`, and outer blanks are removed."""
    assert clean_label(text) == expected


@given(st.text())
def test_clean_label_is_safe_and_final(text: str) -> None:
    """Any text becomes a valid label, which cleaning does not change again."""
    cleaned = clean_label(text)
    assert re.fullmatch(r"[A-Za-z0-9_-]*", cleaned)
    assert clean_label(cleaned) == cleaned


def test_defaults() -> None:
    """By default, the PatientID is the subject, and PatientID and date are the session."""
    assert router().route("1.2.3", FIELDS) == Session("P", "4711", "4711_18951108", "1.2.3")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{PatientID}", "4711"),
        ("{PatientID}{PatientID}", "47114711"),
        ("MR {PatientID}-{StudyDate} x", "MR_4711-18951108_x"),
        ("{PatientName}", "R_ntgen_Wilhelm"),
        ("{PatientID:}", "4711"),
        ("{{{PatientID}}}", "_4711_"),
        ("a.b", "a_b"),
        ("x" * 255, "x" * 255),
    ],
)
def test_templates(template: str, expected: str) -> None:
    """Fields in braces are replaced by their values, and the result is cleaned."""
    assert label(template) == expected


@pytest.mark.parametrize(
    ("template", "fields", "reason"),
    [
        ("{PatientID}_{StudyDate}", {"PatientID": "4711"}, "no StudyDate in the header"),
        ("{PatientID}_{StudyDate}", {"PatientID": "4711", "StudyDate": "  "}, "no StudyDate in the header"),
        ("{PatientID}", {}, "no PatientID in the header"),
        ("{PatientName}", {"PatientName": "^^^"}, "nothing is left of the label after cleaning"),
        ("_-{PatientName}", {"PatientName": "漢字"}, "nothing is left of the label after cleaning"),
        ("{PatientID}", {"PatientID": "x" * 256}, "the label is longer than 255 characters"),
    ],
)
def test_unroutable(template: str, fields: Mapping[str, str], reason: str) -> None:
    """A file without a usable label is not routed; the reason names fields, never values."""
    with pytest.raises(UnroutableError) as caught:
        label(template, fields)
    assert str(caught.value) == reason


def test_subject_is_routed_like_the_session() -> None:
    """A missing field of the subject's template is an error too."""
    with pytest.raises(UnroutableError, match=r"^no PatientID in the header$"):
        router(session="{StudyDate}").route("1.2.3", {"StudyDate": "18951108"})


@pytest.mark.parametrize("option", ["--subject", "--session"])
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{patientid}", "{patientid} is not a field of the study"),
        ("{Modality}", "{Modality} is not a field of the study"),
        ("{StudyIndex}", "{StudyIndex} is not a field of the study"),
        ("", "an empty label"),
        ("  ", "an empty label"),
        ("é", "nothing is left of the label after cleaning"),
        ("_", "nothing is left of the label after cleaning"),
        ("x" * 256, "the label is longer than 255 characters"),
    ],
)
def test_templates_that_no_file_could_satisfy(option: str, template: str, words: str) -> None:
    """A template that can never give a label is a usage error."""
    with pytest.raises(UsageError) as caught:
        router(**{option.removeprefix("--"): template})
    assert str(caught.value).startswith(option)
    assert words in str(caught.value)


@pytest.mark.parametrize("project", ["P", "p_1-A"])
def test_project(project: str) -> None:
    """A project ID goes into the session as it is."""
    assert router(project=project).route("1.2.3", FIELDS).project == project


@pytest.mark.parametrize(
    "project", ["", " ", "a b", "P/../Q", "Ä", "P\n", "{{P}}", "x" * 256, "a b{PatientID}", "{PatientID|'a b'}"]
)
def test_invalid_project(project: str) -> None:
    """An invalid project ID is refused."""
    with pytest.raises(UsageError, match="is not a project ID") as caught:
        router(project=project)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("session", "expected"), [("all", True), ("{{all}}", True), ("a{PatientID}", False), ("{StudyDate}", False)]
)
def test_one_session(session: str, *, expected: bool) -> None:
    """A session template without fields gives all studies one label."""
    assert router(session=session).one_session is expected


def test_rules() -> None:
    """The rules are texts that the journal can compare."""
    assert router("{PatientName}", "a {StudyDate}").rules == {
        "project": "P",
        "subject": "{PatientName}",
        "session": "a {StudyDate}",
    }


@given(st.text(min_size=1), st.text())
def test_labels_are_always_safe(patient: str, date: str) -> None:
    """Any header gives a valid label, or the file is not routed."""
    try:
        made = label("{PatientID}_{StudyDate}", {"PatientID": patient, "StudyDate": date})
    except UnroutableError:
        made = "unroutable"
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", made)
    assert made.strip("_-")


@pytest.mark.parametrize("value", ["4711", "SITE_01-a"])
def test_project_by_a_template(value: str) -> None:
    """A project may come from the header."""
    rules = router(project="P-{PatientID}", subject="S")
    assert rules.route("1.2.3", {"PatientID": value, "StudyDate": "18951108"}).project == f"P-{value}"
    assert rules.project is None
    assert router().project == "P"


@pytest.mark.parametrize("value", ["a b", "Ä", "../x", "x" * 256])
def test_a_value_that_is_not_a_project_id(value: str) -> None:
    """A value is never cleaned into a project ID."""
    with pytest.raises(UnroutableError, match=r"^the name of its project is not a project ID$"):
        router(project="{PatientID}", session="{StudyDate}").route("1.2.3", {**FIELDS, "PatientID": value})


def test_no_project() -> None:
    """Without a project, the rules are refused."""
    with pytest.raises(UsageError, match=r"^no project$") as caught:
        Router(None, keywords=KEYWORDS)
    assert caught.value.hint == "name it with -P"


PATHS = PathPattern.parse("{project}/{subject}/{session}/**", separator="/")
PATH = "p/s/e/1/2.dcm"


def table(text: str, *path_fields: str) -> LookupTable:
    """Make a table for three fields of the header and those of a path."""
    return LookupTable.parse(text, KEYWORDS | set(path_fields))


def routed(*, path: str = PATH, **options: Any) -> tuple[str, str, str]:
    """Return project, subject and session of a file by these options."""
    session = Router(**{"project": None, "keywords": KEYWORDS} | options).route("1.2.3", FIELDS, path)
    return session.project, session.subject, session.label


def test_labels_of_the_path() -> None:
    """Project, subject and session of the path are the labels, unless options give them."""
    assert routed(paths=PATHS) == ("p", "s", "e")
    assert routed(paths=PATHS, project="P", session="{subject}_{session}_{StudyDate}") == ("P", "s", "s_e_18951108")
    assert routed(paths=PathPattern.parse("{subject}/**"), project="P") == ("P", "p", "4711_18951108")
    assert routed(paths=PathPattern.parse("{site}/**"), project="{site}") == ("p", "4711", "4711_18951108")


@pytest.mark.parametrize(
    ("columns", "values", "expected"),
    [
        ("project_id,subject_label,session_label", "p1,s1,e1", ("p1", "s1", "e1")),
        ("session,subject,project", "e1,s1,p1", ("p1", "s1", "e1")),
        ("project,arm", "p1,A", ("p1", "4711", "4711_18951108")),
    ],
)
def test_labels_of_the_table(columns: str, values: str, expected: tuple[str, str, str]) -> None:
    """Columns of these names are the labels, unless options give them."""
    assert routed(table=table(f"PatientID,{columns}\n4711,{values}\n")) == expected


def test_options_before_table_before_path() -> None:
    """Options come before the table, the table before the path."""
    by_path = table("subject,subject_label,arm\ns,S1,A\n", *PATHS.fields)
    assert routed(paths=PATHS, table=by_path) == ("p", "S1", "e")
    assert routed(paths=PATHS, table=by_path, subject="{subject}-{arm}") == ("p", "s-A", "e")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"paths": PathPattern.parse("{subject}/x/**")}, "its path does not match --path-pattern"),
        ({"table": table("PatientID,arm\n1,A\n")}, "its PatientID is not in --label-map"),
        (
            {"table": table("PatientID,StudyDate\n4711,20000101\n")},
            "its PatientID and StudyDate are not in --label-map",
        ),
        ({"table": table("PatientID,subject\n4711,\n")}, "no subject in --label-map"),
        (
            {"table": table("PatientID,arm\n4711,\n"), "session": "{arm|PatientBirthDate}"},
            "no arm in --label-map and no PatientBirthDate in the header",
        ),
        ({"paths": PathPattern.parse("{a}/**"), "session": "{a}"}, "no a in the path"),
    ],
)
def test_files_without_a_path_or_table_match(options: dict[str, Any], reason: str) -> None:
    """A file that the path pattern or the table does not match is not routed; the reason shows no values."""
    with pytest.raises(UnroutableError) as caught:
        routed(**{"project": "P", "keywords": KEYWORDS | {"PatientBirthDate"}, "path": " /f"} | options)
    assert str(caught.value) == reason


@pytest.mark.parametrize("name", ["PatientID", "Modality", "StudyIndex"])
def test_path_fields_do_not_hide_others(name: str) -> None:
    """A field cannot have two meanings."""
    with pytest.raises(UsageError, match=f"{{{name}}} is already a field of the study"):
        Router("P", keywords=KEYWORDS, paths=PathPattern.parse(f"{{{name}}}/**"))


def test_rules_of_path_and_table() -> None:
    """Path pattern and table are among the rules, also with invalid bytes."""
    rules = Router(None, keywords=KEYWORDS, paths=PathPattern.parse("\udcff{project}/**")).rules
    assert rules["project"] == "{project}"
    assert rules["path pattern"] == r"\udcff{project}/**"
    assert Router("P", keywords=KEYWORDS, table=table("PatientID\n1\n")).rules["map"].startswith("sha256 ")


def test_different_rules_have_different_texts() -> None:
    """Different rules have different texts."""
    make = partial(Router, keywords=KEYWORDS)
    texts = [
        make("P").rules,
        make("Q").rules,
        make("P", "{PatientName}").rules,
        make("P", "{PatientID:upper}").rules,
        make("P", "{PatientID|'x'}").rules,
        make("P", None, "{PatientID}").rules,
        make("P", paths=PathPattern.parse("{a}/**")).rules,
        make("P", paths=PathPattern.parse("{a}/*")).rules,
        make("P", table=table("PatientID\n1\n")).rules,
        make("P", table=table("PatientID\n2\n")).rules,
        make("P", table=table("PatientName\n1\n")).rules,
        make("P", table=table("PatientID,a\n1,\n")).rules,
        make("P", table=table("PatientID,a\n1,A\n")).rules,
        make("P", table=table("PatientID,b\n1,A\n")).rules,
    ]
    for one, other in combinations(texts, 2):
        assert one != other


@pytest.mark.parametrize(
    ("pattern", "session", "expected"),
    [
        ("{project}/{subject}/{session}/**", None, 3),
        ("{project}/{subject}/{session}/**", "{subject}_{session}", 3),
        ("{project}/{subject}/{session}/**", "{subject}", 2),
        ("{project}/{subject}/{session}/**", "{session}_{StudyDate}", None),
        ("{project}/{subject}/{session}/**", "{session:.3}", None),
        ("{project}/{subject}/{session}/**", "{session:upper}", None),
        ("{project}/{subject}/{session}/**", "{session|subject}", None),
        ("{project}/{subject}/{session}/**", "fixed", None),
        ("{site}/{session}/**", None, None),
        ("{site}/{session}/**", "{site}_{session}", 2),
    ],
)
def test_session_depth(pattern: str, session: str | None, expected: int | None) -> None:
    """Directories decide the session if all of them are in its labels, and nothing else is."""
    project = None if "{project}" in pattern else "P"
    rules = Router(project, None, session, keywords=KEYWORDS, paths=PathPattern.parse(pattern))
    assert rules.session_depth == expected


def test_session_depth_needs_distinct_directories() -> None:
    """With one project, directories of two projects may have the same session."""
    assert Router("P", keywords=KEYWORDS, paths=PATHS).session_depth is None
    assert Router("P", "{project}_{subject}", keywords=KEYWORDS, paths=PATHS).session_depth == 3
    assert router().session_depth is None


def test_needs_path() -> None:
    """Rules say whether they need paths."""
    assert Router("P", keywords=KEYWORDS, paths=PATHS).needs_path
    assert not router().needs_path


@given(st.dictionaries(st.sampled_from(sorted(KEYWORDS)), st.text()), st.text())
def test_reasons_never_show_values(fields: dict[str, str], path: str) -> None:
    """The reason is one of a few texts without values of the file."""
    rules = Router(
        "{PatientName:/^(p.*)/}",
        "{PatientID:08}",
        "{StudyDate:/^\\d+$/}_{a:.5}",
        keywords=KEYWORDS,
        paths=PathPattern.parse("{a}/**"),
    )
    reason = ""
    try:
        rules.route("1.2.3", fields, path)
    except UnroutableError as error:
        reason = str(error)
    assert reason in {
        "",
        *(f"no {name} in the header" for name in KEYWORDS),
        "no a in the path",
        "StudyDate does not match the pattern of --session",
        "PatientName does not match the pattern of --project",
        "its path does not match --path-pattern",
        "the name of its project is not a project ID",
        "nothing is left of the label after cleaning",
        "the label is longer than 255 characters",
    }


@given(st.lists(st.tuples(st.sampled_from("12"), st.dictionaries(st.sampled_from(sorted(KEYWORDS)), st.text()))))
def test_the_cache_changes_no_session(files: list[tuple[str, dict[str, str]]]) -> None:
    """A file's session does not depend on earlier files."""
    remembering = router()
    for uid, fields in files:
        results = []
        for rules in (remembering, router()):
            try:
                results.append(str(rules.route(uid, fields)))
            except UnroutableError as error:
                results.append(str(error))
        assert results[0] == results[1]
