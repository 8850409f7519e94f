"""Calls through a small real proxy, and the variables that name it."""

import os
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from aiohttp import web
from builders import listening, logged_in
from conftest import Commands
from forward_proxy import NAME, forward_proxy, make_tls_context, serve_tls
from yarl import URL

from asyncimport.errors import TransientError, UnavailableError, UsageError
from asyncimport.testserver import TestXnat
from asyncimport.xnat.proxies import DIRECT, proxy_for
from asyncimport.xnat.site import check_project

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

PASSWORD = "p@ss:w/rd#1"
ESCAPED = "p%40ss%3Aw%2Frd%231"
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's own proxy and bundle variables."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name in BUNDLES:
            monkeypatch.delenv(name)


# --- through it


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_http_goes_through_the_proxy(
    xnat: TestXnat, url: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Each request goes to the proxy with its full address."""
    async with forward_proxy(url) as proxy:
        monkeypatch.setenv(variable, f"http://{proxy.url}")
        async with logged_in(f"http://{NAME}:8080") as client:
            assert await check_project(client, "demo") == "demo"
    assert proxy.requests[0] == f"POST http://{NAME}:8080/data/JSESSION HTTP/1.1"
    assert xnat.live_logins("demo") == 0


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_https_goes_through_a_tunnel(
    xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The proxy sees only the server's name, and the client the server's certificate."""
    bundle = tmp_path / "ca.pem"
    async with serve_tls(xnat, bundle) as url, forward_proxy(url) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        async with logged_in(f"https://{NAME}", ca_bundle=bundle) as client:
            assert await check_project(client, "demo") == "demo"
        assert set(proxy.requests) == {f"CONNECT {NAME}:443 HTTP/1.1"}
        with pytest.raises(UnavailableError, match="the server's certificate is not trusted"):
            async with logged_in(f"https://{NAME}"):
                raise AssertionError("an unknown certificate was trusted")
    assert xnat.count["login"] == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_user_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """The proxy gets them, with any characters, but the server behind a tunnel does not."""
    seen: list[set[str]] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append({name.lower() for name in request.headers})
        if request.path == "/data/JSESSION":
            return web.Response(text="OURS")
        return web.Response(text="User 'demo' is logged in")

    bundle = tmp_path / "ca.pem"
    context = await anyio.to_thread.run_sync(make_tls_context, bundle)
    site = {"ssl_context": context} if scheme == "https" else {}
    async with listening(answer, **site) as url, forward_proxy(url, secret=f"ada:{PASSWORD}") as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", f"http://ada:{ESCAPED}@{proxy.url}/")
        async with logged_in(f"{scheme}://{NAME}", ca_bundle=bundle) as client:
            assert PASSWORD not in repr(client._transport._proxy)
    assert len(seen) == 3
    assert [names for names in seen if "proxy-authorization" in names] == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", r"the proxy 127\.0\.0\.1:\d+ asks for a user name and password \(407\)"),
        ("ada:wrong@", r"the proxy 127\.0\.0\.1:\d+ refuses the user name or password \(407\)"),
    ],
)
async def test_a_proxy_that_refuses_the_password(
    xnat: TestXnat, url: str, monkeypatch: pytest.MonkeyPatch, scheme: str, given: str, message: str
) -> None:
    """There is one attempt, and the error names the proxy."""
    async with forward_proxy(url, secret="ada:right") as proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://{given}{proxy.url}")
        with pytest.raises(UnavailableError, match=message) as caught:
            async with logged_in(f"{scheme}://{NAME}"):
                raise AssertionError("let through without a password")
    assert len(proxy.requests) == 1
    assert caught.value.hint
    assert "wrong" not in f"{caught.value} {caught.value!r}"
    assert caught.value.__cause__ is None
    assert not xnat.count


@pytest.mark.parametrize(
    ("status", "message", "times"),
    [
        (403, r"the proxy 127\.0\.0\.1:\d+ refuses the connection to the server \(403\)", 1),
        (502, r"does not answer: the proxy 127\.0\.0\.1:\d+ has no connection to the server \(502\)", 3),
    ],
)
async def test_a_proxy_that_refuses_a_tunnel(
    url: str, monkeypatch: pytest.MonkeyPatch, status: int, message: str, times: int
) -> None:
    """A refusal ends the run; a temporary failure is repeated."""
    async with forward_proxy(url, status=status) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.url}")
        with pytest.raises(UnavailableError, match=message):
            async with logged_in(f"https://{NAME}"):
                raise AssertionError("let through")
    assert len(proxy.requests) == times


async def test_no_tls_behind_the_tunnel(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error does not blame the proxy, whose tunnel works."""
    async with forward_proxy(url) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.url}")
        with pytest.raises(UnavailableError, match="no connection to the server"):
            async with logged_in(f"https://{NAME}"):
                raise AssertionError("spoke TLS with a server that does not")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "proxy.invalid:3128"])
async def test_a_missing_proxy(monkeypatch: pytest.MonkeyPatch, scheme: str, address: str) -> None:
    """The error names the proxy, but not its password."""
    monkeypatch.setenv("ALL_PROXY", f"http://ada:{ESCAPED}@{address}")
    with pytest.raises(UnavailableError, match=f"no connection to the proxy {address}") as caught:
        async with logged_in(f"{scheme}://{NAME}"):
            raise AssertionError("let through by nobody")
    cause = caught.value.__cause__
    assert isinstance(cause, TransientError)
    assert cause.unreachable
    for secret in (PASSWORD, ESCAPED):
        assert secret not in f"{caught.value} {caught.value!r} {cause!r} {cause.__cause__!r}"


async def test_a_run_through_a_proxy(xnat: TestXnat, commands: Commands, tree: Path, tmp_path: Path) -> None:
    """Upload and verify, through a tunnel, with the site's certificates from the environment."""
    bundle = tmp_path / "ca.pem"
    async with serve_tls(xnat, bundle) as url, forward_proxy(url, secret=f"ada:{PASSWORD}") as proxy:
        for name in [name for name in commands.env if name.lower().endswith("_proxy") or name in BUNDLES]:
            del commands.env[name]
        commands.login(f"https://{NAME}")
        commands.env |= {"HTTPS_PROXY": f"http://ada:{ESCAPED}@{proxy.url}", "REQUESTS_CA_BUNDLE": str(bundle)}
        ended = await commands("upload", tree, "-P", "demo", "-o", "json")
        assert ended.code == 0, ended.err
        assert (await commands("verify", "-P", "demo")).code == 0
        commands.env["HTTPS_PROXY"] = f"http://ada:wrong-horse@{proxy.url}"
        refused = await commands("upload", tree, "-P", "demo", "-o", "json")
    assert ended.json["files"]["stored"] == 12
    assert set(proxy.requests) == {f"CONNECT {NAME}:443 HTTP/1.1"}
    assert xnat.live_logins("demo") == 0
    assert refused.code == 4
    assert "refuses the user name or password" in refused.json["error"]["message"]
    assert "wrong-horse" not in refused.out + refused.err
    written = [path.read_bytes() for path in commands.home.rglob("*") if path.is_file()]
    assert written
    assert [text for text in written if PASSWORD.encode() in text or ESCAPED.encode() in text] == []


# --- whether there is one


@pytest.mark.parametrize("excluded", [NAME, ".example.org", "example.org", f"{NAME}:8443", "*", f"other.org, {NAME}"])
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_a_server_in_no_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, excluded: str) -> None:
    """NO_PROXY may have a name, a domain, a port, or `*`."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv(variable, excluded)
    assert proxy_for(URL(f"https://{NAME}:8443")) is DIRECT


@pytest.mark.parametrize("excluded", ["", "other.org", f"{NAME}:8443", "ample.org"])
def test_a_server_not_in_no_proxy(monkeypatch: pytest.MonkeyPatch, excluded: str) -> None:
    """Another name, another port, or the end of a word does not match."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", excluded)
    assert proxy_for(URL(f"https://{NAME}")).url == URL("http://proxy.example.org:3128")


@pytest.mark.parametrize("host", ["localhost:8080", "LOCALHOST", "127.0.0.1:8080", "127.1.2.3", "[::1]:8080"])
def test_no_proxy_to_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Loopback addresses need no proxy."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example.org:3128")
    assert proxy_for(URL(f"http://{host}")) is DIRECT


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://a:1"}, None),
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "http://b:1"),
        ({"HTTPS_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}, "http://a:1"),
        ({"ALL_PROXY": "http://b:1"}, "http://b:1"),
        ({"HTTPS_PROXY": "proxy.example.org:3128"}, "http://proxy.example.org:3128"),
        ({"HTTPS_PROXY": "http://proxy.example.org"}, "http://proxy.example.org"),
        ({"HTTPS_PROXY": "https://proxy.example.org/"}, "https://proxy.example.org"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "http://[fd00::1]:3128"),
    ],
)
def test_which_proxy_is_used(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None) -> None:
    """It is the one for the scheme, or for all schemes; without its own scheme it is an http proxy."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    url = proxy_for(URL(f"https://{NAME}")).url
    assert (None if url is None else str(url)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (f"http://ada:{PASSWORD}@proxy.example.org:3128", "HTTPS_PROXY is not an address"),
        ("http://ada:se/cret@proxy.example.org:3128", "HTTPS_PROXY is not an address"),
        ("http://ada:12/cret@proxy.example.org:3128", "HTTPS_PROXY is not an address"),
        ("http://", "HTTPS_PROXY is not an address"),
        ("http://proxy.example.org:99999", "HTTPS_PROXY is not an address"),
        ("socks5://ada:secret@proxy.example.org:1080", "HTTPS_PROXY names a socks5 proxy, which is not supported"),
    ],
)
def test_an_invalid_proxy_variable(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    """The error names the variable but not its value, which may have a password."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(UsageError, match=message) as caught:
        proxy_for(URL(f"https://{NAME}"))
    said = f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None
    assert not [word for word in ("ada", "p@ss", "cret", "w/rd") if word in said]


# --- whose certificates are trusted


@pytest.mark.parametrize("variable", BUNDLES)
async def test_bundles_of_the_environment(
    xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Without --ca-bundle, the variables of other programs name the site's authority."""
    bundle = tmp_path / "ca.pem"
    async with serve_tls(xnat, bundle) as url, forward_proxy(url) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv(variable, str(bundle))
        async with logged_in(f"https://{NAME}") as client:
            assert await check_project(client, "demo") == "demo"


async def test_the_order_of_bundles(xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option comes first, then the first variable that is set; without verification none is read."""
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    async with serve_tls(xnat, right) as url, forward_proxy(url) as proxy:
        await anyio.to_thread.run_sync(make_tls_context, wrong)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("CURL_CA_BUNDLE", str(wrong))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(right))
        monkeypatch.setenv("SSL_CERT_FILE", "")
        async with logged_in(f"https://{NAME}"):
            pass
        monkeypatch.setenv("SSL_CERT_FILE", str(wrong))
        with pytest.raises(UnavailableError, match="not trusted"):
            async with logged_in(f"https://{NAME}"):
                raise AssertionError("the second one counted")
        async with logged_in(f"https://{NAME}", ca_bundle=right):
            pass
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        async with logged_in(f"https://{NAME}", verify=False):
            pass
    assert xnat.count["login"] == 3


async def test_insecure_does_not_apply_to_the_proxy(
    xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy gets a password of its own, so its certificate is checked."""
    ours = tmp_path / "proxy.pem"
    context = await anyio.to_thread.run_sync(make_tls_context, ours, "127.0.0.1")
    async with serve_tls(xnat, tmp_path / "ca.pem") as url, forward_proxy(url, secret="ada:x", tls=context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://ada:x@{proxy.url}")
        with pytest.raises(UnavailableError, match=r"not trusted|no connection"):
            async with logged_in(f"https://{NAME}", verify=False):
                raise AssertionError("a proxy of nobody was trusted")
        assert proxy.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(ours))
        async with logged_in(f"https://{NAME}", verify=False) as client:
            assert await check_project(client, "demo") == "demo"


@pytest.mark.parametrize("variable", BUNDLES)
async def test_a_missing_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """The error names the variable."""
    monkeypatch.setenv(variable, str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match=rf"{variable} .*gone\.pem cannot be read: No such file"):
        async with logged_in("https://127.0.0.1:1"):
            raise AssertionError("connected without a bundle")


async def test_a_directory_of_certificates(xnat: TestXnat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no certificate under OpenSSL's names, so no server is trusted."""
    async with serve_tls(xnat, tmp_path / "ca.pem") as url, forward_proxy(url) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
        with pytest.raises(UnavailableError, match="not trusted"):
            async with logged_in(f"https://{NAME}"):
                raise AssertionError("trusted by nobody")
