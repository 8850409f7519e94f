"""`asyncimport doctor`: how large a body may be is found without sending one."""

import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random, randrange
from threading import Thread
from time import perf_counter

import anyio.to_thread
import pytest
import trustme
from aiohttp import ClientError, web
from builders import listening
from examination import check_untouched, examined, only
from nginx import NGINX, nginx_proxy, tls_settings

from asyncimport.operations.server_checks import Status
from asyncimport.testserver import TestXnat, User
from asyncimport.xnat.public_inspection import BODY_SIZES

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]
behind_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

ADMIN = User("demo", "demo", all_data=True)


@behind_nginx
async def test_the_limit_of_a_proxy_is_found(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """No byte of a body is sent, and nothing stays in XNAT."""
    xnat.add_user(ADMIN)
    async with nginx_proxy(url, tmp_path, client_max_body_size="1m") as proxy:
        finding = only(await examined(proxy.url, "demo"))
    assert (finding.code, finding.status) == ("body-size", Status.WARNING)
    assert "between 1 MB and 100 MB (413)" in finding.found
    assert "client_max_body_size" in finding.hint
    assert xnat.count["import"] == 0  # nginx waits for the body before it asks XNAT
    check_untouched(xnat)


@behind_nginx
@pytest.mark.parametrize(
    ("limit", "found"), [("900k", "below 1 MB"), ("3g", "between 2 GB and 8 GB"), ("0", "files of 8 GB get through")]
)
async def test_limits_behind_tls(xnat: TestXnat, url: str, tmp_path: Path, limit: str, found: str) -> None:
    """The answer to the announcement shows it also with TLS; the certificate is nginx's."""
    authority = trustme.CA()
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    certificate = tls_settings(authority.issue_cert("localhost"), tmp_path)
    async with nginx_proxy(url, tmp_path, **certificate, client_max_body_size=limit) as proxy:
        findings = await examined(proxy.url, "demo", ca_bundle=bundle)
    checks = {finding.code: finding for finding in findings if not finding.about}
    assert found in checks["body-size"].found
    assert "nginx" in checks["proxy"].found
    assert checks["certificate"].status is Status.OK
    check_untouched(xnat)


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        (None, Status.WARNING, "below 1 MB (the connection is closed)"),
        (413, Status.WARNING, "below 1 MB (413)"),
        (417, Status.UNKNOWN, "not known"),
        (503, Status.UNKNOWN, "not known"),
    ],
)
async def test_other_answers_to_an_announcement(answer: int | None, status: Status, found: str) -> None:
    """A connection that is closed twice is a limit too; other answers are not."""

    async def tell(request: web.BaseRequest) -> web.Response:
        if request.path == "/xapi/siteConfig/buildInfo":
            return web.json_response({"version": "1.8.10"})
        if request.method != "POST" or "services/import" not in request.path:
            return web.Response(text="0" * 32)
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=answer or 200)

    async with listening(tell) as url:
        findings = await examined(url, credentials=None)
    (finding,) = [finding for finding in findings if finding.code == "body-size"]
    assert finding.status is status
    assert found in finding.found


async def test_no_byte_of_a_body_is_sent() -> None:
    """A server that asks for the body gets none, and the connection is closed."""
    sizes: list[int | None] = []
    bodies: list[bytes] = []

    async def tell(request: web.BaseRequest) -> web.Response:
        if request.path == "/xapi/siteConfig/buildInfo":
            return web.json_response({"version": "1.8.10"})
        if request.method == "POST":
            sizes.append(request.content_length)
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            with suppress(OSError, ClientError):
                bodies.append(await request.content.readany())
        return web.Response(text="0" * 32)

    async with listening(tell) as url:
        findings = await examined(url, credentials=None)
    assert [finding.found for finding in findings if finding.code == "body-size"] == ["files of 8 GB get through"]
    assert sizes == list(BODY_SIZES.values())
    assert b"".join(bodies) == b""


async def test_an_answer_that_follows_at_once() -> None:
    """The body is asked for and the answer given in one breath: whichever is seen first, it is an answer.

    Both are on their way at the same moment only now and then, hence many of them.
    """
    seed = randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self, status: int, text: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.answer(200, b'{"version": "1.8.10"}' if "buildInfo" in self.path else b"0" * 32)

        def do_DELETE(self) -> None:
            self.answer(200, b"")

        def do_POST(self) -> None:
            # By now a 100 has been sent.
            until = perf_counter() + chance.uniform(0, 0.0005)
            while perf_counter() < until:
                pass
            self.close_connection = True
            with suppress(OSError):
                self.answer(401, b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            for _ in range(100):
                findings = await examined(f"http://127.0.0.1:{server.server_port}", credentials=None)
                (finding,) = [finding for finding in findings if finding.code == "body-size"]
                assert finding.found == "files of 8 GB get through"
        finally:
            await anyio.to_thread.run_sync(server.shutdown)
            thread.join()
