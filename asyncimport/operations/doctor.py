"""Check whether a migration will work, and what to change. Nothing is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time

import anyio.to_thread

from asyncimport.credentials.hosts import check_host
from asyncimport.errors import FatalError, UsageError
from asyncimport.model.record import record
from asyncimport.operations.result import Result, captured_in
from asyncimport.operations.server_checks import Facts, Finding, check_connection, check_login, exit_code_of
from asyncimport.operations.site_checks import check_projects, check_site
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.system.deflate import measure_rate
from asyncimport.xnat.client import connect
from asyncimport.xnat.inspection import inspect_project, inspect_site
from asyncimport.xnat.login import Credentials
from asyncimport.xnat.public_inspection import inspect_address
from asyncimport.xnat.transport import Timeouts


@record(kw_only=True)
class DoctorRequest:
    """The server and projects to check. Without `credentials`, `no_login` says why there are none."""

    host: str
    credentials: Credentials | None = None
    no_login: FatalError | None = None
    projects: Sequence[str] = ()
    ca_bundle: Path | None = None
    insecure: bool = False
    """Allow plain http and untrusted certificates."""


@dataclass(slots=True, kw_only=True)
class DoctorResult(Result):
    """The findings, in the order in which an upload would meet them. `host` is "" if it is not an address."""

    host: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def findings_code(self) -> int:
        """Return 0, or the code of the first error that `upload` would meet."""
        return exit_code_of(self.findings)


async def doctor(request: DoctorRequest, *, stop: Stop | None = None) -> DoctorResult:
    """Check the server, the connection, the login and the projects. A failure is a finding."""
    stop = stop or Stop()
    facts = _initial_facts(request)
    result = DoctorResult(host=facts.host)
    with captured_in(result, stop):
        with stop.immediate_scope():
            credentials = None if facts.unencrypted else request.credentials
            facts = await collect_facts(facts, credentials, request.projects, ca_bundle=request.ca_bundle)
        result.findings = run_checks(facts)
    return result


def _initial_facts(request: DoctorRequest) -> Facts:
    """Return the facts that are known before the first request."""
    try:
        host = check_host(request.host, insecure=True)
    except UsageError as error:
        # Do not keep what is not an address: it may hold a password.
        return Facts("", time(), bad_address=error)
    facts = Facts(host, time(), insecure=request.insecure)
    try:
        check_host(host, insecure=request.insecure)
    except UsageError as error:
        return replace(facts, unencrypted=error)
    return replace(facts, no_login=request.no_login)


def run_checks(facts: Facts) -> list[Finding]:
    """Run all checks, in the order in which an upload would meet them."""
    return [*check_connection(facts), *check_login(facts), *check_site(facts), *check_projects(facts)]


async def collect_facts(
    facts: Facts, credentials: Credentials | None = None, projects: Sequence[str] = (), *, ca_bundle: Path | None = None
) -> Facts:
    """Find out as much as possible, and add it to the facts. A failure is a fact too."""
    if facts.bad_address is not None:
        return facts
    verify = not facts.insecure
    public = await inspect_address(facts.host, ca_bundle=ca_bundle, verify=verify)
    facts = replace(facts, public=public)
    if not public.is_xnat:
        return facts
    facts = replace(facts, deflate_rate=await anyio.to_thread.run_sync(measure_rate))
    if credentials is None:
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
            authenticated = await inspect_site(client)
            return replace(
                facts,
                authenticated=authenticated,
                projects=[await inspect_project(client, project) for project in projects],
            )
    except FatalError as error:
        return replace(facts, no_login=error)
