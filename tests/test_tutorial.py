"""The tutorial, run: every command of it, one after the other, on a machine that has nothing but Python."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import anyio
import pytest
from platformdirs import user_cache_path

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
# How this machine reaches the packages that `pip install` needs.
NETWORK = re.compile(r"PIP_.*|.*_PROXY|.*_proxy|SSL_CERT_FILE")


@pytest.fixture
def nothing(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a new user of a machine with Python: an empty home, and no variables of ours."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    tools.mkdir()
    home.mkdir()
    (tools / "python3").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    network = {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}
    # Only what pip has downloaded before is there, and nothing is compiled that is not imported.
    network |= {"PIP_CACHE_DIR": str(user_cache_path("pip")), "PIP_NO_COMPILE": "1"}
    return network | {"HOME": str(home), "PATH": f"{tools}:/usr/bin:/bin", "LANG": "C.UTF-8"}


@pytest.mark.skipif(sys.platform == "win32", reason="the tutorial is written for a POSIX shell")
@pytest.mark.timeout(600)
async def test_the_tutorial_works(nothing: dict[str, str], tmp_path: Path, unused_port: int) -> None:
    """Six studies, one of them left out, three in a pilot, the others after it; then the proof."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    script = "\n".join(["set -euo pipefail", *blocks]).replace("8090", str(unused_port))
    # What serves in the background has to be there before it is asked, and what was written is read before it is gone.
    ready = f"until (: < /dev/tcp/127.0.0.1/{unused_port}) 2>/dev/null; do kill -0 %1; sleep 0.1; done"
    kept = tmp_path / "kept"
    for before, after in ((" &\n", f" &\n{ready}\n"), ("kill %1\n", f"kill %1\ncp -r ~/practice {kept}\n")):
        assert script.count(before) == 1
        script = script.replace(before, after)
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "asyncimport", checkout / "asyncimport")
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    with anyio.fail_after(580):
        done = await anyio.run_process(["bash", "-m", "-c", script], cwd=checkout, env=nothing, check=False)
    said = done.stdout.decode() + done.stderr.decode()
    assert done.returncode in {0, -signal.SIGTERM}, said
    assert "the password is not kept: there is no keyring for passwords" in said
    assert "5 of 5 sessions hold every instance that was stored" in said
    receipts = [json.loads(line) for line in (kept / "receipts.jsonl").read_text().splitlines()]
    stored = [line for line in receipts if line["kind"] == "file"]
    assert {line["sha256_of"] for line in stored} == {"sent"}
    assert len({line["run"] for line in stored}) == 2
    assert len((kept / "done.txt").read_text().splitlines()) == len(stored) > 90
    # What this exercise wrote is gone.
    home = Path(nothing["HOME"])
    assert not (home / "practice").exists()
    assert not list(home.rglob("config.toml"))
