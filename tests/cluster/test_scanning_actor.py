"""What runs on a worker, without Dask; and what is refused before anything is connected."""

from pathlib import Path

import anyio
import pytest
from builders import image, sop, write

from asyncimport.cluster.connect import connect
from asyncimport.cluster.path_map import ScanSettings
from asyncimport.cluster.scanning_actor import ScanningActor, pack_files, unpack_batch, unpack_identities
from asyncimport.cluster.specs import parse_spec
from asyncimport.dicom import Identity
from asyncimport.errors import UsageError
from asyncimport.model.files import File

pytestmark = pytest.mark.anyio


async def test_requests_at_once_get_their_own_answers(tmp_path: Path) -> None:
    """The process that reads headers answers one at a time."""
    files = [write(tmp_path / f"{number}.dcm", image(number)) for number in range(1, 25)]
    worker = ScanningActor()
    await worker.begin(ScanSettings(places=[str(tmp_path)]))
    found: dict[int, str] = {}

    async def identify(number: int, file: File) -> None:
        (one,) = unpack_identities([file], await worker.identify(pack_files([file])))
        assert isinstance(one, Identity)
        found[number] = one.sop_uid

    async with anyio.create_task_group() as tasks:
        for number, file in enumerate(files, start=1):
            tasks.start_soon(identify, number, file)
    assert found == {number: sop(number) for number in range(1, 25)}


async def test_a_batch_of_a_walk_that_is_asked_for_twice_comes_twice(tmp_path: Path) -> None:
    """At once, and when it was lost on the way; nothing is left out."""
    files = {str(write(tmp_path / f"{number}.dcm", image(number)).path) for number in range(1, 60)}
    worker = ScanningActor()
    await worker.begin(ScanSettings(places=[str(tmp_path)]))
    await worker.start_walk(7, [str(tmp_path)])
    found: list[str] = []
    for number in range(100):
        batches: list[bytes] = []

        async def ask(number: int = number, batches: list[bytes] = batches) -> None:
            batches.append(await worker.next_batch(7, number))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
        await ask()
        assert batches == batches[:1] * 3
        batch = unpack_batch(batches[0])
        found += [one.path for one in batch if isinstance(one, File)]
        if not batch:
            break
    assert sorted(found) == sorted(files)


async def test_plain_tcp_to_another_machine_is_refused() -> None:
    """Before anything is sent there."""
    with pytest.raises(UsageError, match="is not encrypted"):
        async with connect(parse_spec("tcp://192.0.2.1:8786")):
            pass
