"""The tests for a real XNAT are run on the test XNAT, so that they work when somebody has a real one."""

import os
import sys
from pathlib import Path

import anyio
import pytest

from asyncimport.testserver import PROFILES, Project, TestXnat, User, serve

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("version", ["1.6.1", "1.8"])
async def test_they_pass_and_leave_nothing_behind(tmp_path: Path, version: str) -> None:
    """What others have in the project stays."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    xnat.add_user(User("nurse", "secret"))
    xnat.add_project(Project("SCRATCH"))
    others = xnat.add_subject("SCRATCH", "somebody")
    async with serve(xnat) as url:
        settings = {"HOST": url, "USER": "nurse", "PASS": "secret", "PROJECT": "SCRATCH"}
        env = os.environ | {f"ASYNCIMPORT_TEST_XNAT_{name}": value for name, value in settings.items()}
        words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/real"]
        done = await anyio.run_process(words, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert b"4 passed" in done.stdout
    assert (xnat.archived, xnat.prearchive, xnat.subjects("SCRATCH")) == ([], [], [others])
