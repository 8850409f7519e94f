"""Pages of other sites and DNS rebinding: a browser on this machine reaches the server too."""

import pytest
from raw_client import basic_auth, raw_client

pytestmark = pytest.mark.anyio

FOREIGN = {"Host": "evil.example.org:8090"}
TOLD = ("/", "/testserver/state", "/testserver/instances")
MOZILLA = "Mozilla/5.0 (X11; Linux x86_64)"


@pytest.mark.parametrize("path", TOLD)
async def test_what_the_server_holds_is_told_here_only(path: str) -> None:
    """Other host names need a login."""
    async with raw_client(user=None, cookies=False) as web:
        for host in (web.url.removeprefix("http://"), "localhost:1", "127.1.2.3", "[::1]:80"):
            assert (await web.get(path, {"Host": host})).status == 200
        for host in ("evil.example.org", "127.0.0.1.example.org", "[::1].example.org", "10.0.0.1", ""):
            assert (await web.get(path, {"Host": host})).status == 401
        assert (await web.get(path, FOREIGN | basic_auth("demo", "wrong"))).status == 401
        assert (await web.get(path, FOREIGN | basic_auth("demo", "demo"))).status == 200


@pytest.mark.parametrize("path", [*TOLD, "/data/JSESSION", "/data/projects"])
async def test_pages_of_other_sites_get_nothing(path: str) -> None:
    """Not even with a login: a browser sends it along for any page."""
    async with raw_client() as web:
        for origin in ("https://evil.example.org", "null", "http://127.0.0.1.example.org", "http://[::1"):
            reply = await web.get(path, {"Origin": origin})
            assert (reply.status, "other sites" in reply.text) == (403, True)
        assert (await web.get(path, {"Origin": web.url})).status == 200
        assert (await web.get(path, {"Origin": "http://localhost:3000"})).status == 200


async def test_a_browser_that_knows_the_server_by_another_name_gets_nothing() -> None:
    """With DNS rebinding, the replies would belong to the page's own site."""
    async with raw_client(user=None, agent=MOZILLA) as web:
        for path in (*TOLD, "/data/JSESSION"):
            assert (await web.get(path, FOREIGN | basic_auth("demo", "demo"))).status == 403
            assert (await web.get(path, basic_auth("demo", "demo"))).status == 200
