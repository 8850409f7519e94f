"""Where a study goes: templates, labels that XNAT can hold, and what cannot be routed."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import UsageError
from asyncimport.model import Session
from asyncimport.routing import DEFAULT_SESSION, DEFAULT_SUBJECT, Router, UnroutableError, clean_label

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
    """What XNAT's labels cannot hold becomes one `_` a character; blanks around it go."""
    assert clean_label(text) == expected


@given(st.text())
def test_clean_label_is_safe_and_final(text: str) -> None:
    """Whatever goes in, only characters that XNAT keeps come out, and cleaning them again changes nothing."""
    cleaned = clean_label(text)
    assert re.fullmatch(r"[A-Za-z0-9_-]*", cleaned)
    assert clean_label(cleaned) == cleaned


def test_defaults() -> None:
    """Without templates the patient is the subject, and patient and date name the session."""
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
    """Fields in braces are replaced by their values, all else stands as it is, and the whole is cleaned."""
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
    """A file that gives no usable label has no place to go; the reason names fields and never their values."""
    with pytest.raises(UnroutableError) as caught:
        label(template, fields)
    assert str(caught.value) == reason


def test_subject_is_routed_like_the_session() -> None:
    """A missing field of the subject's template is as bad as one of the session's."""
    with pytest.raises(UnroutableError, match=r"^no PatientID in the header$"):
        router(session="{StudyDate}").route("1.2.3", {"StudyDate": "18951108"})


@pytest.mark.parametrize("option", ["--subject", "--session"])
@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{Modality}", "{Modality} is not a field of the study"),
        ("{patientid}", "{patientid} is not a field of the study"),
        ("{}", "{} is not a field of the study"),
        ("{0}", "{0} is not a field of the study"),
        ("{PatientID.real}", "{PatientID.real} is not a field of the study"),
        ("{PatientID[0]}", "{PatientID[0]} is not a field of the study"),
        ("{PatientID:>8}", "{PatientID} cannot be given a format"),
        ("{PatientID!r}", "{PatientID} cannot be given a format"),
        ("{PatientID:{StudyDate}}", "{PatientID} cannot be given a format"),
        ("{PatientID", "the template '{PatientID' is malformed"),
        ("PatientID}", "the template 'PatientID}' is malformed"),
        ("{PatientID!}", "the template '{PatientID!}' is malformed"),
        ("", "an empty label"),
        ("  ", "an empty label"),
        ("é", "nothing is left of the label after cleaning"),
        ("_", "nothing is left of the label after cleaning"),
        ("x" * 256, "the label is longer than 255 characters"),
    ],
)
def test_templates_that_no_file_could_satisfy(option: str, template: str, words: str) -> None:
    """A template that can never give a label is a mistake of the command, told before any file is looked at."""
    with pytest.raises(UsageError) as caught:
        router(**{option.removeprefix("--"): template})
    assert str(caught.value).startswith(option)
    assert words in str(caught.value)


def test_unknown_field_gets_the_list() -> None:
    """Who names a field that is not the same for a whole study is told those that are, in order."""
    with pytest.raises(UsageError) as caught:
        router(subject="{Modality}")
    assert caught.value.hint == "fields are: PatientID, PatientName, StudyDate"


@pytest.mark.parametrize("project", ["P", "p_1-A"])
def test_project(project: str) -> None:
    """A project ID goes into the session as it is."""
    assert router(project=project).route("1.2.3", FIELDS).project == project


@pytest.mark.parametrize("project", ["", "a b", "{PatientID}", "P/../Q", "Ä", "P\n"])
def test_project_that_is_none(project: str) -> None:
    """What cannot be a project ID is refused, so that it never becomes part of an address."""
    with pytest.raises(UsageError, match="is not a project ID") as caught:
        router(project=project)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("session", "expected"), [("all", True), ("{{all}}", True), ("a{PatientID}", False), ("{StudyDate}", False)]
)
def test_one_session(session: str, *, expected: bool) -> None:
    """A session template without a field puts every study under one label, which is bound to collide."""
    assert router(session=session).one_session is expected


def test_rules() -> None:
    """The rules are kept as they were given, so that the journal can compare them with those of the next run."""
    assert router("{PatientName}", "a {StudyDate}").rules == {
        "project": "P",
        "subject": "{PatientName}",
        "session": "a {StudyDate}",
    }


@given(st.text(min_size=1), st.text())
def test_labels_are_always_safe(patient: str, date: str) -> None:
    """Whatever stands in a header, the label is one that XNAT keeps, or the file is not routed."""
    try:
        made = label("{PatientID}_{StudyDate}", {"PatientID": patient, "StudyDate": date})
    except UnroutableError:
        made = "unroutable"
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", made)
    assert made.strip("_-")
