"""What all tests share: one event loop, nothing that blocks it, a test XNAT, and small DICOM trees."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from asyncimport.testserver import TestXnat, serve


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: aiohttp knows no other."""
    return "asyncio"


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Turn any blocking call on the event loop, by the client or by the test server, into an error."""
    with blockbuster_ctx() as guard:
        yield guard


@pytest.fixture
def xnat(tmp_path: Path) -> TestXnat:
    """Make a test XNAT that is not being served yet: user, password and project `demo`."""
    return TestXnat(tmp_path / "xnat")


@pytest.fixture
async def url(xnat: TestXnat) -> AsyncIterator[str]:
    """Serve the test XNAT on a real socket, and give its address."""
    async with serve(xnat) as address:
        yield address
