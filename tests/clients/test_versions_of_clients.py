"""Which client can talk to which version of XNAT."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from client_site import Site, filled_site

from asyncimport.testserver import PROFILES, TestXnat, serve

pytest.importorskip("xnat.session")  # without the client, `xnat` is a folder of these tests
xnatpy: Any = importlib.import_module("xnat")
pyxnat: Any = pytest.importorskip("pyxnat")
xnatctl: Any = pytest.importorskip("xnatctl.cli.main")
testing: Any = pytest.importorskip("click.testing")
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]


def list_with_xnatpy(url: str, _: Path) -> list[str]:
    """Connect, which builds a model of types from /xapi/schemas, and list."""
    with xnatpy.connect(url, user="demo", password="demo", loglevel="CRITICAL", cli=True) as session:
        return [experiment.label for experiment in session.projects["demo"].experiments.values()]


def list_with_pyxnat(url: str, _: Path) -> list[str]:
    """List, as CSV."""
    with pyxnat.Interface(server=url, user="demo", password="demo") as interface:
        return [one.label() for one in interface.select.project("demo").experiments()]


def list_with_xnatctl(url: str, home: Path) -> list[str]:
    """List; this client asks for nothing before."""
    env = {"XNAT_URL": url, "XNAT_USER": "demo", "XNAT_PASS": "demo", "HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    ended = testing.CliRunner().invoke(xnatctl.cli, ["session", "list", "-P", "demo", "-q"], env=env)
    assert ended.exit_code == 0, ended.output
    return ["E"] if "XNAT_E00001" in ended.stdout else []


@pytest.mark.parametrize("version", PROFILES)
@pytest.mark.parametrize(
    ("client", "needs_xapi"),
    [(list_with_xnatpy, True), (list_with_pyxnat, False), (list_with_xnatctl, False)],
    ids=["xnatpy", "pyxnat", "xnatctl"],
)
async def test_a_list_of_sessions(
    tmp_path: Path, client: Callable[[str, Path], list[str]], needs_xapi: bool, version: str
) -> None:
    """A client that needs /xapi begins with XNAT 1.7."""
    xnat = TestXnat(tmp_path / "xnat", profile=PROFILES[version])
    async with serve(xnat, context="") as url:
        site: Site = await filled_site(xnat, url)
        if needs_xapi and not xnat.profile.has_xapi:
            with pytest.raises((ValueError, xnatpy.exceptions.XNATResponseError), match="schemas"):
                await site.run(lambda: client(url, tmp_path))
        else:
            assert await site.run(lambda: client(url, tmp_path)) == ["E"]
