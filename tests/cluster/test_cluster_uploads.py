"""Uploads by workers of Dask: the same outcomes, receipts and verdicts as on one machine."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import states_in, uids_below, upload
from local_cluster import local_workers

from asyncimport.source.folder import FileSource
from asyncimport.testserver import TestXnat, serve
from asyncimport.testserver.samples import generated

pytestmark = pytest.mark.anyio


async def test_workers_send_what_one_machine_sends(tmp_path: Path) -> None:
    """All is archived and verified, and receipts, digests and outcomes are the same."""
    tree = tmp_path / "tree"
    generated(tree, sessions=6, files=150)
    one, many = TestXnat(tmp_path / "one"), TestXnat(tmp_path / "many")
    async with serve(one) as url:
        alone = await upload(url, [tree], tmp_path / "one.db", receipts=tmp_path / "one.jsonl")
    async with (
        serve(many) as url,
        local_workers(partial(FileSource, [tree], digests=True)) as workers,
    ):
        together = await upload(url, [tree], tmp_path / "many.db", receipts=tmp_path / "many.jsonl", workers=workers)
    assert together.files == alone.files
    assert [(one.session, one.state, one.verified) for one in together.sessions] == [
        (one.session, one.state, one.verified) for one in alone.sessions
    ]
    assert many.sop_uids("demo") == one.sop_uids("demo") == await uids_below(tree)
    assert len(many.imports) == len(one.imports) == 150
    assert await states_in(tmp_path / "many.db") == await states_in(tmp_path / "one.db")
    assert _receipts(tmp_path / "many.jsonl") == _receipts(tmp_path / "one.jsonl")


def _receipts(path: Path) -> list[Any]:
    """Return the receipts of files, without what differs between two runs."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    varying = {"time", "uri", "archive_uri", "prearchive_uri", "run"}
    return sorted(
        (json.dumps({key: value for key, value in line.items() if key not in varying}, sort_keys=True))
        for line in lines
    )
