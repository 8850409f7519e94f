"""`asyncimport doctor`: each condition of a migration is wrong in turn, and the finding names it."""

import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import trustme
from aiohttp import web
from builders import add_row, image, listening, write
from conftest import Commands
from examination import check_untouched, examined, only, wrong
from forward_proxy import forward_proxy, serve_tls

from asyncimport.operations.doctor import run_checks
from asyncimport.operations.server_checks import Facts, Finding, Status, exit_code_of
from asyncimport.system.deflate import NAME
from asyncimport.testserver import (
    PROFILES,
    Fault,
    Project,
    RowStatus,
    Script,
    SeriesFilter,
    TestXnat,
    User,
    serve,
)
from asyncimport.testserver import Status as Answer
from asyncimport.xnat.inspection import AuthenticatedFacts, ProjectFacts, Unknown
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.public_inspection import BodyLimit, PublicFacts

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

WAY = ["address", "encryption", "proxy", "version", "compression", "clock", "round-trip", "body-size"]
LOGIN = ["login", "logins", "idle-timeout"]
SITE = ["series-filter", "anonymisation", "file-names", "idle-builder", "archive-timeout", "prearchive"]
PROJECT = ["project", "creation", "prearchive-code", "series-filter", "anonymisation", "automation"]
ADMIN = User("demo", "demo", all_data=True)
SECRET = "Roentgen_W"


def put(xnat: TestXnat, status: RowStatus, *, days: float = 0.0, project: str | None = "demo") -> None:
    """Put a session into the prearchive that is some days old."""
    came = datetime.now() - timedelta(days=days)  # noqa: DTZ005 - as XNAT has it
    add_row(
        xnat,
        SECRET,
        project=project,
        timestamp=f"20260131_1200001{len(xnat.prearchive):02}",
        study_uid=f"1.2.{len(xnat.prearchive)}",
        subject=SECRET,
        patient_name=SECRET,
        autoarchive="",
        uploaded=came,
        lastmod=came,
        touched=0.0,
        status=status,
    )


def _times(number: int, action: Callable[[], None]) -> None:
    for _ in range(number):
        action()


async def test_all_checks_are_ok(xnat: TestXnat, url: str) -> None:
    """All checks are made, in order, and change nothing on the server."""
    xnat.add_user(ADMIN)
    findings = await examined(url, "demo")
    assert wrong(findings) == []
    assert [finding.code for finding in findings] == [*WAY, *LOGIN, *SITE, *PROJECT]
    assert [finding.about for finding in findings[-len(PROJECT) :]] == ["demo"] * len(PROJECT)
    assert exit_code_of(findings) == 0
    (zips,) = (finding.found for finding in findings if finding.code == "compression")
    assert re.fullmatch(rf"this version takes images as zips; {NAME} deflates [1-9][\d,]* MB/s on one core .*", zips)
    check_untouched(xnat)


async def test_a_missing_right_leaves_a_check_unknown(url: str) -> None:
    """XNAT does not show everything to users who are no administrators, which is no error."""
    finding = only(await examined(url, "demo"))
    assert (finding.code, finding.status) == ("archive-timeout", Status.UNKNOWN)
    assert "does not show it" in finding.meaning


def _setting(**values: Any) -> Callable[[TestXnat], None]:
    def change(xnat: TestXnat) -> None:
        for name, value in values.items():
            setattr(xnat, name, value)

    return change


def _in_project(**values: Any) -> Callable[[TestXnat], None]:
    def change(xnat: TestXnat) -> None:
        for name, value in values.items():
            setattr(xnat.project("demo"), name, value)

    return change


def _of_logins(**values: Any) -> Callable[[TestXnat], None]:
    def change(xnat: TestXnat) -> None:
        for name, value in values.items():
            setattr(xnat.logins, name, value)

    return change


REJECTING = Script(reject=lambda _: True)
MAPPING = Script(rewrite=False, map_uid=lambda uid: f"{uid}.1")

# What is changed where all is well, the one check that it changes, and a word of what is found and of the hint.
WRONG: Mapping[str, tuple[Callable[[TestXnat], None], str, str, Status, str, str]] = {
    "site denies": (
        _setting(series_filter=SeriesFilter(("loc.*", "survey"))),
        "series-filter",
        "",
        Status.WARNING,
        "matches one of 2 patterns",
        "switched off",
    ),
    "site allows": (
        _setting(series_filter=SeriesFilter(("t1",), "allowlist")),
        "series-filter",
        "",
        Status.WARNING,
        "matches none of 1 pattern",
        "switched off",
    ),
    "project denies": (
        _in_project(series_filter=SeriesFilter(("loc.*",))),
        "series-filter",
        "demo",
        Status.WARNING,
        "matches one of 1 pattern",
        "switched off",
    ),
    "site rejects": (
        _setting(script=REJECTING),
        "anonymisation",
        "",
        Status.WARNING,
        "rejects files",
        "read the script",
    ),
    "site maps UIDs": (_setting(script=MAPPING), "anonymisation", "", Status.WARNING, "maps UIDs", "read the script"),
    "project rejects": (
        _in_project(script=REJECTING),
        "anonymisation",
        "demo",
        Status.WARNING,
        "rejects files",
        "read the script",
    ),
    "project maps UIDs": (
        _in_project(script=MAPPING),
        "anonymisation",
        "demo",
        Status.WARNING,
        "maps UIDs",
        "read the script",
    ),
    "names without UID": (
        _setting(file_name_template="${SeriesNumber}-${InstanceNumber}"),
        "file-names",
        "",
        Status.WARNING,
        "no UID",
        "dicomFileNameTemplate",
    ),
    "names that collide": (
        _setting(file_name_template="${StudyInstanceUID}"),
        "file-names",
        "",
        Status.ERROR,
        "neither UID nor instance",
        "dicomFileNameTemplate",
    ),
    "builds at once": (
        _setting(idle_minutes=0),
        "idle-builder",
        "",
        Status.WARNING,
        "0 min",
        "sessionXmlRebuilderInterval",
    ),
    "archiving has no time": (
        _setting(archive_timeout=30.0),
        "archive-timeout",
        "",
        Status.WARNING,
        "30 s",
        "sessionArchiveTimeoutInterval",
    ),
    "one login at a time": (_of_logins(max_per_user=1), "logins", "", Status.WARNING, "1 of", "concurrentMaxSessions"),
    "short logins": (_of_logins(timeout=60.0), "idle-timeout", "", Status.WARNING, "60 s", "session timeout"),
    "clock ahead": (_setting(seconds_ahead=90.0), "clock", "", Status.WARNING, "90 s ahead", "NTP"),
    "clock behind": (_setting(seconds_ahead=-3600.0), "clock", "", Status.WARNING, "3,600 s behind", "NTP"),
    "overwrites": (_in_project(prearchive_code=5), "prearchive-code", "demo", Status.WARNING, "overwrites", "0 or 4"),
    "odd code": (_in_project(prearchive_code=2), "prearchive-code", "demo", Status.WARNING, "2: a code", "0 or 4"),
    "pipelines": (
        _in_project(pipelines=("dcm2niix", "qc")),
        "automation",
        "demo",
        Status.WARNING,
        "2 pipelines",
        "switch them off",
    ),
    "subscriptions": (
        _in_project(subscriptions={"mail": True, "old": False}),
        "automation",
        "demo",
        Status.WARNING,
        "1 subscription",
        "switch them off",
    ),
    "conflict": (lambda xnat: put(xnat, RowStatus.CONFLICT), "prearchive", "", Status.WARNING, "1 are in", "--orphans"),
    "stale": (
        lambda xnat: put(xnat, RowStatus.RECEIVING, days=9),
        "prearchive",
        "",
        Status.WARNING,
        "1 began days ago",
        "--orphans",
    ),
    "many rows": (
        lambda xnat: _times(1_000, lambda: put(xnat, RowStatus.RECEIVING, days=0.5)),
        "prearchive",
        "",
        Status.WARNING,
        "1,000 sessions",
        "archive or remove",
    ),
}


@pytest.mark.parametrize("days", [0.5, 9.0])
async def test_many_rows_have_a_cost(xnat: TestXnat, url: str, days: float) -> None:
    """Whatever else is wrong with them."""
    xnat.add_user(ADMIN)
    _times(2_000, lambda: put(xnat, RowStatus.RECEIVING, days=days))
    finding = only(await examined(url, "demo"))
    assert "2,000" in finding.found
    assert "reads all 2,000 rows of the prearchive: by an estimate 2 ms a file" in finding.meaning


@pytest.mark.parametrize(("change", "code", "about", "status", "found", "hint"), WRONG.values(), ids=WRONG.keys())
async def test_one_wrong_setting_gives_one_finding(
    xnat: TestXnat,
    url: str,
    change: Callable[[TestXnat], None],
    code: str,
    about: str,
    status: Status,
    found: str,
    hint: str,
) -> None:
    """Its check has a hint; all others stay ok."""
    xnat.add_user(ADMIN)
    change(xnat)
    findings = await examined(url, "demo")
    finding = only(findings)
    assert (finding.code, finding.about, finding.status) == (code, about, status)
    assert found in finding.found
    assert finding.meaning
    assert hint in finding.hint
    assert exit_code_of(findings) == (9 if status is Status.ERROR else 0)
    assert SECRET not in str(findings)


@pytest.mark.parametrize(
    "change",
    [
        _in_project(prearchive_code=4),
        _setting(script=None),
        _setting(file_name_template="${SOPInstanceUID}"),
        _setting(series_filter=SeriesFilter(("a",), enabled=False)),
        lambda xnat: put(xnat, RowStatus.RECEIVING, days=0.5),
        lambda xnat: put(xnat, RowStatus.CONFLICT, project=None),
    ],
    ids=["auto-archive", "no script", "UID as name", "disabled filter", "receiving", "unassigned"],
)
async def test_harmless_settings_are_ok(xnat: TestXnat, url: str, change: Callable[[TestXnat], None]) -> None:
    """Another setting than the default may be right; rows without a project concern administrators."""
    xnat.add_user(ADMIN)
    change(xnat)
    assert wrong(await examined(url, "demo")) == []


async def test_rows_of_all_projects_count_without_a_project(xnat: TestXnat, url: str) -> None:
    """With -P only these projects count, without it all that this user may edit."""
    xnat.add_project(Project("other"))
    put(xnat, RowStatus.ERROR, project="other")
    assert [finding.code for finding in wrong(await examined(url, "demo"))] == ["archive-timeout"]
    assert [finding.code for finding in wrong(await examined(url))] == ["archive-timeout", "prearchive"]


# --- rights


async def test_a_missing_project(url: str) -> None:
    """It is an error, and other projects are checked."""
    findings = await examined(url, "nowhere", "demo")
    errors = [finding for finding in findings if finding.status is Status.ERROR]
    assert [(error.code, error.about) for error in errors] == [("project", "nowhere")]
    assert "member" in errors[0].hint
    assert [finding.code for finding in findings if finding.about == "demo"] == PROJECT
    assert exit_code_of(findings) == 5


async def test_a_project_named_by_an_alias(xnat: TestXnat, url: str) -> None:
    """Its prearchive rows have its ID."""
    xnat.project("demo").aliases = ["other"]
    put(xnat, RowStatus.CONFLICT)
    findings = await examined(url, "other")
    assert [(finding.code, finding.status) for finding in wrong(findings)] == [
        ("archive-timeout", Status.UNKNOWN),
        ("prearchive", Status.WARNING),
    ]
    assert [finding.about for finding in findings[-len(PROJECT) :]] == ["other"] * len(PROJECT)


async def test_a_project_that_may_only_be_read(xnat: TestXnat, url: str) -> None:
    """The finding names the failure; checks that a reader may not make are unknown."""
    xnat.add_project(Project("library", editors=(), readers=["demo"]))
    findings = await examined(url, "library")
    about = {finding.code: finding for finding in findings if finding.about}
    assert about["project"].status is Status.ERROR
    assert "build and archive would be refused" in about["project"].meaning
    assert "member" in about["project"].hint
    assert about["automation"].status is Status.UNKNOWN
    assert about["prearchive-code"].status is Status.OK
    assert "creation" not in about
    assert exit_code_of(findings) == 6


async def test_a_project_without_the_right_to_create_sessions(xnat: TestXnat, url: str) -> None:
    """The right to edit is not enough for new sessions."""
    xnat.project("demo").creators = ()
    findings = await examined(url, "demo")
    (error,) = [finding for finding in findings if finding.status is Status.ERROR]
    assert (error.code, error.about) == ("creation", "demo")
    assert "member" in error.hint
    assert exit_code_of(findings) == 9


@pytest.mark.parametrize("version", ["1.5.4", "1.6.1"])
async def test_an_old_xnat(tmp_path: Path, version: str) -> None:
    """Its version is at the old address; settings that it does not have are unknown, and no error."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    async with serve(xnat) as url:
        findings = await examined(url, "demo")
    found = {(finding.code, finding.about): finding for finding in findings}
    assert found["version", ""].status is Status.WARNING
    assert PROFILES[version].version in found["version", ""].found
    assert "--overwrite append" in found["version", ""].meaning
    assert found["compression", ""].found == "images go as they are, because zips need XNAT 1.8"
    assert {finding.status for finding in wrong(findings)} == {Status.WARNING, Status.UNKNOWN}
    assert found["series-filter", ""].status is found["anonymisation", "demo"].status is Status.UNKNOWN
    assert exit_code_of(findings) == 0
    check_untouched(xnat)


async def test_failed_requests_are_unknown(xnat: TestXnat, url: str) -> None:
    """They do not affect the other checks."""
    xnat.faults.add(Fault("listing", Answer(500), times=9, path="dicomFileNameTemplate"))
    xnat.faults.add(Fault("listing", Answer(500), times=9, path="prearchive_code"))
    findings = wrong(await examined(url, "demo"))
    assert {(finding.code, finding.status) for finding in findings} == {
        (code, Status.UNKNOWN) for code in ("file-names", "archive-timeout", "prearchive-code")
    }
    assert "the server failed (500" in next(finding for finding in findings if finding.code == "file-names").meaning


# --- the login


async def test_a_wrong_password_is_tried_once(xnat: TestXnat, url: str) -> None:
    """More attempts lock the account; checks without a login are made all the same."""
    findings = await examined(url, "demo", credentials=Credentials("demo", "guess"))
    assert [finding.code for finding in findings] == [*WAY, "login"]
    assert "after 20 refusals" in only(findings).hint
    assert exit_code_of(findings) == 3
    assert xnat.logins._failed["demo"] == 1
    assert xnat.live_logins("demo") == 0


async def test_an_expired_password(xnat: TestXnat, url: str) -> None:
    """XNAT shows the user one page only."""
    xnat.add_user(User("demo", "demo", password_expired=True))
    findings = await examined(url, "demo")
    assert only(findings).code == "login"
    assert "browser" in only(findings).hint
    assert exit_code_of(findings) == 3


async def test_a_site_that_is_not_set_up(xnat: TestXnat, url: str) -> None:
    """XNAT refuses every login."""
    xnat.initialised = False
    findings = await examined(url)
    assert exit_code_of(findings) == 4
    assert "configured" in str(wrong(findings))


async def test_single_sign_on() -> None:
    """XNAT answers, and redirects logins to another server."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/xapi/siteConfig/buildInfo":
            return web.json_response({"version": "1.8.10"})
        return web.Response(status=302, headers={"Location": "https://sso.example.org/in?secret=1"})

    async with listening(answer) as url:
        findings = await examined(url)
    (error,) = [finding for finding in findings if finding.status is Status.ERROR]
    assert error.code == "login"
    assert "led to https://sso.example.org: single sign-on" in error.meaning
    assert "for programs" in error.hint
    assert "secret" not in str(findings)
    assert exit_code_of(findings) == 4


# --- the way


async def test_a_closed_port(unused_port: int) -> None:
    """Nothing else is checked."""
    url = f"http://127.0.0.1:{unused_port}"
    findings = await examined(url, "demo")
    assert (only(findings).code, exit_code_of(findings)) == ("address", 4)
    assert "no connection" in only(findings).found
    assert "port" in only(findings).hint


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 200, "text": "<html><body>It works!</body></html>", "content_type": "text/html"},
        {"status": 200, "text": "ok"},
        {"status": 404, "text": "nothing here"},
        {"status": 200, "text": "[]", "content_type": "application/json"},
        {"status": 405},
    ],
)
async def test_a_server_that_is_not_an_xnat(answer: dict[str, Any]) -> None:
    """It gets only the requests that find out, and no login."""
    seen: list[web.BaseRequest] = []

    async def tell(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.Response(**answer)

    async with listening(tell) as url:
        findings = await examined(url, "demo")
    assert (only(findings).code, only(findings).found) == ("address", "what answers there is not an XNAT")
    assert "context path" in only(findings).hint
    assert exit_code_of(findings) == 4
    assert seen
    assert not any("Authorization" in request.headers for request in seen)
    assert {request.method for request in seen} == {"GET"}


async def test_an_overloaded_server() -> None:
    """A gateway answers instead of XNAT, which may be back later."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=502)

    async with listening(answer) as url:
        findings = await examined(url)
    assert (only(findings).code, exit_code_of(findings)) == ("address", 4)
    assert "502" in only(findings).found


@pytest.mark.parametrize(
    ("context", "given"),
    [("", "/xnat"), ("", "/app/template/Login.vm"), ("/xnat", ""), ("/xnat", "/xnat/data"), ("/a/b", "/a/b/c")],
)
async def test_a_wrong_context_path(xnat: TestXnat, context: str, given: str) -> None:
    """The right one is found, and named."""
    async with serve(xnat, context=context) as url:
        findings = await examined(url.removesuffix(context) + given, "demo")
        assert only(findings).code == "address"
        assert only(findings).hint == f"give --host {url}"
    assert exit_code_of(findings) == 4
    check_untouched(xnat)


async def test_a_context_path_that_the_home_page_leads_to() -> None:
    """The server's home page redirects to it."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/":
            return web.Response(status=302, headers={"Location": "/imaging/app/index.vm"})
        if request.path == "/imaging/xapi/siteConfig/buildInfo":
            return web.json_response({"version": "1.8.10"})
        return web.Response(status=404)

    async with listening(answer) as url:
        assert only(await examined(url)).hint == f"give --host {url}/imaging"


async def test_an_address_that_redirects(xnat: TestXnat, tmp_path: Path) -> None:
    """Most sites redirect http to https: the target is checked without a login, and named."""
    bundle = tmp_path / "ca.pem"
    async with serve(xnat, ssl_context=await _certificate(bundle), context="/xnat") as target:

        async def answer(request: web.BaseRequest) -> web.Response:
            place = f"{target.removesuffix('/xnat')}{request.path_qs}"
            return web.Response(status=301, headers={"Location": place})

        async with listening(answer) as url:
            findings = await examined(f"{url}/xnat", "demo", ca_bundle=bundle)
    assert only(findings).code == "address"
    assert only(findings).hint == f"give --host {target}"
    assert exit_code_of(findings) == 4
    check_untouched(xnat)


async def test_an_address_that_redirects_to_no_xnat() -> None:
    """It may lead to a sign-on page."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/sign-on":
            return web.Response(text="who are you?")
        return web.Response(status=302, headers={"Location": "/sign-on?from=ada@example.org"})

    async with listening(answer) as url:
        findings = await examined(url)
    assert only(findings).code == "address"
    assert "sign-on page" in only(findings).hint
    assert "ada" not in str(findings)


async def test_plain_http_over_the_network(xnat: TestXnat, commands: Commands) -> None:
    """It would end an upload, so no login is sent; with --insecure it is a warning."""
    async with serve(xnat, host="127.0.0.2") as url:
        commands.login(url)
        ended = await commands("doctor", "-P", "demo", "-o", "json")
        assert ended.code == ended.json["exit_code"] == 2
        (error,) = [check for check in ended.json["checks"] if check["status"] == "error"]
        assert error["code"] == "encryption"
        assert "--insecure" in error["hint"]
        assert [check["code"] for check in ended.json["checks"]] == WAY
        ended = await commands("doctor", "-P", "demo", "-o", "json", "--insecure")
        assert ended.code == 0
        (warning,) = [check for check in ended.json["checks"] if check["status"] == "warning"]
        assert (warning["code"], "login" in str(ended.json)) == ("encryption", True)
    check_untouched(xnat)


async def _certificate(bundle: Path, **dates: Any) -> ssl.SSLContext:
    """Make a certificate by an authority, which is written to a bundle."""

    def make() -> ssl.SSLContext:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(bundle)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", **dates).configure_cert(context)
        return context

    return await anyio.to_thread.run_sync(make)


@asynccontextmanager
async def encrypted(xnat: TestXnat, bundle: Path, **dates: Any) -> AsyncIterator[str]:
    """Serve over TLS."""
    async with serve(xnat, ssl_context=await _certificate(bundle, **dates)) as url:
        yield url


async def test_an_unknown_authority(xnat: TestXnat, tmp_path: Path) -> None:
    """With --ca-bundle all is ok; without it the finding has the reason, and no login is sent."""
    xnat.add_user(ADMIN)
    bundle = tmp_path / "ca.pem"
    async with encrypted(xnat, bundle) as url:
        findings = await examined(url, "demo")
        assert (only(findings).code, exit_code_of(findings)) == ("certificate", 4)
        assert "issuer" in only(findings).found
        assert "--ca-bundle" in only(findings).hint
        assert not xnat.count
        findings = await examined(url, "demo", ca_bundle=bundle)
        assert wrong(findings) == []
        assert findings[2].code == "certificate"
        assert findings[2].found.startswith("trusted until ")
        insecure = only(await examined(url, "demo", insecure=True))
        assert (insecure.code, insecure.status) == ("certificate", Status.WARNING)
    check_untouched(xnat)


async def test_a_certificate_that_expires_soon(xnat: TestXnat, tmp_path: Path) -> None:
    """It is valid today, but a migration takes weeks."""
    xnat.add_user(ADMIN)
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(days=300), "not_after": now + timedelta(days=20, hours=1)}
    async with encrypted(xnat, tmp_path / "ca.pem", **dates) as url:
        finding = only(await examined(url, "demo", ca_bundle=tmp_path / "ca.pem"))
    assert (finding.code, finding.status) == ("certificate", Status.WARNING)
    assert "20 days" in finding.meaning
    assert "renewed" in finding.hint


async def test_a_certificate_that_has_expired(xnat: TestXnat, tmp_path: Path) -> None:
    """Another authority would not help."""
    now = datetime.now(UTC)
    dates = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)}
    async with encrypted(xnat, tmp_path / "ca.pem", **dates) as url:
        finding = only(await examined(url, "demo", ca_bundle=tmp_path / "ca.pem"))
    assert (finding.code, finding.exit_code) == ("certificate", 4)
    assert "renew" in finding.hint


async def test_a_missing_bundle(tmp_path: Path) -> None:
    """The finding blames the option, not the server."""
    finding = only(await examined("https://127.0.0.1:1", ca_bundle=tmp_path / "nothing.pem"))
    assert (finding.code, finding.exit_code) == ("certificate", 2)


async def test_tls_to_a_plain_server(url: str) -> None:
    """The scheme of the address is wrong."""
    findings = await examined(url.replace("http:", "https:"))
    assert (only(findings).code, exit_code_of(findings)) == ("address", 4)
    assert "scheme" in only(findings).hint


async def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding names its variable, but not the value."""
    monkeypatch.setenv("HTTP_PROXY", "socks5://ada:secret@proxy.invalid:1080")
    findings = await examined("http://xnat.invalid", insecure=True)
    (error,) = [finding for finding in findings if finding.status is Status.ERROR]
    assert (error.code, error.exit_code) == ("proxy", 2)
    assert "HTTP_PROXY" in error.found
    assert "secret" not in str(findings)


async def test_a_proxy_of_this_machine(xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests go through it, also announced bodies; the finding names it without its password."""
    xnat.add_user(ADMIN)
    bundle = tmp_path / "ca.pem"
    async with serve_tls(xnat, bundle) as server, forward_proxy(server, secret="ada:hidden") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ada:hidden@{proxy.url}")
        findings = await examined("https://xnat.example.org", "demo", ca_bundle=bundle)
    assert wrong(findings) == []
    checks = {finding.code: finding for finding in findings}
    assert checks["proxy"].found.startswith(f"through the proxy {proxy.url}")
    assert checks["certificate"].found.startswith("trusted until ")
    assert checks["body-size"].found == "files of 8 GB get through"
    assert "hidden" not in str(findings)
    check_untouched(xnat)


def test_missing_facts_are_unknown() -> None:
    """A check without its facts is unknown, with the reason, and no error."""
    untold = Unknown("it rained")
    facts = Facts(
        "https://x.org",
        0.0,
        public=PublicFacts(is_xnat=True, body=untold),
        authenticated=AuthenticatedFacts(untold, untold, untold, untold, untold, untold, untold, untold, untold),
        projects=[ProjectFacts("P", "P", None, untold, untold, untold, untold, 0, untold)],
    )
    findings = run_checks(facts)
    assert {finding.status for finding in findings} == {Status.OK, Status.UNKNOWN}
    assert [finding.code for finding in findings if finding.status is Status.OK] == [
        "address",
        "encryption",
        "proxy",
        "login",
        "project",
    ]
    assert {finding.meaning for finding in wrong(findings)} == {"", "it rained"}
    assert exit_code_of(findings) == 0


def test_slow_ways_have_an_end() -> None:
    """As many uploads are in flight as bring back what the way takes, but for a way that is slower than any."""

    def said(seconds: float) -> Finding:
        outside = PublicFacts(is_xnat=True, version="1.8", round_trip=seconds, body=BodyLimit("8 GB"))
        (finding,) = [
            one for one in run_checks(Facts("https://x.org", 0.0, public=outside)) if one.code == "round-trip"
        ]
        return finding

    assert said(0.3).status is Status.OK
    assert "32 small files a second" in said(2.0).meaning
    assert said(2.0).hint == "run nearer to the server"


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([5, 3], 3), ([3, 2, 4], 2), ([4, 3], 4), ([9, 6], 6), ([9], 9), ([1], 1)]
)
def test_the_exit_code_is_that_of_the_first_stumble(codes: list[int], expected: int) -> None:
    """It is that of the error that an upload would meet first; a warning has none."""
    errors = [Finding("x", Status.ERROR, "", exit_code=code) for code in codes]
    assert exit_code_of([*errors, Finding("x", Status.WARNING, "")]) == expected


# --- the command


async def test_the_json(xnat: TestXnat, url: str, commands: Commands) -> None:
    """Scripts rely on its keys."""
    commands.login(url)
    put(xnat, RowStatus.CONFLICT)
    ended = await commands("doctor", "-P", "demo", "-P", "nowhere", "-P", "demo", "-o", "json")
    assert ended.code == 5
    assert list(ended.json) == ["schema", "command", "host", "exit_code", "error", "checks"]
    assert (ended.json["host"], ended.json["exit_code"]) == (url, 5)
    checks = ended.json["checks"]
    assert {tuple(check) for check in checks} == {("code", "project", "status", "found", "meaning", "hint")}
    assert [check["code"] for check in checks] == [*WAY, *LOGIN, *SITE, *PROJECT, "project"]
    assert [check["project"] for check in checks[-7:]] == ["demo"] * 6 + ["nowhere"]
    assert {check["status"] for check in checks} == {"ok", "warning", "unknown", "error"}
    assert SECRET not in ended.out + ended.err
    assert xnat.live_logins("demo") == 0


async def test_the_table(xnat: TestXnat, url: str, commands: Commands) -> None:
    """It has a line for each check, hints for what to change, and no secret."""
    commands.env |= {"XNAT_HOST": url, "XNAT_USER": "demo", "XNAT_PASS": "hidden-word", "ASYNCIMPORT_PROJECT": "demo"}
    xnat.add_user(User("demo", "hidden-word"))
    xnat.project("demo").prearchive_code = 5
    ended = await commands("doctor")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert len(lines) == len([*WAY, *LOGIN, *SITE, *PROJECT])
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert "prearchive-code demo" in warning
    assert "(hint: " in warning
    assert "hidden-word" not in ended.out + ended.err
    check_untouched(xnat)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", "no server"),
        ("xnat.example.org", "is not an address"),
        ("https://ada:hidden-word@xnat.example.org", "holds a user name or password"),
    ],
)
async def test_an_invalid_address(commands: Commands, host: str, said: str) -> None:
    """One finding names it, without what may be secret."""
    words = ["--host", host] if host else []
    ended = await commands("doctor", *words, "-o", "json")
    assert ended.code == 2
    assert ended.json["host"] is None
    (check,) = ended.json["checks"]
    assert (check["code"], check["status"]) == ("address", "error")
    assert said in check["found"]
    assert "hidden-word" not in ended.out + ended.err


async def test_without_a_password(xnat: TestXnat, url: str, commands: Commands) -> None:
    """It would end an upload, but the connection is checked all the same."""
    ended = await commands("doctor", "--host", url, "-o", "json")
    assert ended.code == 2
    assert [check["code"] for check in ended.json["checks"]] == [*WAY, "login"]
    check_untouched(xnat)


@pytest.mark.parametrize("case", ["login", "network", "missing", "read-only"])
async def test_the_exit_code_is_that_of_an_upload(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, case: str
) -> None:
    """Scripts may rely on either."""
    commands.login(url)
    project = "demo"
    match case:
        case "login":
            commands.env["XNAT_PASS"] = "guess"
        case "network":
            commands.env["XNAT_HOST"] = "http://127.0.0.1:1"
        case "missing":
            project = "nowhere"
        case _:
            xnat.add_project(Project("library", editors=(), readers=["demo"]))
            project = "library"
    checked = await commands("doctor", "-P", project, "-o", "json")
    uploaded = await commands("upload", tree, "-P", project, "-o", "json")
    assert checked.code == uploaded.code == checked.json["exit_code"] != 0, json.dumps(checked.json)


# --- what the test XNAT has for it


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("${SeriesNumber}-${InstanceNumber}", {"1-1.dcm", "1-2.dcm"}),
        ("${StudyInstanceUID}", {"1.2.3.dcm"}),
        ("${Modality}-${EchoTime}-${SOPInstanceUID}", {f"MR-no-value-for-EchoTime-1.2.3.4.{n}.dcm" for n in (1, 2)}),
    ],
)
async def test_a_template_is_in_force(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, template: str, names: set[str]
) -> None:
    """Files of one name overwrite each other, as doctor warns."""
    xnat.file_name_template = template
    for number in (1, 2):
        write(tmp_path / "tree" / f"{number}.dcm", image(number))
    commands.login(url)
    ended = await commands("upload", tmp_path / "tree", "-P", "demo", "-o", "json")
    assert {file.name for _, _, file in xnat.instances()} == names
    assert ended.code == (0 if len(names) == 2 else 9)


async def test_only_members_see_pipelines_and_subscriptions(xnat: TestXnat, url: str) -> None:
    """A reader sees neither pipelines nor subscriptions."""
    xnat.add_project(Project("library", editors=(), readers=["demo"], pipelines=("qc",), subscriptions={"mail": True}))
    about = {finding.code: finding for finding in await examined(url, "library") if finding.about}
    assert about["automation"].status is Status.UNKNOWN
    xnat.project("library").editors = ["demo"]
    about = {finding.code: finding for finding in await examined(url, "library") if finding.about}
    assert about["automation"].found == "1 pipelines, 1 subscriptions of the event service"
