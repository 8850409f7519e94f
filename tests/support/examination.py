"""What `asyncimport doctor` finds out about a server, in this process."""

from pathlib import Path
from time import time

from builders import DEMO

from asyncimport.operations.doctor import collect_facts, run_checks
from asyncimport.operations.server_checks import Facts, Finding, Status
from asyncimport.testserver import TestXnat
from asyncimport.xnat.login import Credentials


async def examined(
    url: str,
    *projects: str,
    credentials: Credentials | None = DEMO,
    insecure: bool = False,
    ca_bundle: Path | None = None,
) -> list[Finding]:
    """Examine a server as the command does, in this process."""
    facts = Facts(url, time(), insecure=insecure)
    return run_checks(await collect_facts(facts, credentials, projects, ca_bundle=ca_bundle))


def wrong(findings: list[Finding]) -> list[Finding]:
    """Return the findings that are not ok."""
    return [finding for finding in findings if finding.status is not Status.OK]


def only(findings: list[Finding]) -> Finding:
    """Return the one finding that is not ok."""
    (finding,) = wrong(findings)
    return finding


def check_untouched(xnat: TestXnat) -> None:
    """Check that nothing was stored, and that no login is left: neither the user's nor a guest's."""
    assert (xnat.imports, xnat.prearchive, xnat.archived) == ([], [], [])
    assert xnat.live_logins("demo") == 0
    assert not xnat.logins._logins
