"""What each reply of XNAT means: tables of status, headers and body, with the value or error."""

import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncimport.errors import (
    AsyncimportError,
    LoginExpiredError,
    LoginRefusedError,
    MergeRefusedError,
    NothingStoredError,
    RefusedError,
    SessionChangedError,
    TransientError,
    UnavailableError,
    ZipFailedError,
    ZipRefusedError,
)
from asyncimport.xnat import replies
from asyncimport.xnat.replies.archive import (
    Experiment,
    SessionItem,
    parse_catalog,
    parse_project_sessions,
    parse_scan_resources,
    parse_session_item,
    parse_sessions,
    parse_study_sessions,
)
from asyncimport.xnat.replies.images import (
    Row,
    check_build,
    check_delete,
    parse_archive_uri,
    parse_file_count,
    parse_import_uri,
    parse_prearchive,
    parse_row,
    parse_zip_uri,
    raise_download_error,
)
from asyncimport.xnat.replies.logins import check_login, check_reachable, check_user, parse_login_count, parse_user_name
from asyncimport.xnat.replies.response import Reply
from asyncimport.xnat.replies.site import (
    Script,
    SeriesFilter,
    parse_flag,
    parse_pipeline_count,
    parse_project_id,
    parse_project_ids,
    parse_script,
    parse_series_filter,
    parse_setting,
    parse_subscription_count,
    parse_version,
    parse_version_number,
)

SECRET = "Roentgen_W"  # a label: it names a patient, and no reason may
ROW = f"/prearchive/projects/P/20240131_120000123/{SECRET}"
SESSION = f"/data/archive/projects/P/subjects/S/experiments/{SECRET}"

HTML = {"content-type": "text/html;charset=UTF-8"}
TEXT = {"content-type": "text/plain"}
URIS = {"content-type": "text/uri-list;charset=ISO-8859-1"}
JSON = {"content-type": "application/json"}
XML = {"content-type": "text/xml"}

LOGIN_PAGE = "\n<!DOCTYPE html>\n<html><body><!-- BEGIN xnat-templates/screens/Login.vm --></body></html>"
NGINX = "<html>\r\n<head><title>Gateway</title></head>\r\n<body>\r\n<center><h1>Gateway</h1></center>\r\n</body></html>"


def reply(status: int, text: str = "", headers: Mapping[str, str] | None = None) -> Reply:
    """Make a reply, of plain text unless headers are given."""
    return Reply(status, TEXT if headers is None else headers, text)


def restlet(status: int, message: str) -> Reply:
    """Make an error page of Restlet's StatusFilter, which does not escape the message."""
    return reply(
        status,
        f"<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n<h3>{message}</h3><p>You can get technical "
        'details <a href="http://www.w3.org/Protocols/rfc2616/rfc2616-sec10.html#sec10.4.1">here</a>.<br>\n'
        'Please continue your visit at our <a href="/">home page</a>.\n</p>\n</body>\n</html>\n',
        HTML,
    )


def tomcat(status: int, message: str) -> Reply:
    """Make an error page of Tomcat 9, whose last heading is its own version."""
    return reply(
        status,
        f'<!doctype html><html lang="en"><head><title>HTTP Status {status}</title></head><body><h1>HTTP Status '
        f'{status}</h1><hr class="line" /><p><b>Type</b> Status Report</p><p><b>Message</b> {message}</p>'
        '<hr class="line" /><h3>Apache Tomcat/9.0.83</h3></body></html>',
        HTML,
    )


def redirect(status: int, target: str, text: str = "") -> Reply:
    """Make a reply with a Location."""
    return reply(status, text, {**URIS, "location": target})


def table(*rows: Mapping[str, Any], **more: Any) -> Reply:
    """Make a listing as JSONTableRepresentation does."""
    return reply(200, json.dumps({"ResultSet": {"Result": list(rows), **more}}), JSON)


def item(**fields: Any) -> Reply:
    """Make an item as ItemJSONBuilder does."""
    built = {"items": [{"children": [], "meta": {"isHistory": False}, "data_fields": fields}]}
    return reply(200, json.dumps(built), JSON)


stored = partial(parse_import_uri, project="P", expected=None)
user = partial(check_user, name="ada")

STUDY = "1.2.3"
ASKED: dict[str, Callable[[Reply], object]] = {
    "check_login": check_login,
    "check_user": user,
    "check_reachable": check_reachable,
    "parse_project_id": parse_project_id,
    "parse_project_ids": parse_project_ids,
    "parse_import_uri": stored,
    "parse_zip_uri": partial(parse_zip_uri, expected=ROW),
    "check_build": check_build,
    "parse_archive_uri": parse_archive_uri,
    "parse_row": parse_row,
    "parse_session_item": parse_session_item,
    "parse_study_sessions": lambda reply: parse_study_sessions(reply, STUDY),
    "parse_sessions": parse_sessions,
    "parse_project_sessions": parse_project_sessions,
    "parse_sessions as proof": partial(parse_sessions, is_reliable=True),
    "parse_flag": parse_flag,
    "parse_script": parse_script,
    "parse_prearchive": parse_prearchive,
    "check_delete": check_delete,
    "parse_file_count": parse_file_count,
    "raise_download_error": raise_download_error,
    "parse_scan_resources": parse_scan_resources,
    "parse_catalog": parse_catalog,
    "parse_setting": parse_setting,
    "parse_series_filter": parse_series_filter,
    "parse_user_name": parse_user_name,
    "parse_login_count": parse_login_count,
    "parse_pipeline_count": parse_pipeline_count,
    "parse_subscription_count": parse_subscription_count,
    "parse_version_number": parse_version_number,
}
IN_A_RUN = [call for call in ASKED if call not in {"check_login", "check_user"}]


def flags(error: AsyncimportError) -> dict[str, object]:
    """Return the attributes of an error that differ from their defaults."""
    names = (
        "retry_after",
        "overload",
        "unreachable",
        "may_have_taken_effect",
        "is_file_verdict",
        "blames_file",
        "whole_session",
        "never_reached_xnat",
        "ends_zips",
        "leaves_part",
    )
    found = {name: getattr(error, name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def judged(read: Callable[[Reply], object], answer: Reply) -> AsyncimportError:
    """Return the error that a reply raises."""
    with pytest.raises(AsyncimportError) as caught:
        read(answer)
    return caught.value


OVERLOAD = {"overload": True}
SLOW_DOWN = {"overload": True, "retry_after": 7.0}
JUDGED = {"is_file_verdict": True}
BLAMED = {"is_file_verdict": True, "blames_file": True}
GIVEN_UP = {"overload": True, "may_have_taken_effect": True}
MAYBE = {"may_have_taken_effect": True}
WHOLE = {"whole_session": True}


class TestReply:
    """What a reply shows by itself, whatever was requested."""

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            pytest.param(reply(200, "x", HTML), True, id="content type"),
            pytest.param(reply(200, "x", {"content-type": "Text/HTML"}), True, id="content type in capitals"),
            pytest.param(reply(200, "<!DOCTYPE html PUBLIC>", {}), True, id="doctype"),
            pytest.param(reply(200, " \r\n<HTML lang='en'>", {}), True, id="tag after white space"),
            pytest.param(reply(200, "<html>\n<head>", TEXT), True, id="a page under a wrong content type"),
            pytest.param(reply(200, "<!DOCTYPE Catalog []><Catalog/>", XML), False, id="other document type"),
            pytest.param(reply(200, "<htmlish/>", XML), False, id="other tag"),
            pytest.param(reply(200, "/data/prearchive", URIS), False, id="URIs"),
            pytest.param(reply(200, "", {}), False, id="nothing"),
        ],
    )
    def test_is_html(self, answer: Reply, *, expected: bool) -> None:
        """A page for people has its content type, or begins like one."""
        assert answer.is_html is expected

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            pytest.param(
                restlet(400, "unable to read DICOM object a.dcm"), "unable to read DICOM object a.dcm", id="h3"
            ),
            pytest.param(restlet(400, "two\n  lines <b>bold</b>"), "two lines bold", id="lines and tags"),
            pytest.param(tomcat(401, "Login &amp; password wrong"), "Login & password wrong", id="Tomcat's Message"),
            pytest.param(reply(502, NGINX, HTML), "status 502", id="nothing but a title"),
            pytest.param(reply(500, "FAILED: no space\r\n"), "FAILED: no space", id="plain text"),
            pytest.param(reply(404), "status 404", id="empty"),
            pytest.param(reply(500, "a" * 1000), "a" * 300, id="long"),
            pytest.param(reply(500, "a\x1b[2Jb\u202ec"), "a[2Jbc", id="escape sequences"),
            pytest.param(reply(404, f"{ROW} not found."), "… not found.", id="address at the start"),
            pytest.param(reply(400, f"Invalid src URI ({SESSION})"), "Invalid src URI (…)", id="in brackets"),
            pytest.param(reply(400, f"see https://x.org{SESSION}, then"), "see …, then", id="with host"),
            pytest.param(reply(400, f"'/cache/P/{SECRET}/1.dcm'"), "'…'", id="a path on XNAT's disk"),
            pytest.param(reply(400, "multipart/form-data and/or /x"), "multipart/form-data and/or /x", id="no address"),
        ],
    )
    def test_message(self, answer: Reply, expected: str) -> None:
        """The message is one short line without addresses and control characters."""
        assert answer.message == expected


@pytest.mark.parametrize(
    ("status", "busy", "stuck"),
    [
        *((status, False, False) for status in ("READY", "RECEIVING", "RECEIVING_INTERRUPT", "", "SOMETHING_NEW")),
        *((status, False, True) for status in ("CONFLICT", "ERROR")),
        *((status, True, False) for status in ("ARCHIVING", "BUILDING", "DELETING", "MOVING", "SEPARATING")),
        *(
            (f"QUEUED_{status}", True, False)
            for status in ("ARCHIVING", "BUILDING", "DELETING", "MOVING", "SEPARATING")
        ),
        *(
            (f"_{status}", True, False)
            for status in (
                "ARCHIVING",
                "BUILDING",
                "CONFLICT",
                "DELETING",
                "MOVING",
                "RECEIVING",
                "RECEIVING_INTERRUPT",
                "SEPARATING",
            )
        ),
    ],
)
def test_row_status(status: str, *, busy: bool, stuck: bool) -> None:
    """Every status of PrearcUtils.PrearcStatus is busy, stuck, or free."""
    row = Row(status)
    assert (row.is_busy, row.is_stuck) == (busy, stuck)


# ---------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize(
    "text",
    [
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789ABCDEF0123456789ABCDEF\r\n",
        "A1.node-1",
    ],
)
def test_login_takes_a_session_id(text: str) -> None:
    """A good login is answered with a session ID, with or without a node's name."""
    check_login(reply(200, text))
    assert isinstance(judged(check_login, reply(200, f"<{text}>")), UnavailableError)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("User 'ada' is logged in", "ada"),
        ("User 'ada' is logged in. CSRF token: 1-2", "ada"),
        ("User 'o'brien' is logged in", "o'brien"),
        ("User 'ada' is logged in", "4f1c2a-alias-of-a-token"),
        ("User 'guest' is logged in", "guest"),
        ("User 'guest' is logged in", "Guest"),
    ],
)
def test_any_user_but_a_guest_is_logged_in(text: str, name: str) -> None:
    """A token's owner is a user too; a guest's login is right only if the guest logged in."""
    check_user(reply(200, text), name)
    with pytest.raises(LoginRefusedError):
        check_user(reply(200, "User 'guest' is logged in"), f"not {name}")


VALUES = [
    # project_id
    ("parse_project_id", item(ID="P", name="P title"), "P"),
    ("parse_project_id", item(ID=7), "7"),
    ("parse_project_id", item(name="no ID"), None),
    ("parse_project_id", item(ID=""), None),
    ("parse_project_id", restlet(404, "Unable to find the specified experiment."), None),
    ("parse_project_id", reply(404), None),
    ("parse_project_id", restlet(403, "The server understood the request, but is refusing to fulfill it"), None),
    # editable_projects
    ("parse_project_ids", table({"ID": "P", "name": ""}, {"ID": "Q"}, totalRecords="2"), frozenset({"P", "Q"})),
    ("parse_project_ids", table({"id": "P"}, {"ID": "", "id": "Q"}), frozenset({"P", "Q"})),
    ("parse_project_ids", table({"name": "neither"}, {"ID": None}), frozenset()),
    ("parse_project_ids", table(totalRecords="0"), frozenset()),
    # stored
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n", URIS), ROW),
    ("parse_import_uri", reply(200, f"/REST{ROW}\r\n", URIS), ROW),
    ("parse_import_uri", reply(200, ROW, URIS), ROW),
    ("parse_import_uri", reply(200, f"/data{ROW}", {}), ROW),
    ("parse_import_uri", reply(200, f"/data{ROW}_1\r\n", URIS), f"{ROW}_1"),
    ("parse_zip_uri", reply(200, f"/data{ROW}\r\n", URIS), ROW),
    # built
    ("check_build", reply(200, f"/data{ROW}", URIS), None),
    ("check_build", reply(200, "", URIS), None),
    # archived
    ("parse_archive_uri", reply(200, f"{SESSION}\r\n", URIS), SESSION),
    ("parse_archive_uri", reply(200, f"{SESSION.removeprefix('/data')}\r\n", URIS), SESSION),
    ("parse_archive_uri", reply(301, SESSION, URIS), SESSION),
    ("parse_archive_uri", redirect(303, f"https://elsewhere.example.org/xnat{SESSION}"), SESSION),
    ("parse_archive_uri", redirect(303, SESSION.removeprefix("/data")), SESSION),
    # row
    ("parse_study_sessions", table({"ID": "X_E1", "label": "E", "UID": STUDY}), [Experiment("X_E1", "E", STUDY)]),
    (
        "parse_study_sessions",
        table({"ID": "X_E1", "label": "E", "studyInstanceUID": STUDY}),
        [Experiment("X_E1", "E", STUDY)],
    ),
    (
        "parse_study_sessions",
        table({"ID": "X_E1", "label": "E", "xnat:imagesessiondata/uid": STUDY}, {"ID": "X_E2", "UID": "9"}, {}),
        [Experiment("X_E1", "E", STUDY)],
    ),
    (
        "parse_sessions",
        table({"ID": "X_E1", "label": "E", "UID": STUDY}, {"ID": "X_E2"}),
        [
            Experiment("X_E1", "E", STUDY),
            Experiment("X_E2", "", ""),
        ],
    ),
    ("parse_sessions", restlet(404, "Unable to identify project"), []),
    (
        "parse_project_sessions",
        table({"ID": "X_E1", "label": "E", "UID": STUDY, "date": "2020-01-02"}),
        [Experiment("X_E1", "E", STUDY, date="2020-01-02")],
    ),
    ("parse_project_sessions", restlet(403, "no"), None),
    ("parse_project_sessions", restlet(404, "Unable to identify project"), None),
    ("parse_study_sessions", table(), []),
    ("parse_study_sessions", restlet(404, "Unable to identify project"), []),
    ("parse_study_sessions", restlet(403, "no"), []),
    ("check_reachable", reply(200, "User 'x' is logged in"), True),
    ("check_reachable", restlet(403, "no"), True),
    ("check_reachable", restlet(404, "no such thing"), True),
    ("parse_flag", reply(200, "true"), True),
    ("parse_flag", reply(200, "false\n"), False),
    ("parse_flag", reply(200, "maybe"), None),
    ("parse_flag", reply(404), None),
    ("parse_flag", reply(403), None),
    ("parse_flag", tomcat(404, "Not Found"), None),
    ("parse_script", reply(200, "reject\n"), Script("reject\n")),
    ("parse_script", tomcat(404, "Not Found"), None),
    ("parse_script", reply(404), None),
    ("parse_script", reply(403), None),
    (
        "parse_prearchive",
        table(
            {
                "project": "P",
                "timestamp": "20240131_120000123",
                "uploaded": "2024-01-31 12:00:00.123",
                "subject": "S",
                "folderName": "E",
                "name": "E",
                "tag": STUDY,
                "status": "RECEIVING",
                "url": ROW,
                "SOURCE": "uploader",
            },
            {"status": "READY"},
        ),
        [Row("RECEIVING", ROW, "P", "S", "E", STUDY, "uploader", "2024-01-31 12:00:00.123"), Row("READY")],
    ),
    ("parse_prearchive", table(), []),
    ("parse_setting", reply(200, "600"), "600"),
    ("parse_setting", reply(200, "${StudyInstanceUID}\n", JSON), "${StudyInstanceUID}"),
    ("parse_setting", reply(403), None),
    ("parse_setting", tomcat(404, "Not Found"), None),
    (
        "parse_series_filter",
        reply(200, '{"enabled": "true", "mode": "blacklist", "list": "a.*\\n\\nb"}'),
        SeriesFilter(enabled=True, mode="blacklist", patterns=("a.*", "b")),
    ),
    ("parse_series_filter", reply(200, '{"enabled": false}'), SeriesFilter(enabled=False)),
    ("parse_series_filter", restlet(404, "Config not found for tool"), SeriesFilter(enabled=False)),
    ("parse_series_filter", restlet(403, "no"), None),
    ("parse_series_filter", reply(200, "[]"), None),
    ("parse_series_filter", reply(200, "no JSON"), None),
    ("parse_user_name", reply(200, "User 'ada' is logged in"), "ada"),
    ("parse_user_name", reply(200, "something else"), None),
    ("parse_user_name", restlet(403, "no"), None),
    ("parse_login_count", reply(200, '{"ada": 3}', JSON), 3),
    ("parse_login_count", reply(200, "{}", JSON), None),
    ("parse_login_count", reply(200, '{"ada": "many"}', JSON), None),
    ("parse_login_count", reply(200, "7", JSON), None),
    ("parse_login_count", restlet(403, "no"), None),
    ("parse_pipeline_count", table({"Name": "a"}, {"Name": "b"}), 2),
    ("parse_pipeline_count", table(), 0),
    ("parse_pipeline_count", restlet(403, "no"), None),
    ("parse_subscription_count", reply(200, '[{"active": true}, {"active": false}]', JSON), 1),
    ("parse_subscription_count", reply(200, "[]", JSON), 0),
    ("parse_subscription_count", reply(200, "[7]", JSON), None),
    ("parse_subscription_count", reply(200, "{", JSON), None),
    ("parse_subscription_count", reply(403), None),
    ("parse_subscription_count", tomcat(404, "Not Found"), None),
    ("parse_file_count", table({"file_count": "7"}, {"file_count": "2"}), 9),
    ("parse_file_count", table(), 0),
    ("parse_file_count", table({"file_count": "7"}, {}), None),
    ("parse_file_count", table({"file_count": 5000 * "9"}), None),
    ("parse_file_count", restlet(404, "Unable to locate prearc resource."), None),
    ("check_delete", reply(200), None),
    ("check_delete", restlet(404, f"{ROW} not found."), None),
    ("parse_row", table({"status": "RECEIVING", "name": "E"}), Row("RECEIVING", label="E")),
    ("parse_row", table({"name": "E"}), Row("", label="E")),
    (
        "parse_row",
        table({"status": "READY", "SOURCE": "", "prevent_auto_commit": "false"}),
        Row("READY", source="", prevents_auto_commit=False),
    ),
    ("parse_row", table({"status": "READY", "prevent_auto_commit": "perhaps"}), Row("READY")),
    ("parse_row", table(), None),
    ("parse_row", restlet(404, f"{ROW} not found."), None),
    ("parse_row", reply(404), None),
    # experiment
    # item
    (
        "parse_session_item",
        item(ID="X_E1", label="E", UID="1.2.3"),
        SessionItem("X_E1", "", "E", "1.2.3", "", frozenset()),
    ),
    (
        "parse_session_item",
        reply(
            200,
            json.dumps(
                {
                    "items": [
                        {
                            "children": [
                                {
                                    "field": "scans/scan",
                                    "items": [{"data_fields": {"ID": one}} for one in (1, "2-MR1")],
                                },
                                {"field": "resources/resource", "items": [{"data_fields": {"label": "R"}}]},
                            ],
                            "data_fields": {"ID": "X_E1", "project": "P", "subject_ID": "X_S1"},
                        }
                    ]
                }
            ),
            JSON,
        ),
        SessionItem("X_E1", "P", "", "", "X_S1", frozenset({"1", "2-MR1"})),
    ),
    # scan_resources
    (
        "parse_scan_resources",
        table(
            {"category": "scans", "cat_id": "1", "label": "DICOM", "format": "DICOM", "file_count": "3"},
            {"category": "scans", "cat_id": "1-MR1", "label": "DICOM", "format": ""},
            {"category": "scans", "cat_id": "2", "label": "secondary", "format": "DICOM"},
            {"category": "scans", "cat_id": "2", "label": "SNAPSHOTS", "format": "GIF"},
            {"category": "resources", "cat_id": "", "label": "DICOM", "format": "DICOM"},
            {"category": "scans", "format": "DICOM"},
            title="Resources",
        ),
        [
            ("1", "DICOM"),
            ("1-MR1", "DICOM"),
            ("2", "secondary"),
            ("", ""),
        ],
    ),
    ("parse_scan_resources", table(), []),
    ("parse_scan_resources", restlet(404, "Unable to find the specified resources."), []),
    # catalog
    (
        "parse_catalog",
        reply(
            200,
            '<?xml version="1.0" encoding="UTF-8"?>\n<cat:DCMCatalog UID="1.2.9" xmlns:cat="http://nrg.wustl.edu/catalog">'
            '<cat:entries><cat:entry URI="a.dcm" UID="1.2.1" digest="0"/><cat:entry URI="b.dcm" UID="1.2.2"/>'
            '<cat:entry URI="b2.dcm" UID="1.2.2"/><cat:entry URI="notes.txt"/><cat:entry URI="x" UID=""/>'
            "</cat:entries></cat:DCMCatalog>",
            XML,
        ),
        {"1.2.1": "0", "1.2.2": ""},
    ),
    ("parse_catalog", reply(200, '<Catalog><entries><entry UID="1.2.1"/></entries></Catalog>', XML), {"1.2.1": ""}),
    ("parse_catalog", reply(200, "<cat:Catalog xmlns:cat='x'/>", XML), {}),
    ("parse_version_number", reply(200, '{"version": "1.8.10.1"}', JSON), (1, 8)),
    ("parse_version_number", reply(200, '{"version": "1.10.0-SNAPSHOT"}', JSON), (1, 10)),
    *(
        ("parse_version_number", reply(200, text, JSON), None)
        for text in ("", "{}", "[]", '{"version": 1.8}', '{"version": "Unknown"}', '{"version": "1"}', "[" * 5_000)
    ),
    ("parse_version_number", restlet(403, "no"), None),
    ("parse_version_number", tomcat(404, "Not Found"), None),
]


def test_a_version_is_read_without_a_login() -> None:
    """As text, for a person."""
    assert parse_version(reply(200, '{"version": "1.8.10.1"}', JSON)) == "1.8.10.1"
    assert parse_version(reply(401, '{"version": "1.8.10.1"}', JSON)) is None


@pytest.mark.parametrize(("call", "answer", "expected"), VALUES)
def test_values(call: str, answer: Reply, expected: object) -> None:
    """The value of a good reply, or of one about something that does not exist."""
    assert ASKED[call](answer) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Errors

LOGIN_VM = "https://xnat.example.org/app/template/Login.vm"
EXPIRED = "https://xnat.example.org/app/template/XDATScreen_UpdateUser.vm"
INACTIVE = "/xnat/app/template/InactiveAccount.vm"

ENDS, PART = {"ends_zips": True}, {"leaves_part": True}

ERRORS: list[tuple[str, Reply, type[AsyncimportError], Mapping[str, object]]] = [
    # login
    ("check_login", tomcat(401, "Your login attempt failed"), LoginRefusedError, {}),
    ("check_login", tomcat(403, "Your password has expired. Please log in."), LoginRefusedError, {}),
    ("check_login", tomcat(403, "Site has not yet been configured."), UnavailableError, {}),
    ("check_login", redirect(302, LOGIN_VM), LoginRefusedError, {}),
    ("check_login", redirect(302, EXPIRED), LoginRefusedError, {}),
    ("check_login", redirect(302, INACTIVE), LoginRefusedError, {}),
    ("check_login", reply(200, LOGIN_PAGE, HTML), LoginRefusedError, {}),
    ("check_login", redirect(301, "https://xnat.example.org/data/JSESSION"), UnavailableError, {}),
    ("check_login", redirect(308, "https://xnat.example.org/data/JSESSION"), UnavailableError, {}),
    ("check_login", redirect(302, "/setup"), UnavailableError, {}),
    ("check_login", reply(302), UnavailableError, {}),
    ("check_login", reply(503, NGINX, {**HTML, "retry-after": "7"}), TransientError, SLOW_DOWN),
    ("check_login", reply(500, "", {}), TransientError, OVERLOAD),
    ("check_login", reply(200, NGINX, HTML), UnavailableError, {}),
    ("check_login", reply(200, ""), UnavailableError, {}),
    ("check_login", reply(200, "It works, or does it?"), UnavailableError, {}),
    ("check_login", tomcat(404, "Not Found"), UnavailableError, {}),
    ("check_login", reply(201, "ABC"), UnavailableError, {}),
    # user
    ("check_user", reply(200, "User 'guest' is logged in"), LoginRefusedError, {}),
    ("check_user", reply(200, "User 'Guest' is logged in"), LoginRefusedError, {}),
    ("check_user", tomcat(401, "Unauthorized"), LoginExpiredError, {}),
    ("check_user", redirect(302, EXPIRED), LoginRefusedError, {}),
    ("check_user", redirect(302, LOGIN_VM), LoginRefusedError, {}),
    ("check_user", redirect(302, "https://xnat.example.org/maintenance.html"), UnavailableError, {}),
    ("check_user", redirect(301, "https://xnat.example.org/data/auth"), UnavailableError, {}),
    ("check_user", tomcat(403, "Your password has expired."), LoginRefusedError, {}),
    ("check_user", reply(200, LOGIN_PAGE, HTML), LoginRefusedError, {}),
    ("check_user", reply(429, "", {"retry-after": "7"}), TransientError, SLOW_DOWN),
    ("check_user", reply(500), TransientError, OVERLOAD),
    ("check_user", reply(200, "hello"), UnavailableError, {}),
    ("check_user", tomcat(404, "Not Found"), UnavailableError, {}),
    # stored, for good
    ("parse_import_uri", reply(200, "", URIS), NothingStoredError, JUDGED),
    ("parse_import_uri", reply(200, "\r\n", URIS), NothingStoredError, JUDGED),
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n".replace("/P/", "/Unassigned/"), URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n".replace("/P/", "/Q/"), URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n".replace("/P/", "/p/"), URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n/data{ROW}2\r\n", URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"/data{ROW}\r\n{SECRET}", URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"/xapi/direct-archive/P/1.2/{SECRET}\r\n", URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, f"{SESSION}\r\n", URIS), RefusedError, WHOLE),
    ("parse_import_uri", reply(200, "OK", TEXT), RefusedError, WHOLE),
    ("parse_import_uri", restlet(400, "object upload.dcm contains no SOP Class UID"), RefusedError, {}),
    (
        "parse_import_uri",
        restlet(400, "In-body File posts must include the file directly as the body"),
        RefusedError,
        {},
    ),
    ("parse_import_uri", tomcat(400, "Invalid character found in the request target"), RefusedError, {}),
    ("parse_import_uri", reply(413, NGINX, HTML), RefusedError, {"never_reached_xnat": True}),
    (
        "parse_import_uri",
        restlet(403, "The server understood the request, but is refusing to fulfill it"),
        RefusedError,
        WHOLE,
    ),
    ("parse_import_uri", restlet(405, "The method specified in the request is not allowed"), RefusedError, WHOLE),
    ("parse_import_uri", restlet(406, "In-body File posts must include the file directly"), RefusedError, {}),
    ("parse_import_uri", reply(201, f"/data{ROW}", URIS), RefusedError, {}),
    # stored, for a time
    ("parse_import_uri", restlet(400, "unable to read DICOM object upload.dcm"), TransientError, BLAMED),
    ("parse_import_uri", reply(400, "Unable to read DICOM object upload.dcm"), TransientError, BLAMED),
    ("parse_import_uri", restlet(400, "Concurrent file sends of the same data is not supported."), TransientError, {}),
    ("parse_import_uri", restlet(500, "Concurrent file sends are not supported."), TransientError, MAYBE),
    ("parse_import_uri", restlet(404, "Unknown importer implementation specified: X"), TransientError, OVERLOAD),
    ("parse_import_uri", tomcat(404, "Not Found"), TransientError, OVERLOAD),
    # a zip: only the address of the row is a verdict
    ("parse_zip_uri", reply(200, "", URIS), ZipRefusedError, {}),
    ("parse_zip_uri", reply(200, "\r\n", URIS), ZipRefusedError, {}),
    ("parse_zip_uri", reply(200, ROW, URIS), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(200, f"/data{ROW}_1\r\n", URIS), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(200, f"/data{ROW}\r\n/data{ROW}2\r\n", URIS), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(200, f"/data{ROW}\r\n".replace("/P/", "/Unassigned/"), URIS), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(200, f"{SESSION}\r\n", URIS), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(200, '{"status": "queued"}'), TransientError, MAYBE),
    ("parse_zip_uri", reply(201, f"/data{ROW}", URIS), TransientError, MAYBE),
    ("parse_zip_uri", reply(202, ""), TransientError, MAYBE),
    ("parse_zip_uri", reply(204, ""), TransientError, MAYBE),
    ("parse_zip_uri", reply(406, NGINX, HTML), ZipRefusedError, {}),
    ("parse_zip_uri", reply(406, "blocked"), ZipRefusedError, PART),
    ("parse_zip_uri", restlet(400, "invalid entry CRC (expected 0x1 but got 0x2)"), ZipRefusedError, PART),
    ("parse_zip_uri", restlet(400, "unable to read DICOM object f.dcm"), ZipRefusedError, PART),
    ("parse_zip_uri", restlet(404, "Unknown importer implementation specified: DICOM-zip"), ZipRefusedError, ENDS),
    ("parse_zip_uri", tomcat(404, "Not Found"), ZipRefusedError, ENDS),
    ("parse_zip_uri", restlet(403, "User ada cannot archive into project P"), ZipRefusedError, ENDS),
    ("parse_zip_uri", restlet(405, "The method specified in the request is not allowed"), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(413, NGINX, HTML), ZipRefusedError, ENDS),
    ("parse_zip_uri", reply(415, NGINX, HTML), ZipRefusedError, ENDS),
    ("parse_zip_uri", restlet(500, "java.util.zip.ZipException"), ZipFailedError, MAYBE),
    ("parse_zip_uri", reply(200, NGINX, HTML), TransientError, MAYBE),
    ("parse_zip_uri", reply(507, "Insufficient Storage"), TransientError, MAYBE),
    ("parse_import_uri", reply(200, NGINX, HTML), TransientError, MAYBE),
    ("parse_import_uri", reply(200, NGINX, TEXT), TransientError, MAYBE),
    # built
    ("check_build", restlet(409, "session document locked"), TransientError, {}),
    ("check_build", restlet(404, f"{ROW} not found."), TransientError, {}),
    ("check_build", tomcat(404, "Not Found"), TransientError, {}),
    ("check_build", redirect(302, f"https://xnat.example.org/data{ROW}?action=build", NGINX), TransientError, GIVEN_UP),
    ("check_build", restlet(400, "No action parameter was specified"), RefusedError, {}),
    ("check_build", restlet(403, "no edit right"), RefusedError, {}),
    ("check_build", restlet(500, "Unable to build the session"), RefusedError, {}),
    ("check_build", reply(504, NGINX, HTML), TransientError, GIVEN_UP),
    ("check_build", reply(524, NGINX, HTML), TransientError, MAYBE),
    # archived
    (
        "parse_archive_uri",
        restlet(500, "FAILED: Unable to archive E: Operation Failed: Session already exists with matching files."),
        RefusedError,
        {},
    ),
    (
        "parse_archive_uri",
        restlet(500, "FAILED: Unable to archive E: Operation Failed: Invalid modification of session UID"),
        RefusedError,
        {},
    ),
    (
        "parse_archive_uri",
        restlet(
            500,
            "FAILED: Unable to archive E: Operation Failed: "
            "Duplicate archive attempt.  Prearchive session already archiving.",
        ),
        TransientError,
        MAYBE,
    ),
    (
        "parse_archive_uri",
        restlet(500, "FAILED: Unable to archive E: Operation Failed: Session processing may already be in progress: x"),
        TransientError,
        {},
    ),
    (
        "parse_archive_uri",
        restlet(500, "FAILED: Unable to archive E: Operation Failed: Destination session in use."),
        TransientError,
        {},
    ),
    (
        "parse_archive_uri",
        restlet(500, "The operation did not complete within the configured timeout interval."),
        TransientError,
        MAYBE,
    ),
    ("parse_archive_uri", restlet(409, "Session already exists, retry with overwrite enabled"), MergeRefusedError, {}),
    ("parse_archive_uri", restlet(403, "Operation already in progress on this prearchive entry."), TransientError, {}),
    ("parse_archive_uri", restlet(403, "Invalid permissions for archiving."), RefusedError, {}),
    ("parse_archive_uri", restlet(423, "Locked"), TransientError, {}),
    ("parse_archive_uri", restlet(404, "Unknown prearchive session."), TransientError, {}),
    ("parse_archive_uri", restlet(404, f"{ROW} not found."), TransientError, {}),
    ("parse_archive_uri", restlet(400, "Cannot archive sessions from the Unassigned folder."), RefusedError, {}),
    ("parse_archive_uri", reply(200, "", URIS), TransientError, MAYBE),
    ("parse_archive_uri", reply(200, "Archival initiated", TEXT), TransientError, MAYBE),
    (
        "parse_archive_uri",
        redirect(303, "https://xnat.example.org/app/template/XDATScreen_prearchives.vm"),
        TransientError,
        MAYBE,
    ),
    ("parse_archive_uri", redirect(303, "http://[::1", ""), TransientError, MAYBE),
    ("parse_archive_uri", reply(200, NGINX, HTML), TransientError, MAYBE),
    ("parse_archive_uri", reply(524, NGINX, HTML), TransientError, MAYBE),
    ("parse_archive_uri", reply(500, "", {}), RefusedError, {}),
    # questions: answers that are none
    ("parse_project_id", reply(200, "{", JSON), TransientError, {}),
    ("parse_project_id", restlet(400, "bad"), TransientError, {}),
    ("parse_project_ids", restlet(403, "no"), TransientError, {}),
    ("parse_row", restlet(403, "no"), RefusedError, {}),
    ("parse_prearchive", restlet(403, "no"), RefusedError, {}),
    ("parse_prearchive", restlet(404, "no such project"), RefusedError, {}),
    ("check_delete", restlet(403, "no"), RefusedError, {}),
    ("parse_file_count", restlet(403, "no"), RefusedError, {}),
    ("parse_sessions as proof", restlet(403, "no"), TransientError, {}),
    ("parse_sessions as proof", restlet(404, "Unable to identify project"), TransientError, {}),
    ("raise_download_error", restlet(404, f"{ROW} not found."), RefusedError, {}),
    ("raise_download_error", restlet(403, "no"), RefusedError, {}),
    ("check_delete", restlet(409, "session document locked"), RefusedError, {}),
    ("parse_flag", restlet(500, "no"), TransientError, MAYBE),
    ("parse_script", restlet(500, "no"), TransientError, MAYBE),
    ("parse_session_item", reply(200, "<xnat:MRSession/>", XML), TransientError, {}),
    ("parse_session_item", reply(200, '{"items": [{"children": [7], "data_fields": {}}]}', JSON), TransientError, {}),
    ("parse_session_item", restlet(404, "Unable to find the specified experiment."), SessionChangedError, {}),
    ("parse_session_item", restlet(403, "no"), SessionChangedError, {}),
    ("parse_scan_resources", restlet(403, "no"), TransientError, {}),
    ("parse_catalog", restlet(404, "Unable to find catalog"), SessionChangedError, {}),
    ("parse_catalog", reply(404, "<html/>", {}), TransientError, OVERLOAD),
    ("parse_catalog", reply(403, "<Status/>", XML), TransientError, {}),
    ("parse_catalog", reply(200, "", XML), TransientError, {}),
    ("parse_catalog", reply(200, "<Catalog><entry", XML), TransientError, {}),
    *(
        (call, tomcat(404, "Not Found"), TransientError, OVERLOAD)
        for call in IN_A_RUN
        if call
        not in {
            *("check_build", "parse_archive_uri", "parse_flag"),
            *("parse_script", "parse_setting", "parse_subscription_count", "parse_version_number", "parse_zip_uri"),
        }
    ),
    # whatever was asked in a run
    *((call, tomcat(401, "Unauthorized"), LoginExpiredError, {}) for call in IN_A_RUN),
    *((call, redirect(302, LOGIN_VM), LoginExpiredError, {}) for call in IN_A_RUN),
    *((call, redirect(302, EXPIRED), LoginRefusedError, {}) for call in IN_A_RUN),
    *((call, redirect(302, INACTIVE), LoginRefusedError, {}) for call in IN_A_RUN),
    *(
        (call, redirect(status, target), TransientError, GIVEN_UP)
        for call in IN_A_RUN
        for status, target in ((302, "https://sso.example.org/in"), (307, f"https://xnat.example.org{ROW}"))
    ),
    *((call, redirect(302, "http://[::1"), TransientError, GIVEN_UP) for call in IN_A_RUN),
    *((call, redirect(308, "https://xnat.example.org/"), UnavailableError, {}) for call in IN_A_RUN),
    *((call, reply(200, LOGIN_PAGE, HTML), LoginExpiredError, {}) for call in IN_A_RUN),
    *((call, reply(200, LOGIN_PAGE, TEXT), LoginExpiredError, {}) for call in IN_A_RUN),
    *((call, reply(200, NGINX, HTML), TransientError, MAYBE) for call in IN_A_RUN),
    *((call, reply(status, NGINX, HTML), TransientError, OVERLOAD) for call in IN_A_RUN for status in (408, 429)),
    # Whatever stands before XNAT has passed the call on, and XNAT may still be at work on it.
    *((call, reply(status, NGINX, HTML), TransientError, GIVEN_UP) for call in IN_A_RUN for status in (502, 503, 504)),
    *(
        (call, reply(status, NGINX, HTML), TransientError, MAYBE)
        for call in IN_A_RUN
        for status in (501, 520, 527, 599)
    ),
    *(
        (
            call,
            reply(503, NGINX, {**HTML, "retry-after": "7"}),
            TransientError,
            {**SLOW_DOWN, "may_have_taken_effect": True},
        )
        for call in IN_A_RUN
    ),
    *(
        (call, restlet(500, "The server encountered an unexpected condition"), TransientError, MAYBE)
        for call in IN_A_RUN
        if call not in {"check_build", "parse_archive_uri", "parse_zip_uri"}
    ),
]


@pytest.mark.parametrize(
    ("call", "answer", "kind", "expected"),
    ERRORS,
    ids=[f"{call} {answer.status} {kind.__name__}" for call, answer, kind, _ in ERRORS],
)
def test_errors(call: str, answer: Reply, kind: type[AsyncimportError], expected: Mapping[str, object]) -> None:
    """Each reply is one kind of error with its attributes; no reason names a patient."""
    error = judged(ASKED[call], answer)
    assert (type(error), flags(error)) == (kind, expected)
    assert str(error)
    assert SECRET not in f"{error} {error.hint}"
    assert "archive/" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("rejects", 'version "6.1"\n(0008,1030) := project\n', False),
        ("rejects", 'version "6.1"\nreject\n', True),
        ("rejects", '(0008,0060) = "SR" ? reject\n', True),
        ("rejects", "// does not reject\n- (0008,0090) // never reject\n", False),
        ("rejects", "removeRejected[]", False),
        ("rewrites", 'version "6.1"\n(0008,1030) := project\n', True),
        ("rewrites", 'version "6.1"\n- (0008,0090)\n', True),
        ("rewrites", "removeAllPrivateTags", True),
        ("rewrites", 'version "6.1"\n// (0008,1030) := project\n(0008,0060) = "SR" ? reject\n', False),
        ("rewrites", "", False),
        ("maps_uids", 'version "6.1"\n(0008,1030) := project\n(0010,0010) := subject\n', False),
        ("maps_uids", 'version "6.1"\n(0008,0018) := "1.2.3"\n', True),
        ("maps_uids", "(0008,0018) := hashUID[(0008,0018)]", True),
        ("maps_uids", 'removeAllPrivateTags\nmapReferencedUIDs["1.2", "3"]', True),
        ("maps_uids", "// keeps (0008,0018) as it is", False),
        ("maps_uids", "", False),
        ("maps_studies", 'version "6.1"\n(0008,1030) := project\n(0020,0010) := "1"\n', False),
        ("maps_studies", "(0020, 000d) := hashUID[(0020,000D)]", True),
        ("maps_studies", '(0020,000D) := "1.2.3"\n', True),
        ("maps_studies", "(0008,0018) := newUID[]", True),
        ("maps_studies", "", False),
        (
            "patient_fields",
            "(0010,0010) := subject\n(0010, 0020):=x",
            frozenset(["name", "id"]),
        ),
        ("patient_fields", '(0008,1030) := project\n(0010,0030) := "1900"', frozenset(["birth date"])),
        ("patient_fields", "-(0010,00X@)", frozenset(["name", "id", "birth date"])),
        ("patient_fields", "", frozenset()),
    ],
)
def test_what_a_script_may_do(name: str, text: str, expected: object) -> None:
    """The text of an anonymisation script tells what it may do."""
    assert getattr(parse_script(reply(200, text)), name) == expected


def test_every_function_has_its_cases() -> None:
    """Each function that judges a reply has rows in the tables above."""
    offered = {
        name
        for module in (replies.archive, replies.images, replies.logins, replies.site)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and name.startswith(("check_", "parse_", "raise_"))
        if name not in {"parse_patterns", "parse_version"}
    }
    assert offered == {name.removesuffix(" as proof") for name in ASKED}
    assert {call for call, *_ in ERRORS} == set(ASKED)
    assert {call for call, *_ in VALUES} == offered - {"check_login", "check_user", "raise_download_error"}


def test_a_conflict_of_files_has_advice() -> None:
    """The sent files may replace those that a late upload left."""
    answer = restlet(500, "FAILED: Unable to archive E: Operation Failed: Session already exists with matching files.")
    assert "`--overwrite append --retry held`" in str(judged(parse_archive_uri, answer))
    other = restlet(500, "FAILED: Unable to archive E: Operation Failed: Invalid modification of session UID")
    assert "--overwrite" not in str(judged(parse_archive_uri, other))


def test_reasons_of_the_session_keep_the_message_of_xnat() -> None:
    """Only XNAT knows why it did not archive a session."""
    answer = restlet(500, "FAILED: Unable to archive E: Operation Failed: Session already exists with matching files.")
    assert "matching files" in str(judged(parse_archive_uri, answer))


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (f"https://xnat.example.org:8443/data{ROW}", "https://xnat.example.org:8443"),
        ("https://ada:secret@xnat.example.org/", "https://xnat.example.org"),
        (ROW, "another path"),
        ("https://xnat\x85.example.org/", "another path"),
    ],
)
def test_redirects_name_the_host_and_not_the_path(target: str, place: str) -> None:
    """The error has scheme and host, which --host needs; a path has labels."""
    error = judged(check_login, redirect(302, target))
    assert str(error) == f"the server redirects to {place}"
    assert "--host" in error.hint
    assert str(judged(parse_row, redirect(302, target))) == f"the server redirects to {place} (302)"


def test_an_uninitialised_site_shows_its_message() -> None:
    """A site that is not set up says so on a page of Tomcat; the error has that, not Tomcat's version."""
    assert str(judged(check_login, tomcat(403, "Site has not yet been configured."))).endswith(
        "Site has not yet been configured."
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 400, float("inf")),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_retry_after(value: str, expected: float | None) -> None:
    """Retry-After counts if it is whole seconds; anything else is ignored."""
    error = judged(parse_row, reply(429, "", {"retry-after": value}))
    assert flags(error) == {"overload": True} | ({} if expected is None else {"retry_after": expected})


class TestMisplaced:
    """A file that XNAT accepted, but stored elsewhere."""

    @pytest.mark.parametrize("prefix", ["/data", "/REST", ""])
    def test_all_files_go_to_the_row_of_the_first(self, prefix: str) -> None:
        """The row may be named with any prefix."""
        answer = reply(200, f"{prefix}{ROW}\r\n", URIS)
        assert parse_import_uri(answer, "P", ROW) == ROW

    def test_a_second_row_stops_the_session(self) -> None:
        """It would be archived as half a session."""
        error = judged(partial(parse_import_uri, project="P", expected=f"{ROW}_1"), reply(200, f"/data{ROW}\r\n", URIS))
        assert isinstance(error, RefusedError)
        assert flags(error) == WHOLE
        assert SECRET not in str(error)

    @pytest.mark.parametrize(("project", "words"), [("Unassigned", "unassigned"), ("Secret_Study", "another project")])
    def test_the_reason_names_unassigned_but_no_project(self, project: str, words: str) -> None:
        """Unassigned files wait for an administrator, which the user must know."""
        error = judged(stored, reply(200, f"/data{ROW}\r\n".replace("/P/", f"/{project}/"), URIS))
        assert words in str(error)
        assert "Secret_Study" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"text"',
        '{"ResultSet": null}',
        '{"ResultSet": {"Result": null}}',
        '{"ResultSet": {"Result": [["a"]]}}',
        '{"ResultSet": {"Result": {"a": 1}}}',
        '{"items": []}',
        '{"items": {}}',
        '{"items": [{}]}',
        '{"items": [{"data_fields": null}]}',
        '{"items": [{"data_fields": "text"}]}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
@pytest.mark.parametrize("call", ["parse_project_id", "parse_project_ids", "parse_row", "parse_scan_resources"])
def test_malformed_json(call: str, text: str) -> None:
    """Malformed JSON is a transient error, never a crash, and never an empty value."""
    error = judged(ASKED[call], reply(200, text, JSON))
    assert type(error) is TransientError
    assert flags(error) == {}


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE c [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]><c><entry UID="&c;"/></c>',
        '<!DOCTYPE c [<!ENTITY x SYSTEM "file:///etc/passwd">]><c><entry UID="1.2">&x;</entry></c>',
        '<!DOCTYPE c SYSTEM "http://example.org/c.dtd"><c><entry UID="1.2"/></c>',
    ],
    ids=["billion laughs", "external entity", "external definitions"],
)
def test_catalogs_with_entities_are_refused(text: str) -> None:
    """XNAT's catalogs define no entities; one that does is an attack."""
    error = judged(parse_catalog, reply(200, text, XML))
    assert type(error) is TransientError
    assert str(error) == "XNAT's catalog is not XML"


@given(
    call=st.sampled_from(sorted(ASKED)),
    status=st.integers(100, 599),
    headers=st.dictionaries(st.sampled_from(["content-type", "parse_location", "retry-after"]), st.text()),
    text=st.text() | st.sampled_from([NGINX, LOGIN_PAGE, ROW, SESSION, "{}", "<a/>"]),
)
def test_no_reply_crashes(call: str, status: int, headers: Mapping[str, str], text: str) -> None:
    """Any reply is a value or one of our errors, with one line of text."""
    try:
        ASKED[call](Reply(status, headers, text))
        said = "a value"
    except AsyncimportError as error:
        said = str(error)
    assert said.splitlines() == [said]


def test_who_refuses_a_zip_is_named() -> None:
    """A page that XNAT's services do not make is a proxy's."""
    with pytest.raises(ZipRefusedError, match=r"^a proxy before XNAT did not take a zip \(415\)$"):
        parse_zip_uri(reply(415, NGINX, HTML), ROW)
    with pytest.raises(ZipRefusedError, match=r"^XNAT did not take a zip \(400: invalid entry CRC\)$"):
        parse_zip_uri(restlet(400, "invalid entry CRC"), ROW)
