"""The test server's own pages: what has arrived, for people and for other processes."""

import pytest
from raw_client import dicom, raw_client, sop

from asyncimport.testserver import (
    Empty,
    Fault,
    Project,
    TestXnat,
)

pytestmark = pytest.mark.anyio


async def test_the_home_page_shows_what_has_arrived_with_all_values_escaped() -> None:
    """Projects, prearchive, archive, with links; no login."""
    xnat = TestXnat()
    xnat.add_project(Project("p", "<script>alert(1)</script>"))
    async with raw_client(xnat) as web:
        empty = await web.get("/")
        assert "Nothing yet." in empty.text
        await web.archive_session(dicom(1), dicom(2))
        await web.import_session(dicom(3), EXPT_LABEL="<b>F")
    async with raw_client(xnat, user=None, context="xnat") as web:
        page = await web.get("/")
        assert (page.status, page.type) == (200, "text/html")
        assert "<script>" not in page.text
        assert "<b>" not in page.text
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
        for shown in (
            '<span class="state busy">RECEIVING</span>',
            '<span class="state good">archived</span>',
            'data-name="Modality">MR</td>',
            'data-name="Files" class="number">2</td>',
            "3 files received",
            " kB</td>",
        ):
            assert shown in page.text


async def test_the_state_is_json_for_other_processes() -> None:
    """Projects, rows, sessions with counts, requests; no login."""
    async with raw_client() as web:
        await web.archive_session(dicom(1), dicom(2))
        await web.import_session(dicom(3))
        state = (await web.get("/testserver/state", {"Cookie": ""})).json
        assert [project["id"] for project in state["projects"]] == ["demo"]
        assert [(row["session"], row["status"], row["files"]) for row in state["prearchive"]] == [("E", "RECEIVING", 1)]
        (session,) = state["archived"]
        assert (session["subject"], session["session"], session["partial_files"]) == ("S", "E", 0)
        assert [(scan["id"], scan["files"]) for scan in session["scans"]] == [("1", 2)]
        assert state["requests"] == {"import": 3, "build": 1, "archive": 1}
        lines = (await web.get("/testserver/instances")).text.splitlines()
        assert lines == [f"demo\tS\tE\t1\t{sop(1)}", f"demo\tS\tE\t1\t{sop(2)}"]


async def test_the_state_tells_of_faults() -> None:
    """For those who run the server as a process."""
    async with raw_client() as web:
        web.xnat.faults.add(Fault("import", Empty(), nth=2))
        await web.send(dicom())
        await web.send(dicom())
        assert (await web.get("/testserver/state")).json["faults"] == [
            {"kind": "import", "action": "Empty", "seen": 2, "hits": 1}
        ]
