"""Runs through a real nginx, which most sites have in front of XNAT: everything that it does to a run."""

import signal
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import TaskStatus
from builders import image, sop, uids_below, write
from conftest import Commands, Ended
from nginx import NGINX, Nginx, nginx_proxy, tls_settings

from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.testserver import Fault, Tell, TestXnat, Timing, serve
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


async def check_all_arrived(ended: Ended, xnat: TestXnat, tree: Path) -> None:
    """Check that everything is archived and verified, by the summary and in XNAT."""
    assert ended.code == 0, ended.out + ended.err
    sent = await uids_below(tree)
    summary = ended.json
    assert summary["files"]["stored"] == summary["files"]["found"] == len(sent)
    assert {(detail["state"], detail["verified"]) for detail in summary["details"]} == {("archived", "uids")}
    assert summary["problems"] == []
    assert xnat.sop_uids("demo") == sent
    assert (xnat.prearchive, xnat.partial_files()) == ([], [])
    assert xnat.live_logins("demo") == 0


def most_times_stored(xnat: TestXnat) -> int:
    """Return how often any one file was stored at most."""
    return max(Counter(record.sop_uid for record in xnat.imports).values())


def impatient(place: str, url: str) -> str:
    """Return the settings of a proxy that waits for half a second, and only there: a machine may be slow."""
    return f"location {place} {{ proxy_pass {url}; proxy_read_timeout 500ms; }}"


# --- TLS


@pytest.fixture
def authority() -> trustme.CA:
    """Make the certificate authority of a site."""
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """Write the site's certificate authority for --ca-bundle."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def test_a_private_authority_is_trusted_when_named(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path, authority: trustme.CA, bundle: Path
) -> None:
    """With --ca-bundle everything arrives; without it the run ends before the password is sent, with a hint."""
    async with nginx_proxy(url, tmp_path, **tls_settings(authority.issue_cert("localhost"), tmp_path)) as proxy:
        commands.login(proxy.url)
        refused = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert refused.code == refused.json["exit_code"] == 4
        assert "certificate is not trusted" in refused.json["error"]["message"]
        assert "--ca-bundle" in refused.json["error"]["hint"]
        assert proxy.answers == []
        ended = await commands("upload", tree, "-P", "demo", "-o", "json", "--ca-bundle", bundle)
    await check_all_arrived(ended, xnat, tree)


YESTERDAY = datetime.now(UTC) - timedelta(days=1)
UNTRUSTED: Mapping[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "another name": (("xnat.example.org",), {}, "ostname mismatch"),
    "expired": (("localhost",), {"not_before": YESTERDAY - timedelta(days=9), "not_after": YESTERDAY}, "has expired"),
}


@pytest.mark.parametrize(("names", "dates", "reason"), UNTRUSTED.values(), ids=UNTRUSTED.keys())
async def test_an_invalid_certificate_ends_the_run(
    xnat: TestXnat,
    url: str,
    commands: Commands,
    tree: Path,
    tmp_path: Path,
    authority: trustme.CA,
    bundle: Path,
    names: tuple[str, ...],
    dates: dict[str, Any],
    reason: str,
) -> None:
    """A trusted authority does not help if the certificate is another host's, or has expired."""
    async with nginx_proxy(url, tmp_path, **tls_settings(authority.issue_cert(*names, **dates), tmp_path)) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json", "--ca-bundle", bundle)
    assert ended.code == 4
    assert "certificate is not trusted" in ended.json["error"]["message"]
    assert reason in ended.json["error"]["message"]
    assert ended.json["error"]["hint"]
    assert not xnat.count


@pytest.mark.parametrize("encrypted", [True, False])
async def test_the_wrong_protocol_ends_the_run(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path, authority: trustme.CA, encrypted: bool
) -> None:
    """It may be http to a TLS port or TLS to an http port: one line, a hint, and the end."""
    settings = tls_settings(authority.issue_cert("localhost"), tmp_path) if encrypted else {}
    async with nginx_proxy(url, tmp_path, **settings) as proxy:
        scheme, rest = proxy.url.split(":", 1)
        commands.login(f"{'http' if scheme == 'https' else 'https'}:{rest}")
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 4
    assert ended.json["error"]["hint"]
    assert "Traceback" not in ended.err
    assert not xnat.count


# --- what the proxy does not let through


SMALL_ENOUGH = {1, 3, 4, 6, 7, 8}


def write_some_too_large(tree: Path, size: int) -> None:
    """Write the eight images of a session, two of them of about this size."""
    for number in range(1, 9):
        write(tree / f"{number}.dcm", image(number, pixels=1_000 if number in SMALL_ENOUGH else size))


@pytest.mark.parametrize("size", [300_000, 8 * LARGE])
async def test_files_too_large_for_the_proxy_are_refused(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, size: int
) -> None:
    """The reason says that the 413 is the proxy's; the session lacks the files, and is held."""
    tree = tmp_path / "tree"
    write_some_too_large(tree, size)
    async with nginx_proxy(url, tmp_path, client_max_body_size="100k") as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8, ended.out + ended.err
    summary = ended.json
    assert (summary["files"]["stored"], summary["files"]["refused"], summary["files"]["failed"]) == (6, 2, 0)
    assert [(problem["kind"], problem["files"]) for problem in summary["problems"]] == [("refused", 2)]
    assert "proxy" in summary["problems"][0]["reason"]
    assert "413" in summary["problems"][0]["reason"]
    assert [(detail["state"], detail["verified"]) for detail in summary["details"]] == [("held", None)]
    assert xnat.sop_uids() == set()


async def test_a_proxy_that_resets_what_is_too_large_is_named(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """With no patience for the rest of a body it resets the connection, and its 413 may be lost: the next one is not.

    A file whose answer was lost once is called failed rather than refused, as after any attempt that broke off.
    """
    tree = tmp_path / "tree"
    write_some_too_large(tree, 8 * LARGE)
    async with nginx_proxy(url, tmp_path, client_max_body_size="100k", lingering_time="0s") as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 8, ended.out + ended.err
    files = ended.json["files"]
    assert (files["stored"], files["refused"] + files["failed"]) == (6, 2)
    assert all("proxy" in problem["reason"] and "413" in problem["reason"] for problem in ended.json["problems"])
    assert {record.sop_uid for record in xnat.imports} == {sop(number) for number in SMALL_ENOUGH}


# --- the proxy gives up while XNAT goes on


@pytest.mark.parametrize("code", [0, 4])
async def test_an_archive_step_longer_than_the_proxy_timeout(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path, code: int
) -> None:
    """A 504 is no verdict: the run waits until XNAT has finished, and does not repeat the step."""
    xnat.project("demo").prearchive_code = code
    xnat.archive_seconds = 1.6
    async with nginx_proxy(url, tmp_path, server=impatient("/data/services/archive", url)) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
    assert proxy.count(504, "/services/archive") == 2
    assert (xnat.count["archive"], xnat.count["build"]) == (2, 2)


async def test_a_build_longer_than_the_proxy_timeout(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """After the build, whose answer is lost, the session is archived once."""
    xnat.timing = Timing(build_seconds=1.6)

    def recovered() -> None:
        xnat.timing = Timing()

    xnat.faults.add(Fault("build", Tell(recovered), nth=3))
    async with nginx_proxy(url, tmp_path, server=impatient("/data/prearchive/", url)) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
    assert proxy.count(504, "POST /data/prearchive/") >= 2
    assert xnat.count["archive"] == 2


# --- connections that are closed under us


@pytest.mark.parametrize("most", [100, 3])
async def test_connections_that_the_proxy_closes_are_replaced(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, most: int
) -> None:
    """With `keepalive_requests` each connection serves some requests; no file is lost or stored again."""
    tree = tmp_path / "tree"
    generated(tree, sessions=3, files=900, size=1_000, seed=6)
    async with nginx_proxy(url, tmp_path, keepalive_requests=str(most)) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json", "-w", "4")
    await check_all_arrived(ended, xnat, tree)
    assert max(proxy.per_connection()) == most
    assert most_times_stored(xnat) <= 2


async def test_a_proxy_that_reloads_closes_idle_connections(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """With a new certificate nginx replaces its workers, and closes connections between requests."""
    tree = tmp_path / "tree"
    generated(tree, sessions=3, files=600, size=1_000, seed=7)
    async with nginx_proxy(url, tmp_path) as proxy:
        for nth in range(50, 600, 50):
            xnat.faults.add(Fault("import", Tell(lambda: proxy.process.send_signal(signal.SIGHUP)), nth=nth))
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
    assert proxy.errors.count("start worker process ") > 2
    assert most_times_stored(xnat) <= 2


# --- XNAT is away


async def ask(url: str) -> None:
    """Request the home page, on a new connection."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")
        async for _piece in stream:
            pass


async def test_a_restart_of_xnat_behind_the_proxy_is_survived(
    xnat: TestXnat, commands: Commands, tmp_path: Path, unused_port: int
) -> None:
    """The proxy answers 502; XNAT comes back without its logins, and the run finishes."""
    tree = tmp_path / "tree"
    generated(tree, sessions=3, files=120, size=1_000, seed=8)
    moment = anyio.Event()
    xnat.faults.add(Fault("import", Tell(moment.set), nth=50))

    async def live_twice(*, task_status: TaskStatus[str]) -> None:
        async with serve(xnat, port=unused_port) as url:
            task_status.started(url)
            await moment.wait()
            # Older asyncio loses hold of what it is accepting when its server closes: let nothing more come, and
            # have what has come accepted.
            proxy.send_signal(signal.SIGSTOP)
            await ask(url)
        proxy.send_signal(signal.SIGCONT)
        await proxy.wait_for(502)
        xnat.expire_logins()
        async with serve(xnat, port=unused_port):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        url = await tasks.start(live_twice)
        async with nginx_proxy(url, tmp_path) as proxy:
            commands.login(proxy.url)
            ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        tasks.cancel_scope.cancel()
    await check_all_arrived(ended, xnat, tree)
    assert xnat.count["login"] == 2
    assert most_times_stored(xnat) <= 2


async def test_an_xnat_that_is_away_from_the_beginning_ends_the_run(
    commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """The error has the proxy's status, and the hint names the server."""
    async with nginx_proxy("http://127.0.0.1:1", tmp_path) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.code == 4
    assert "the server answers 502 to the login" in ended.json["error"]["message"]
    assert ended.json["error"]["hint"] == "check the address, and that the server is up"
    assert [answer.request for answer in proxy.answers] == ["POST /data/JSESSION"] * 3


# --- ways to set it up

UNBUFFERED = {"proxy_request_buffering": "off", "proxy_buffering": "off"}
HTTP_1_1 = {"proxy_http_version": "1.1", "proxy_set_header": 'Connection ""'}
WAYS: dict[str, dict[str, str]] = {
    "HTTP/1.0, buffered": {},
    "HTTP/1.0, unbuffered": UNBUFFERED,
    "HTTP/1.1, buffered": HTTP_1_1,
    "HTTP/1.1, unbuffered": HTTP_1_1 | UNBUFFERED,
    "bodies on disk": {"client_body_in_file_only": "clean"},
}


async def check_a_run_through(proxy: Nginx, xnat: TestXnat, commands: Commands, tmp_path: Path) -> None:
    """Upload small files and a streamed one, and check that each was sent once."""
    tree = tmp_path / "tree"
    written = generated(tree, sessions=2, files=40, size=2_000, seed=9)
    write(tree / "large.dcm", image(pixels=3 * LARGE))
    commands.login(proxy.url)
    ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
    assert xnat.count["import"] == written.files + 1
    # The project has no series import filter of its own.
    assert {(answer.status, "seriesImportFilter" in answer.request) for answer in proxy.answers} == {
        ("200", False),
        ("404", True),
    }


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS.keys())
async def test_how_the_proxy_passes_bodies_makes_no_difference(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path, settings: dict[str, str]
) -> None:
    """It may buffer bodies or not, in any version of HTTP: each file arrives once."""
    async with nginx_proxy(url, tmp_path, **settings) as proxy:
        await check_a_run_through(proxy, xnat, commands, tmp_path)


async def test_connections_between_proxy_and_xnat_may_be_kept(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """Requests of several of our connections share one to XNAT."""
    upstream = f"upstream xnat {{ server {url.removeprefix('http://')}; keepalive 4; }}"
    async with nginx_proxy(url, tmp_path, target="http://xnat", http=upstream, **HTTP_1_1) as proxy:
        await check_a_run_through(proxy, xnat, commands, tmp_path)


@pytest.mark.parametrize("taken_away", [True, False])
async def test_xnat_below_a_path(xnat: TestXnat, commands: Commands, tmp_path: Path, taken_away: bool) -> None:
    """The context path is XNAT's own, or removed by the proxy."""
    async with serve(xnat, context="" if taken_away else "xnat") as url:
        target = f"{url}/" if taken_away else url.removesuffix("/xnat")
        async with nginx_proxy(url, tmp_path, location="/xnat/", target=target) as proxy:
            await check_a_run_through(proxy, xnat, commands, tmp_path)
    assert proxy.url.endswith("/xnat")


# --- the proxy slows us down, or loses its patience


async def test_the_rate_limit_of_a_proxy_is_respected(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A 503 with Retry-After pauses all uploads; everything arrives, with few rejected requests."""
    tree = tmp_path / "tree"
    generated(tree, sessions=2, files=24, size=1_000, seed=10)
    limits = f"""
        location /data/services/import {{
            limit_req zone=imports burst=14 nodelay;
            limit_req_status 503;
            error_page 503 @later;
            proxy_pass {url};
        }}
        location @later {{
            add_header Retry-After 1 always;
            return 503;
        }}"""
    zone = "limit_req_zone $server_port zone=imports:1m rate=3r/s;"
    async with nginx_proxy(url, tmp_path, http=zone, server=limits) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
    assert 0 < proxy.count(503) < 24
    assert xnat.count["import"] == 24


async def test_a_body_that_the_proxy_no_longer_waits_for_is_sent_again(
    xnat: TestXnat, url: str, commands: Commands, tmp_path: Path
) -> None:
    """A run that is stopped in mid-body and goes on too late (408, and the connection reset) repairs what arrived."""
    tree = tmp_path / "tree"
    write(tree / "large.dcm", image(pixels=16 * LARGE))
    async with nginx_proxy(url, tmp_path, client_body_timeout="3s", **HTTP_1_1, **UNBUFFERED) as proxy:
        commands.login(proxy.url)
        async with commands.start("upload", tree, "-P", "demo", "-o", "json") as process:
            xnat.faults.add(Fault("import", Tell(lambda: process.send_signal(signal.SIGSTOP))))
            await proxy.wait_for(408)
            process.send_signal(signal.SIGCONT)
            assert process.stdout is not None
            assert process.stderr is not None
            out = b"".join([piece async for piece in process.stdout])
            err = b"".join([piece async for piece in process.stderr])
            ended = Ended(await process.wait(), out.decode(), err.decode())
    await check_all_arrived(ended, xnat, tree)
    assert xnat.count["import"] == 2
    assert xnat.imports[-1].status == 200


async def test_a_build_that_always_outlasts_the_proxy_is_archived(
    xnat: TestXnat, url: str, commands: Commands, tree: Path, tmp_path: Path
) -> None:
    """A session whose build got no answer is archived, not built again."""
    xnat.timing = Timing(build_seconds=0.8)
    async with nginx_proxy(url, tmp_path, server=impatient("/data/prearchive/", url)) as proxy:
        commands.login(proxy.url)
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
    await check_all_arrived(ended, xnat, tree)
