"""Replies about resources and their files."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from asyncimport.errors import AsyncimportError, LoginExpiredError, RefusedError, TransientError
from asyncimport.xnat.replies.resources import ListedFile, check_creation, is_duplicate, parse_files
from asyncimport.xnat.replies.response import Reply

HTML = {"content-type": "text/html"}
TEXT = {"content-type": "text/plain"}
files = partial(parse_files, resource="DATA")
READERS: list[Callable[[Reply], object]] = [check_creation, is_duplicate, files]


def page(text: str) -> str:
    """Make an error page as Restlet does."""
    return f"<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n<h3>{text}</h3></body></html>"


def listing(*rows: dict[str, Any]) -> Reply:
    """Make a listing of files, which has no totalRecords."""
    columns = [{"key": "URI", "serverRoot": ""}]
    return Reply(200, {}, json.dumps({"ResultSet": {"Result": rows, "Columns": columns, "title": "Files"}}))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Reply(401, HTML, page("The request requires user authentication")), LoginExpiredError),
        (Reply(200, HTML, "<html><!-- BEGIN xnat-templates/screens/Login.vm --></html>"), LoginExpiredError),
        (Reply(302, {"location": "/app/template/Login.vm"}, ""), LoginExpiredError),
        (Reply(503, HTML, "<html>nginx</html>"), TransientError),
        (Reply(504, HTML, "<html>nginx</html>"), TransientError),
        (Reply(500, HTML, page("Another thread or process modified the catalog")), TransientError),
        (Reply(404, HTML, "<html><title>HTTP Status 404</title></html>"), TransientError),
    ],
)
def test_errors_of_any_reply(read: Callable[[Reply], object], answer: Reply, kind: type[AsyncimportError]) -> None:
    """An expired login, a failing server and a lost race are transient for each function."""
    with pytest.raises(kind):
        read(answer)


def test_a_resource_is_created_or_exists() -> None:
    """409 means that it exists."""
    assert check_creation(Reply(200, TEXT, "")) is True
    assert check_creation(Reply(409, HTML, page("Specified resource already exists."))) is False


@pytest.mark.parametrize(
    ("status", "text"),
    [(403, "User account doesn't have permission"), (404, "Unable to identify scan"), (400, "This resource works")],
)
def test_a_resource_that_cannot_be_created(status: int, text: str) -> None:
    """The error holds for all its files, and has XNAT's message."""
    with pytest.raises(RefusedError, match=text) as caught:
        check_creation(Reply(status, HTML, page(text)))
    assert caught.value.whole_session


@pytest.mark.parametrize(
    ("status", "never_reached_xnat"), [(400, False), (403, False), (404, False), (405, False), (413, True)]
)
def test_a_file_that_is_refused(status: int, never_reached_xnat: bool) -> None:
    """A proxy's refusal differs from XNAT's."""
    with pytest.raises(RefusedError, match=str(status)) as caught:
        is_duplicate(Reply(status, HTML, page("You tried to PUT a payload")))
    assert caught.value.never_reached_xnat is never_reached_xnat


def test_a_listing() -> None:
    """Paths have their folders, sizes are numbers, unknown values are empty."""
    base = "/data/experiments/XNAT_E00001/resources/12/files/"
    found = files(
        listing(
            {"Name": "a.csv", "Size": "12", "URI": f"{base}x/a.csv", "collection": "DATA", "digest": "AB"},
            {"Name": "b c.csv", "Size": "", "URI": f"{base}b%20c.csv", "collection": "DATA", "digest": ""},
            {"Name": "other", "Size": "1", "URI": f"{base}other", "collection": "REPORTS", "digest": ""},
            {"Name": "nowhere", "Size": "1", "URI": "", "collection": "DATA", "digest": ""},
        )
    )
    assert found == {
        "x/a.csv": ListedFile(12, "ab", f"{base}x/a.csv"),
        "b c.csv": ListedFile(None, "", f"{base}b%20c.csv"),
    }


def test_a_listing_of_a_missing_resource() -> None:
    """A missing resource has no files."""
    assert files(Reply(404, HTML, page("Unable to find the specified resource"))) == {}
    assert files(Reply(404, HTML, "")) == {}
    assert files(Reply(404, TEXT, "")) == {}
    assert files(listing()) == {}


def test_a_listing_that_is_refused() -> None:
    """Nothing can be proved then, so nothing is sent."""
    with pytest.raises(RefusedError, match="does not list"):
        files(Reply(403, HTML, page("no")))


@pytest.mark.parametrize("project", ["files", "resources"])
def test_a_project_whose_id_is_a_word_of_addresses(project: str) -> None:
    """The path of a file begins after its resource's `files/`, and may contain the word too."""
    uri = f"/data/projects/{project}/resources/7/files/in/files/a.pdf"
    found = files(listing({"Name": "a.pdf", "Size": "1", "URI": uri, "collection": "DATA", "digest": ""}))
    assert list(found) == ["in/files/a.pdf"]


def make_reply(text: str, status: int = 200, *, html: bool = False) -> Reply:
    """Make a reply of XNAT."""
    return Reply(status, {"content-type": "text/html" if html else "text/plain"}, text)


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        (make_reply(""), False),
        (make_reply("", 201), False),
        (make_reply('{"duplicates":["a.pdf"]}', html=True), True),
        (make_reply('{"duplicates":[]}', html=True), False),
        (make_reply("[1]"), False),
        (make_reply("7"), False),
        (make_reply("1"), False),
        (make_reply("{}"), False),
        (make_reply('["duplicates"]'), False),
        (make_reply('{"duplicates":null}', html=True), False),
        pytest.param(make_reply("[" * 100_000), False, id="deep"),
    ],
)
def test_whether_a_reply_reports_a_duplicate(reply: Reply, kept: bool) -> None:
    """An empty answer proves nothing. The list of duplicates is labelled as HTML; other JSON counts as empty."""
    assert is_duplicate(reply) is kept


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (make_reply("<html>Login.vm</html>", html=True), LoginExpiredError),
        (make_reply("<html>a gateway</html>", html=True), TransientError),
        (make_reply("", 401), LoginExpiredError),
        (make_reply("", 503), TransientError),
        (make_reply("<h3>broken</h3>", 500, html=True), TransientError),
        (make_reply("<h3>Unable to identify experiment</h3>", 404, html=True), RefusedError),
        (make_reply("", 413), RefusedError),
        (make_reply("no", 403), RefusedError),
    ],
)
def test_errors_of_a_sent_file(reply: Reply, error: type[Exception]) -> None:
    """They are transient, or final."""
    with pytest.raises(error):
        is_duplicate(reply)


def test_files_that_belong_elsewhere_are_left_out() -> None:
    """For a missing resource XNAT may list its owner's files; sizes and digests may be unknown."""
    rows = [
        {"URI": "/data/experiments/X/resources/7/files/in/a.pdf", "Size": "3", "digest": "ABC", "collection": "R"},
        {"URI": "/data/experiments/X/resources/7/files/b", "Size": "", "digest": "", "collection": "R"},
        {"URI": "/data/projects/P/resources/8/files/c", "Size": "3", "digest": "abc", "collection": "OTHER"},
        {"URI": "/data/experiments/X/resources/7", "Size": "3", "digest": "abc", "collection": "R"},
    ]
    found = parse_files(make_reply(json.dumps({"ResultSet": {"Result": rows}})), "R")
    assert {name: (file.size, file.md5) for name, file in found.items()} == {"in/a.pdf": (3, "abc"), "b": (None, "")}
    assert parse_files(make_reply("", 404), "R") == {}
    with pytest.raises(RefusedError):
        parse_files(make_reply("no", 403), "R")
