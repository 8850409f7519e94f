"""Everything that decides whether a migration will work, and what to change. It stores nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time

from asyncimport.credentials import check_host
from asyncimport.errors import FatalError, UsageError
from asyncimport.operations.findings import Facts, Finding, exit_code
from asyncimport.operations.result import Result, ended_in
from asyncimport.operations.server_checks import check_login, check_way
from asyncimport.operations.site_checks import check_projects, check_site
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.xnat.client import connect
from asyncimport.xnat.inspection import inspect_project, inspect_site
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.public_inspection import inspect_address
from asyncimport.xnat.transport import Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorRequest:
    """Which server and projects to look at. Without `credentials`, `no_login` says why there are none."""

    host: str
    credentials: Credentials | None = None
    no_login: FatalError | None = None
    projects: Sequence[str] = ()
    ca_bundle: Path | None = None
    insecure: bool = False
    """Allow plain http and untrusted certificates."""


@dataclass(slots=True, kw_only=True)
class DoctorResult(Result):
    """The checks, in the order in which an upload would meet them. `host` is "" where it is no address."""

    host: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def findings_code(self) -> int:
        """Return 0, or the code of the first error that `upload` would meet."""
        return exit_code(self.findings)


async def doctor(request: DoctorRequest, *, stop: Stop | None = None) -> DoctorResult:
    """Check the server, the way to it, the login and the projects. What fails is a finding."""
    stop = stop or Stop()
    facts = _known(request)
    result = DoctorResult(host=facts.host)
    with ended_in(result, stop):
        with stop.at_once():
            credentials = None if facts.unencrypted else request.credentials
            facts = await examine(facts, credentials, request.projects, ca_bundle=request.ca_bundle)
        result.findings = judge(facts)
    return result


def _known(request: DoctorRequest) -> Facts:
    """Return what can be told before anything is asked."""
    try:
        host = check_host(request.host, insecure=True)
    except UsageError as error:
        # What is no address may hold a password.
        return Facts("", time(), bad_address=error)
    facts = Facts(host, time(), insecure=request.insecure)
    try:
        check_host(host, insecure=request.insecure)
    except UsageError as error:
        return replace(facts, unencrypted=error)
    return replace(facts, no_login=request.no_login)


def judge(facts: Facts) -> list[Finding]:
    """Judge everything there is to judge, in the order in which an upload would meet it."""
    return [*check_way(facts), *check_login(facts), *check_site(facts), *check_projects(facts)]


async def examine(
    facts: Facts,
    credentials: Credentials | None = None,
    projects: Sequence[str] = (),
    *,
    ca_bundle: Path | None = None,
) -> Facts:
    """Find out as much as can be, and add it to the facts; what fails is a fact too."""
    if facts.bad_address is not None:
        return facts
    verify = not facts.insecure
    facts = replace(facts, outside=await inspect_address(facts.host, ca_bundle=ca_bundle, verify=verify))
    if credentials is None or facts.outside is None or not facts.outside.is_xnat:
        return facts
    try:
        async with connect(
            facts.host,
            credentials,
            connections=1,
            timeouts=Timeouts(connect=10.0, stall=15.0, reply=30.0),
            ca_bundle=ca_bundle,
            verify=verify,
            policy=RetryPolicy(attempts=1),
        ) as client:
            inside = await inspect_site(client)
            return replace(
                facts, inside=inside, projects=[await inspect_project(client, project) for project in projects]
            )
    except FatalError as error:
        return replace(facts, no_login=error)
