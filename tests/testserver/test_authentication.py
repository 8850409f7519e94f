"""Logins: cookies, passwords, guests, lock-out, browsers, alias tokens."""

import pytest
from raw_client import Clock, basic_auth, dicom, raw_client

from asyncimport.testserver import PROFILES, Project, TestXnat, User

pytestmark = pytest.mark.anyio


async def test_archive_01_no_credentials_are_401_with_a_challenge_and_a_guest_cookie() -> None:
    """Without cookie and password: 401, a challenge, Tomcat's page, and a guest's cookie."""
    async with raw_client(user=None, cookies=False) as web:
        answer = await web.get("/data/projects")
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="XNAT"'
        assert answer.type == "text/html"
        assert "HTTP Status 401" in answer.text
        guest = {"Cookie": f"JSESSIONID={answer.cookies['JSESSIONID']}"}
        again = await web.get("/data/projects", guest)
        assert again.status == 401
        assert "JSESSIONID" not in again.cookies


@pytest.mark.parametrize("agent", ["Mozilla/5.0 (X11)", "x AppleWebKit/5", "Opera/9", "MSIE 6"])
async def test_archive_02_browsers_are_redirected_to_the_login_page(agent: str) -> None:
    """A browser's User-Agent gets 302, and the page it leads to says 200."""
    async with raw_client(user=None, cookies=False, agent=agent, context="/xnat") as web:
        answer = await web.get("/data/projects")
        assert answer.status == 302
        assert answer.headers["Location"] == "/xnat/app/template/Login.vm"
        page = await web.get("/app/template/Login.vm")
        assert page.status == 200
        assert "<!-- BEGIN xnat-templates/screens/Login.vm -->" in page.text


async def test_archive_02_xnats_own_desktop_client_is_no_browser() -> None:
    """XNATDesktopClient is exempt although it names Mozilla."""
    async with raw_client(user=None, cookies=False, agent="Mozilla XNATDesktopClient") as web:
        assert (await web.get("/data/projects")).status == 401


async def test_archive_03_bad_password_is_401_without_challenge() -> None:
    """A wrong password is 401, and no challenge is sent."""
    async with raw_client(user=None, cookies=False) as web:
        for name, password in (("demo", "wrong"), ("nobody", "demo")):
            answer = await web.get("/data/projects", basic_auth(name, password))
            assert answer.status == 401
            assert "WWW-Authenticate" not in answer.headers
            assert "login attempt failed" in answer.text


async def test_archive_03_twenty_bad_passwords_lock_the_account_for_an_hour() -> None:
    """The right password is refused too, until an hour has passed."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock), user=None, cookies=False) as web:
        for _ in range(20):
            assert (await web.get("/data/JSESSION", basic_auth("demo", "wrong"))).status == 401
        assert (await web.get("/data/JSESSION", basic_auth())).status == 401
        clock.seconds += 3601
        assert (await web.get("/data/JSESSION", basic_auth())).status == 200


async def test_archive_03_success_resets_the_count_of_failures() -> None:
    """19 failures, a success, 19 failures: not locked."""
    async with raw_client(user=None, cookies=False) as web:
        for _ in range(2):
            for _ in range(19):
                await web.get("/data/JSESSION", basic_auth("demo", "wrong"))
            assert (await web.get("/data/JSESSION", basic_auth())).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_import_03_jsession_is_the_login(method: str) -> None:
    """The body is the id as text; DELETE ends it."""
    async with raw_client(user=None, cookies=False) as web:
        answer = await web.ask(method, "/data/JSESSION", None, basic_auth())
        assert answer.type == "text/plain"
        assert len(answer.text) == 32
        assert answer.cookies["JSESSIONID"] == answer.text
        assert web.xnat.live_logins("demo") == 1
        cookie = {"Cookie": f"JSESSIONID={answer.text}"}
        assert (await web.get("/data/auth", cookie)).text == "User 'demo' is logged in"
        end = await web.ask("DELETE", "/data/JSESSION", None, cookie)
        assert (end.status, end.text) == (200, "")
        assert (await web.get("/data/auth", cookie)).status == 401
        assert web.xnat.live_logins("demo") == 0


async def test_archive_04_jsession_with_csrf_token() -> None:
    """?CSRF=true appends the token."""
    async with raw_client() as web:
        login, _, token = (await web.get("/data/JSESSION", CSRF="true")).text.partition("; XNAT_CSRF=")
        assert len(login) == 32
        assert len(token) == 36


async def test_archive_05_jsession_answers_guests_with_200() -> None:
    """An expired cookie without a password still gets an ID: a guest's, which has no rights."""
    async with raw_client() as web:
        web.xnat.expire_logins()
        answer = await web.get("/data/JSESSION")
        assert answer.status == 200
        assert answer.cookies["JSESSIONID"] == answer.text
        assert (await web.get("/data/auth")).status == 401


async def test_archive_06_cookies_of_every_reply() -> None:
    """The login's cookie is HttpOnly; each reply has the time of expiry, quoted; a login gets a new ID."""
    async with raw_client(user=None, cookies=False) as web:
        async with web.http.get(web.url + "/data/projects") as reply:
            first, second = reply.headers.getall("Set-Cookie")
        assert first.endswith("; Path=/; HttpOnly")
        assert second.startswith('SESSION_EXPIRATION_TIME="')
        assert ',900000"' in second
        guest = first.split("=")[1].split(";")[0]
        answer = await web.get("/data/projects", basic_auth() | {"Cookie": f"JSESSIONID={guest}"})
        assert answer.cookies["JSESSIONID"] != guest
        assert (await web.get("/data/JSESSION", {"Cookie": f"JSESSIONID={guest}"})).text != guest


async def test_archive_07_idle_logins_die_and_requests_keep_them() -> None:
    """900 s without a request end a login; each request restarts the time."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock)) as web:
        for _ in range(3):
            clock.seconds += 899
            assert (await web.get("/data/auth")).status == 200
        clock.seconds += 901
        assert web.xnat.live_logins("demo") == 0
        assert (await web.get("/data/auth")).status == 401


async def test_import_02_every_password_without_cookie_is_another_login_up_to_the_cap() -> None:
    """A client without cookies reaches the limit, and then is refused as if its password were wrong."""
    async with raw_client(TestXnat(max_sessions=3), user=None, cookies=False) as web:
        statuses = [(await web.get("/data/auth", basic_auth())).status for _ in range(4)]
        assert statuses == [200, 200, 200, 401]
        assert web.xnat.live_logins("demo") == 3


async def test_archive_08_a_live_cookie_outweighs_a_wrong_password() -> None:
    """XNAT does not check the password if the cookie is that user's."""
    async with raw_client() as web:
        assert (await web.get("/data/auth", basic_auth("demo", "wrong"))).status == 200
        assert web.xnat.live_logins("demo") == 1


async def test_archive_08_another_users_password_changes_the_login() -> None:
    """A cookie of one user and the password of another: the password decides."""
    async with raw_client() as web:
        web.xnat.add_user(User("other", "secret"))
        assert (await web.get("/data/auth", basic_auth("other", "secret"))).text == "User 'other' is logged in"


async def test_archive_09_browsers_need_a_token_to_change_anything() -> None:
    """A browser's POST without XNAT_CSRF is a 500 page; with it, it goes through."""
    async with raw_client(agent="Mozilla/5.0") as web:
        assert (await web.send(dicom())).status == 500
        token = (await web.get("/data/JSESSION", CSRF="true")).text.partition("=")[2]
        assert (await web.send(dicom(), XNAT_CSRF=token)).status == 200


async def test_archive_11_open_addresses_and_versions() -> None:
    """Build information needs no login; /data/version is gone in 1.8."""
    async with raw_client(user=None, cookies=False) as web:
        assert (await web.get("/xapi/siteConfig/buildInfo")).json["version"].startswith("1.8")
        assert (await web.get("/xapi/siteConfig/buildInfo/version")).text.startswith("1.8")
        assert (await web.get("/data/version", basic_auth())).status == 404


async def test_services_auth_logs_in_with_a_form() -> None:
    """PUT of a form: the id, or 401; without a form 404."""
    async with raw_client(user=None) as web:
        form = {"username": "demo", "password": "demo"}
        assert (await web.put("/data/services/auth")).status == 404
        bad = await web.put("/data/services/auth", form | {"password": "x"})
        assert (bad.status, bad.message) == (401, "Authentication failed.")
        answer = await web.put("/data/services/auth", form)
        assert answer.cookies["JSESSIONID"] == answer.text
        assert (await web.get("/data/auth")).status == 200


async def test_users_count_and_end_their_logins() -> None:
    """GET counts them; DELETE ends them all; other users' logins are a 403."""
    async with raw_client() as web:
        assert (await web.get("/data/user/demo/sessions")).json == {"demo": 1}
        assert (await web.get("/data/user/other/sessions")).status == 403
        await web.ask("DELETE", "/data/user/demo/sessions")
        assert (await web.get("/data/auth")).status == 401


async def test_malformed_basic_is_an_error_page() -> None:
    """A value without colon is 500."""
    async with raw_client(user=None, cookies=False) as web:
        assert (await web.get("/data/auth", {"Authorization": "Basic bm9jb2xvbg=="})).status == 500


async def test_provider_prefix_names_the_user_behind_it() -> None:
    """`provider/user` logs the user in."""
    async with raw_client(user=None, cookies=False) as web:
        assert (await web.get("/data/auth", basic_auth("localdb/demo", "demo"))).status == 200


async def test_archive_09_java_and_xapi_need_no_token() -> None:
    """A User-Agent with JAVA in it is exempt whatever else it names, and /xapi is not guarded."""
    async with raw_client(agent="Mozilla/5.0 Java/17") as web:
        assert (await web.send(dicom())).status == 200
    async with raw_client(agent="Mozilla/5.0") as web:
        assert (await web.post("/xapi/siteConfig/buildInfo")).status == 405
        assert (await web.post("/data/JSESSION")).status == 500


async def test_archive_10_tokens_stand_for_a_user_for_two_days() -> None:
    """Alias and secret work as Basic credentials until they are two days old."""
    clock = Clock()
    async with raw_client(TestXnat(clock=clock)) as web:
        token = (await web.get("/data/services/tokens/issue")).json
        assert set(token) == {
            *("alias", "secret", "xdatUserId", "singleUse", "estimatedExpirationTime", "validIPAddresses"),
            *("id", "enabled", "created", "timestamp", "disabled"),
        }
        assert (token["xdatUserId"], token["singleUse"]) == ("demo", False)
        assert token["estimatedExpirationTime"] - token["created"] == 172_800_000
        assert (await web.get("/data/services/tokens/show")).json == [token]
        web.http.cookie_jar.clear()
        credentials = basic_auth(token["alias"], token["secret"])
        for fresh in (True, False):  # the second time with its cookie, which stays
            answer = await web.get("/data/auth", credentials)
            assert answer.text == "User 'demo' is logged in"
            assert ("JSESSIONID" in answer.cookies) is fresh
        assert web.xnat.live_logins("demo") == 2
        web.http.cookie_jar.clear()
        clock.seconds += 172_801
        assert (await web.get("/data/auth", credentials)).status == 401


async def test_archive_10_tokens_are_checked_and_ended() -> None:
    """Validate and invalidate; only administrators issue tokens for other users."""
    xnat = TestXnat()
    xnat.add_user(User("admin", "x", all_data=True))
    async with raw_client(xnat) as web:
        path = "/data/services/tokens"
        token = (await web.get(f"{path}/issue")).json
        assert (await web.get(f"{path}/validate/{token['alias']}/{token['secret']}")).json == {"valid": "demo"}
        assert (await web.get(f"{path}/validate/{token['alias']}/wrong")).json == {}
        assert (await web.get(f"{path}/validate/nope/wrong")).status == 404
        assert (await web.get(f"{path}/shred")).status == 400
        assert (await web.get(f"{path}/issue/user/admin")).status == 403
        assert (await web.get(f"{path}/invalidate/{token['alias']}")).json == {"result": "OK"}
        web.http.cookie_jar.clear()
        assert (await web.get("/data/auth", basic_auth(token["alias"], token["secret"]))).status == 401
    async with raw_client(xnat, user="admin") as web:
        assert (await web.get("/data/services/tokens/issue/user/demo")).json["xdatUserId"] == "demo"
    async with raw_client(TestXnat(require_login=False), user=None) as web:
        assert (await web.get("/data/services/tokens/issue")).status == 403


async def test_archive_12_a_site_that_is_not_set_up_lets_nobody_in() -> None:
    """403 with XNAT's text, with and without a password; a client with a cookie is redirected."""
    async with raw_client() as web:
        web.xnat.initialised = False
        assert (await web.get("/data/projects")).headers["Location"] == "/app/template/Unconfigured.vm"
        web.http.cookie_jar.clear()
        for headers in ({}, basic_auth()):
            answer = await web.get("/data/JSESSION", headers)
            assert answer.status == 403
            assert "Site has not yet been configured." in answer.text
            web.http.cookie_jar.clear()


async def test_archive_13_an_expired_password_redirects_every_call() -> None:
    """302 to the page that changes it, also with the right password and for an import."""
    xnat = TestXnat()
    xnat.add_user(User("old", "x", password_expired=True))
    async with raw_client(xnat, user=None, context="/xnat") as web:
        for method, path in (("GET", "/data/JSESSION"), ("GET", "/data/projects"), ("POST", "/data/services/import")):
            answer = await web.ask(method, path, None, basic_auth("old", "x"))
            assert answer.status == 302
            assert answer.headers["Location"] == "/xnat/app/template/XDATScreen_UpdateUser.vm"


async def test_guests_of_an_open_site_read_what_is_public() -> None:
    """requireLogin=false: guests see public projects, change nothing, and bad passwords are refused all the same."""
    xnat = TestXnat(require_login=False)
    xnat.add_project(Project("open", public=True))
    async with raw_client(xnat, user=None, cookies=False) as web:
        assert (await web.get("/data/auth")).text == "User 'guest' is logged in"
        assert [row["ID"] for row in (await web.get("/data/projects")).rows] == ["open"]
        assert (await web.get("/data/projects/demo", format="json")).status == 404
        assert (await web.put("/data/projects/open")).status == 403
        assert "/Unassigned/" in (await web.send(dicom(), PROJECT_ID="demo")).text
        assert (await web.get("/data/auth", basic_auth("demo", "wrong"))).status == 401


@pytest.mark.parametrize("version", ["1.5.4", "1.6.1"])
async def test_archive_11_old_versions_have_no_xapi(version: str) -> None:
    """The version is at /data/version instead."""
    async with raw_client(TestXnat(profile=PROFILES[version])) as web:
        assert (await web.get("/data/version")).text.startswith(version)
        assert (await web.get("/xapi/siteConfig/buildInfo")).status == 404
