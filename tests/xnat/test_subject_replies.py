"""Replies about subjects; no reason repeats a value."""

import json
from typing import Any

import pytest

from asyncimport.errors import LoginExpiredError, RefusedError, TransientError
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.replies.subjects import ListedSubject, parse_saved_subject, parse_subject, parse_subjects

HTML = {"content-type": "text/html"}


def page(text: str) -> str:
    """Make an error page as Restlet does."""
    return f"<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n<h3>{text}</h3></body></html>"


def item(fields: dict[str, Any], demographics: dict[str, Any] | None, **meta: Any) -> Reply:
    """Make a subject as ItemJSONBuilder does, with its history."""
    children = []
    if demographics is not None:
        now = {"children": [], "meta": {"xsi:type": "xnat:demographicData", **meta}, "data_fields": demographics}
        past = {"children": [], "meta": {"isHistory": True}, "data_fields": {"gender": "unknown"}}
        children.append({"field": "demographics", "items": [past, now]})
    children.append({"field": "experiments/experiment", "items": [{"meta": {}, "data_fields": {"note": "x"}}]})
    whole = {"children": children, "meta": {"xsi:type": "xnat:subjectData", "isHistory": False}, "data_fields": fields}
    return Reply(200, {"content-type": "application/json"}, json.dumps({"items": [whole]}))


def test_a_listing() -> None:
    """It gives labels and accession IDs."""
    rows = [{"ID": "XNAT_S00001", "label": "S1", "project": "P", "insert_date": ""}, {"ID": "", "label": "x"}]
    reply = Reply(200, {}, json.dumps({"ResultSet": {"Result": rows, "totalRecords": "2"}}))
    assert parse_subjects(reply) == [ListedSubject("XNAT_S00001", "S1")]


def test_an_item() -> None:
    """It has native numbers; its history and experiments are ignored."""
    fields = {"ID": "XNAT_S00001", "label": "S1", "project": "P", "group": "control", "src": ""}
    found = parse_subject(item(fields, {"gender": "male", "age": 34, "weight": 70.0, "race": None}))
    assert found is not None
    assert (found.accession, found.label) == ("XNAT_S00001", "S1")
    assert {name: found.values.get(name) for name in ("gender", "age", "weight", "race", "group", "src", "note")} == {
        "gender": "male",
        "age": "34",
        "weight": "70.0",
        "race": None,
        "group": "control",
        "src": None,
        "note": None,
    }
    assert "male" not in repr(found)


def test_an_item_without_demographics() -> None:
    """The archive step creates such subjects."""
    found = parse_subject(item({"ID": "XNAT_S00001", "label": "S1"}, None))
    assert found is not None
    assert "gender" not in found.values


def test_demographics_of_another_type() -> None:
    """Those of animals, say, have other fields, and are refused."""
    with pytest.raises(RefusedError, match="of a type"):
        parse_subject(item({"ID": "X"}, {"species": "mouse"}, **{"xsi:type": "xnat:animalDemographicData"}))


@pytest.mark.parametrize("status", [403, 404])
def test_a_missing_subject(status: int) -> None:
    """XNAT hides subjects that this user may not see."""
    assert parse_subject(Reply(status, HTML, page("Unable to find the specified subject. "))) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"items": []}', '{"items": [{"data_fields": {}}]}', "[" * 100_000])
def test_a_malformed_item(text: str) -> None:
    """The error is transient."""
    with pytest.raises(TransientError):
        parse_subject(Reply(200, {}, text))


@pytest.mark.parametrize("status", [200, 201])
def test_a_saved_subject(status: int) -> None:
    """The body is the accession ID."""
    assert parse_saved_subject(Reply(status, {"content-type": "text/plain"}, "XNAT_S00001\n")) == "XNAT_S00001"


@pytest.mark.parametrize("rest", ["", "?label=S1&gender=male"])
def test_a_created_subject(rest: str) -> None:
    """The answer to a POST on the list is the address of the subject."""
    text = f"https://x.example/data/projects/demo/subjects/XNAT_S00001{rest}\n"
    assert parse_saved_subject(Reply(200, {"content-type": "text/plain"}, text), is_new=True) == "XNAT_S00001"
    with pytest.raises(TransientError):
        parse_saved_subject(Reply(200, {"content-type": "text/plain"}, "/"), is_new=True)


@pytest.mark.parametrize("headers", [{}, HTML])
def test_an_empty_200(headers: dict[str, str]) -> None:
    """Nothing was saved: XNAT answers so if `label` is in the query."""
    with pytest.raises(RefusedError, match="saved nothing"):
        parse_saved_subject(Reply(200, headers, ""))


@pytest.mark.parametrize("what", ["create", "edit"])
def test_no_right(what: str) -> None:
    """It holds for the whole project."""
    text = f"Specified user account has insufficient {what} privileges for subjects in this project."
    with pytest.raises(RefusedError, match=f"let this user {what} subjects") as caught:
        parse_saved_subject(Reply(403, HTML, page(text)))
    assert caught.value.whole_session


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "gender: 'planted' Must Match Pre-Defined Values...(male,female)",
            "gender: must match pre-defined values",
        ),
        (
            "xnat:subjectData/demographics[@xsi:type=xnat:demographicData]/dob : 'planted' Must Be A Valid Date",
            "dob: must be a valid date",
        ),
        ("Must Be Less Than 255 Characters : planted", "of some field: must be less than 255"),
        ("planted", "of some field: it does not say why"),
    ],
)
def test_a_value_that_xnat_refuses(text: str, said: str) -> None:
    """The reason names the field and the rule, and never the value."""
    with pytest.raises(RefusedError, match=said) as caught:
        parse_saved_subject(Reply(400, HTML, page(text)), ["gender", "dob"])
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "text", "error", "said"),
    [
        (409, "Conflict: Duplicate subject label", TransientError, "another subject of this label"),
        (409, "Subject already exists.", TransientError, "another subject of this label"),
        (409, "Project must be modified through separate URI.", RefusedError, "not free"),
        (404, "planted", RefusedError, "no such project"),
        (417, "Invalid character in subject label: planted", RefusedError, "417"),
        (422, "planted", RefusedError, "422"),
        (500, "planted", TransientError, "--event-reason"),
        (503, "planted", TransientError, "overloaded"),
        (401, "planted", LoginExpiredError, "login"),
        (200, page("planted"), TransientError, "web page"),
        (200, "planted planted", TransientError, "not an accession"),
    ],
)
def test_other_answers(status: int, text: str, error: type[Exception], said: str) -> None:
    """None repeats a value from XNAT's message."""
    with pytest.raises(error, match=said) as caught:
        parse_saved_subject(Reply(status, HTML if status >= 400 else {}, page(text) if status >= 400 else text))
    assert "planted" not in str(caught.value)
