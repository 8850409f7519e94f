"""The backend that anyio runs the tests on."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: aiohttp knows no other."""
    return "asyncio"
