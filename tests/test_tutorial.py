"""The tutorial, run: every command of it, one after the other, as somebody who reads it would."""

import json
import re
import signal
import socket
import sys
from pathlib import Path

import anyio
import pytest
from conftest import Commands

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


@pytest.fixture
def port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.skipif(sys.platform == "win32", reason="the tutorial is written for a POSIX shell")
async def test_the_tutorial_works(commands: Commands, tmp_path: Path, port: int) -> None:
    """Six studies, one of them left out, three in a pilot, the others after it; then the proof."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    script = "\n".join(["set -euo pipefail", *blocks, "kill %1; wait || true"])
    script = script.replace("8090", str(port))
    # What serves in the background has to be there before it is asked.
    ready = f"until (: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done"
    script = script.replace("&\n", f"&\n{ready}\n", 1)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in {"asyncimport": "-m asyncimport", "python3": ""}.items():
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        tool.chmod(0o755)
    commands.use_keyring()
    env = commands.env | {"PATH": f"{tools}:{commands.env['PATH']}"}
    work = tmp_path / "work"
    work.mkdir()
    with anyio.fail_after(50):
        done = await anyio.run_process(["bash", "-m", "-c", script], cwd=work, env=env, check=False)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode in {0, -signal.SIGTERM}, said
    assert "5 of 5 sessions hold every instance that was stored" in said
    receipts = [json.loads(line) for line in (work / "receipts.jsonl").read_text().splitlines()]
    stored = [line for line in receipts if line["kind"] == "file"]
    assert len((work / "done.txt").read_text().splitlines()) == len(stored) > 90
