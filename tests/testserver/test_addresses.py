"""Labels that equal IDs of other items, and shared items: XNAT's classes look them up in different orders."""

from typing import Any

import pytest
from raw_client import RawClient, Reply, raw_client

from asyncimport.testserver import Project, TestXnat, add_session

pytestmark = pytest.mark.anyio
DEMO = "/data/projects/demo"
E = "XNAT_E00001"
BODY = {"Content-Type": "text/plain"}


def site(*, closed: bool = False) -> TestXnat:
    """Make a site of two projects: the labels of demo's subject and session equal the other project's IDs."""
    xnat = TestXnat()
    xnat.add_project(Project("other", editors=["boss"] if closed else ["demo"]))
    add_session(xnat, "theirs", "theirs", "other")
    add_session(xnat, "mine", E)
    return xnat


async def ids(web: RawClient, path: str, **params: str) -> list[str]:
    """Return the IDs of the items in a reply."""
    answer = await web.get(path, format="json", **params)
    if answer.status != 200:
        return []
    if "items" in answer.json:
        return [one["data_fields"]["ID"] for one in answer.json["items"]]
    return [row["ID"] for row in answer.rows]


async def put(web: RawClient, path: str) -> Reply:
    """PUT a small file into a resource R."""
    return await web.ask("PUT", f"{path}/resources/R/files/a.txt", b"1", BODY)


def filled(xnat: TestXnat) -> list[Any]:
    """Return the owners of the resource R: sessions, scans and subjects."""
    sessions = list(xnat.archived)
    scans = [(session, scan) for session in sessions for scan in session.scans.values()]
    return [
        *(session for session in sessions if "R" in session.own_resources),
        *(session for session, scan in scans if "R" in scan.resources),
        *(subject for subject in xnat.subjects() if "R" in subject.resources),
    ]


async def test_a_session_is_shown_by_its_id_first() -> None:
    """The ID may be of any project, in the address of any; a list by label is of the project only."""
    async with raw_client(site()) as web:
        theirs, mine = web.xnat.archived
        for path in (f"{DEMO}/experiments/{E}", f"{DEMO}/subjects/{mine.subject.label}/experiments/{E}"):
            assert await ids(web, path) == [theirs.id]
        assert await ids(web, f"{DEMO}/experiments", label=E) == [mine.id]
        assert await ids(web, f"{DEMO}/experiments/theirs") == []


async def test_what_a_user_may_not_read_is_not_found() -> None:
    """The label is looked up instead."""
    async with raw_client(site(closed=True)) as web:
        _, mine = web.xnat.archived
        assert await ids(web, f"{DEMO}/experiments/{E}") == [mine.id]
        assert (await put(web, f"{DEMO}/subjects/{mine.subject.label}/experiments/{E}")).status == 200
        assert filled(web.xnat) == [mine]


async def test_resources_of_a_session_go_by_its_id_first() -> None:
    """Also for writes, whatever project and subject the address names."""
    async with raw_client(site()) as web:
        theirs, mine = web.xnat.archived
        base = f"{DEMO}/subjects/{mine.subject.label}/experiments/{E}"
        assert (await put(web, base)).status == 200
        assert filled(web.xnat) == [theirs]
        assert [row["label"] for row in (await web.get(f"{base}/resources")).rows] == ["R"]


async def test_resources_of_scans_go_by_an_id_of_the_project_first() -> None:
    """The label comes second; lists of scans do the same."""
    async with raw_client(site()) as web:
        theirs, mine = web.xnat.archived
        base = f"{DEMO}/subjects/{mine.subject.label}/experiments/{E}"
        assert (await put(web, f"{base}/scans/1")).status == 200
        assert filled(web.xnat) == [mine]
        (row,) = (await web.get(f"{base}/scans", columns="UID")).rows
        assert row["UID"] == mine.scans["1"].series.uid
        web.xnat.share(theirs, "demo", "lent")
        assert (await put(web, f"{base}/scans/1")).status == 200
        assert filled(web.xnat) == [theirs, mine]


async def test_what_is_to_be_refreshed_goes_by_its_label_first() -> None:
    """Unlike a write at the same address."""
    async with raw_client(site()) as web:
        _, mine = web.xnat.archived
        await web.put(f"/data/experiments/{mine.id}/resources/R")
        source = f"/archive/projects/demo/subjects/mine/experiments/{E}/resources/R"
        assert (await web.post("/data/services/refresh/catalog", resource=source)).status == 200
        assert (await web.ask("DELETE", f"/data/experiments/{mine.id}/resources/R")).status == 200
        assert (await web.post("/data/services/refresh/catalog", resource=source)).status == 400


async def test_a_session_below_another_subject() -> None:
    """XNAT does not compare the session with the subject in the address."""
    async with raw_client(site()) as web:
        mine = web.xnat.archived[1]
        web.xnat.add_subject("demo", "else")
        assert (await put(web, f"{DEMO}/subjects/else/experiments/{mine.id}")).status == 200
        assert filled(web.xnat) == [mine]


async def test_a_subject_is_shown_by_its_id_and_changed_by_its_label_first() -> None:
    """GET and PUT of one address can mean two subjects; without a project only the ID counts."""
    async with raw_client() as web:
        first = web.xnat.add_subject("demo", "A")
        second = web.xnat.add_subject("demo", first.id)
        assert await ids(web, f"{DEMO}/subjects/{first.id}") == [first.id]
        assert (await web.put(f"{DEMO}/subjects/{first.id}", gender="male")).text == second.id
        assert (first.demographics, second.demographics) == ({}, {"gender": "male"})
        assert (await web.put(f"/data/subjects/{first.id}", gender="female")).text == first.id
        assert first.demographics == {"gender": "female"}
        await put(web, f"{DEMO}/subjects/{first.id}")
        assert filled(web.xnat) == [second]
        await put(web, f"/data/subjects/{first.id}")
        assert filled(web.xnat) == [first, second]


async def test_the_id_of_another_projects_subject_is_a_free_label() -> None:
    """GET shows the other subject, PUT creates one with that label."""
    async with raw_client(site()) as web:
        theirs = web.xnat.archived[0].subject
        assert await ids(web, f"{DEMO}/subjects/{theirs.id}") == [theirs.id]
        made = await web.put(f"{DEMO}/subjects/{theirs.id}", gender="male")
        assert made.status == 201
        assert made.text != theirs.id
        assert theirs.demographics == {}
        assert await ids(web, f"{DEMO}/subjects", label=theirs.id) == [made.text]


async def test_what_is_shared_is_listed_under_its_label_there() -> None:
    """A filter applies to the label in its own project, and the project column shows that one."""
    async with raw_client(site()) as web:
        theirs = web.xnat.archived[0]
        web.xnat.share(theirs, "demo", "lent")
        web.xnat.share(theirs.subject, "demo", "guest")
        for path, home, there, item in (
            ("experiments", "theirs", "lent", theirs.id),
            ("subjects", "theirs", "guest", theirs.subject.id),
        ):
            (row,) = (await web.get(f"{DEMO}/{path}", columns="ID,label,project", label=home)).rows
            assert (row["ID"], row["label"], row["project"]) == (item, there, "other")
            assert await ids(web, f"{DEMO}/{path}", label=there) == []
            assert await ids(web, f"{DEMO}/{path}/{there}") == [item]
        assert (await web.put(f"{DEMO}/subjects/guest", gender="male")).text == theirs.subject.id
        assert theirs.subject.demographics == {"gender": "male"}


async def test_rights_on_what_is_shared_are_those_at_home() -> None:
    """Users who read a project read what is shared into it, and may not change it."""
    xnat = site(closed=True)
    theirs = xnat.archived[0]
    xnat.share(theirs, "demo", "lent")
    xnat.share(theirs.subject, "demo", "guest")
    async with raw_client(xnat) as web:
        assert await ids(web, f"/data/experiments/{theirs.id}") == [theirs.id]
        assert (await web.put(f"/data/experiments/{theirs.id}/resources/R")).status == 403
        assert (await web.put(f"{DEMO}/subjects/guest", gender="male")).status == 403
        assert filled(xnat) == []
        assert theirs.subject.demographics == {}
