"""Users, schemas, search elements and settings of the site over HTTP."""

import re
from typing import Any

import pytest
from raw_client import raw_client

from asyncimport.testserver import Project, TestXnat, User, add_reader, add_session

pytestmark = pytest.mark.anyio
JSON = {"Content-Type": "application/json"}


def site(**settings: Any) -> TestXnat:
    """Make a site with an administrator and a user who may only read."""
    xnat = TestXnat(**settings)
    xnat.add_user(User("admin", "admin", all_data=True))
    add_reader(xnat, "reader")
    return xnat


async def test_the_list_of_users_may_be_for_administrators() -> None:
    """By default everybody sees it; the own name and profile are always there."""
    async with raw_client(site(restrict_user_list=True)) as web:
        assert (await web.get("/xapi/users")).status == 403
        refused = await web.get("/data/users")
        message = "Access Denied: Only site managers can access site-level user resources."
        assert (refused.status, refused.message) == (403, message)
        name = await web.get("/xapi/users/username")
        assert (name.type, name.text) == ("text/plain", "demo")
        own = await web.get("/xapi/users/demo", format="json")
        assert (own.json["username"], own.json["id"], own.json["enabled"]) == ("demo", 1, True)
        assert (await web.get("/xapi/users/admin")).status == 403
        web.xnat.restrict_user_list = False
        assert (await web.get("/xapi/users")).json == ["demo", "admin", "reader"]
        assert [row["login"] for row in (await web.get("/data/users")).rows] == ["admin", "demo", "reader"]
    async with raw_client(site(), user="admin") as web:
        assert [one["username"] for one in (await web.get("/xapi/users/profiles")).json] == ["demo", "admin", "reader"]
        gone = await web.get("/xapi/users/nobody")
        assert (gone.status, gone.type, gone.text) == (404, "text/plain", "Unable to find requested file or resource")


async def test_users_of_a_project() -> None:
    """The groups follow from the rights; only those who may edit the project may look."""
    xnat = site()
    xnat.add_user(User("writer", "writer"))
    project = xnat.project("demo")
    project.editors, project.deleters = ["demo", "writer"], ["demo"]
    async with raw_client(xnat) as web:
        rows = (await web.get("/data/projects/demo/users")).rows
        assert [(row["login"], row["GROUP_ID"], row["displayname"]) for row in rows] == [
            ("demo", "demo_owner", "Owners"),
            ("writer", "demo_member", "Members"),
            ("reader", "demo_collaborator", "Collaborators"),
        ]
        unknown = await web.get("/data/projects/nope/users")
        assert unknown.status == 404
        assert unknown.message.startswith("The project ID nope does not appear to be a valid project ID.")
        xnat.restrict_user_list = True
        project.editors = ["writer"]
        project.readers = ["demo"]
        refused = await web.get("/data/projects/demo/users")
        assert refused.message == "Access Denied: Only project owners and site managers can access user resources."


async def test_accessibility_of_a_project() -> None:
    """A text; setting it needs the right to delete."""
    async with raw_client(site()) as web:
        path = "/data/projects/demo/accessibility"
        assert (await web.get(path)).text == "private"
        assert (await web.put(f"{path}/public")).text == "public"
        assert web.xnat.project("demo").public
        assert (await web.put(f"{path}/nonsense")).status == 500
        assert (await web.get("/data/projects/nope/accessibility")).status == 404
        web.xnat.project("demo").deleters = []
        assert (await web.put(f"{path}/private")).status == 403


async def test_schemas() -> None:
    """Names, and for a name its document, which has every type that a session or scan may have."""
    async with raw_client(site()) as web:
        assert (await web.get("/xapi/schemas", format="json")).json == ["xnat"]
        document = await web.get("/xapi/schemas/xnat")
        assert document.type == "application/xml"
        assert (await web.get("/xapi/schemas/xnat/xnat")).text == document.text
        types = re.findall(r'<xs:complexType name="(\w+)"', document.text)
        assert len(types) == len(set(types))
        assert {"projectData", "mrSessionData", "ctSessionData", "mrScanData", "ctScanData"} <= set(types)
        for kind in re.findall(r'(?:type|base)="xnat:(\w+)"', document.text):
            assert kind in types
        gone = await web.get("/xapi/schemas/nope")
        assert (gone.status, gone.text) == (404, "classpath:schemas/nope/nope.xsd")


async def test_search_elements() -> None:
    """As JSON and CSV, with the number of items."""
    xnat = site()
    add_session(xnat, "S", "E")
    xnat.add_project(Project("closed", editors=["boss"]))
    async with raw_client(xnat) as web:
        answer = await web.get("/data/search/elements", format="json")
        assert answer.json["ResultSet"]["title"] == "Data-Types"
        counts = {row["ELEMENT_NAME"]: row["COUNT"] for row in answer.rows}
        assert (counts["xnat:projectData"], counts["xnat:mrSessionData"], counts["xnat:ctSessionData"]) == (
            "2",
            "1",
            "0",
        )
        used = await web.get("/data/search/elements", format="csv", used="true", readable="true")
        assert used.text.splitlines() == [
            "ELEMENT_NAME,SINGULAR,PLURAL,SECURED,COUNT",
            "xnat:projectData,Project,Projects,true,1",
            "xnat:subjectData,Subject,Subjects,true,1",
            "xnat:imageScanData,Scan,Scans,false,1",
            "xnat:mrSessionData,MR Session,MR Sessions,true,1",
        ]
        assert (await web.post("/data/search", b"<xml/>")).status == 501
        fields = await web.get("/data/search/elements/xnat:mrSessionData")
        assert {row["ELEMENT_NAME"] for row in fields.rows} == {"xnat:mrSessionData"}
        assert (await web.get("/data/search/elements/nope")).status == 400


async def test_settings_of_the_site() -> None:
    """Everybody reads those that are theirs; administrators read and set all."""
    async with raw_client(site()) as web:
        mine = (await web.get("/xapi/siteConfig")).json
        assert mine["checksums"] is True
        assert "requireLogin" not in mine
        for path, body in (("/xapi/siteConfig", b"{}"), ("/xapi/siteConfig/checksums", b"false")):
            refused = await web.ask("POST", path, body, JSON)
            assert (refused.status, refused.text) == (403, "")
    async with raw_client(site(), user="admin") as web:
        assert (await web.get("/xapi/siteConfig")).json["requireLogin"] is True
        for name, body, kind in (
            ("checksums", b"false", "text/plain"),
            ("defaultProjectAutoArchiveSetting", b"5", "application/json"),
            ("sitewidePetMr", b"separate", "text/plain"),
            ("dicomFileNameTemplate", b'"${SOPInstanceUID}"', "application/json"),
            ("sessionXmlRebuilderInterval", b"7", "text/plain"),
            ("sessionArchiveTimeoutInterval", b"8", "text/plain"),
            ("concurrentMaxSessions", b"9", "text/plain"),
            ("enableSitewideAnonymizationScript", b"false", "text/plain"),
        ):
            answer = await web.ask("POST", f"/xapi/siteConfig/{name}", body, {"Content-Type": kind})
            assert (answer.status, answer.text) == (200, ""), name
            assert (await web.get(f"/xapi/siteConfig/{name}")).text == body.decode().strip('"')
        many = b'{"preventCrossModalityMerge": false, "requireLogin": true}'
        assert (await web.ask("POST", "/xapi/siteConfig", many, JSON)).status == 200
        assert web.xnat.prevent_cross_modality_merge is False
        assert web.xnat.default_prearchive_code == 5
        assert (await web.ask("POST", "/xapi/siteConfig/nonsense", b"1", JSON)).status == 501
        assert (await web.put("/xapi/siteConfig/checksums", b"true")).status == 405
        missing = await web.get("/xapi/siteConfig/nonsense")
        assert (missing.status, missing.text) == (404, "No site configuration property named nonsense")
