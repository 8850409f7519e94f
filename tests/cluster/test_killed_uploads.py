"""What other commands do right after an upload by workers was killed: its workers go on for the time of a lease."""

from pathlib import Path

import pytest
from builders import uids_below
from conftest import Commands
from dask_processes import DaskProcesses

from asyncimport.testserver import Fault, Tell, TestXnat
from asyncimport.testserver.samples import generated

pytestmark = [pytest.mark.anyio, pytest.mark.thorough, pytest.mark.usefixtures("two_workers")]


async def test_status_verify_and_forget_after_a_kill(
    xnat: TestXnat, url: str, commands: Commands, dask: DaskProcesses, tmp_path: Path
) -> None:
    """They change nothing that the next upload relies on: it waits for the workers, and all arrives once."""
    tree = tmp_path / "tree"
    generated(tree, sessions=4, files=400, size=2_000, seed=1)
    commands.login(url)
    sealed: dict[str, int] = {}

    def look() -> None:
        for row in xnat.prearchive:
            if row.document is not None:
                sealed.setdefault(f"/data{row.uri}", len(xnat.imports))

    upload = ("upload", tree, "-P", "demo", "--dask", dask.when_ready(), "-o", "json")
    async with commands.start(*upload) as process:
        xnat.faults.add(Fault("import", Tell(process.kill), nth=40))
        await process.wait()
    label = xnat.prearchive[0].name
    status = await commands("status", "-P", "demo", "-o", "json")
    assert (status.code, status.json["at_work"]) == (0, False), status.err
    for words in (("verify",), ("verify", "--repair")):
        verified = await commands(*words, "-P", "demo", "-o", "json")
        assert verified.code == 9, verified.err
        assert {one["reason"] for one in verified.json["details"]} == {"not archived yet (open)"}
    forget = ("forget", "-P", "demo", "--session", label, "--yes")
    kept = await commands(*forget)
    assert (kept.code, "XNAT holds an unfinished delivery of it" in kept.err) == (2, True)
    forgotten = await commands(*forget, "--force")
    assert forgotten.code == 0, forgotten.err
    xnat.faults.add(Fault("any", Tell(look), share=1))
    done = await commands(*upload)
    assert done.code == 0, done.err
    assert "workers of an earlier run may still be sending" in done.err
    assert xnat.sop_uids("demo") == await uids_below(tree)
    assert xnat.prearchive == []
    for uri, imports in sealed.items():
        assert uri not in {record.uri for record in xnat.imports[imports:]}
