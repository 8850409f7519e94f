"""`asyncimport doctor`: check everything that decides whether a migration will work, and say what to change."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.options import (
    CaBundle,
    HelpAll,
    Host,
    Insecure,
    NoColor,
    Output,
    OutputOption,
    PasswordStdin,
    Profile,
    User,
)
from asyncimport.cli.output import consoles, plain, write_json
from asyncimport.cli.profiles import Chosen, login_from
from asyncimport.cli.running import Stopped, stopped_by
from asyncimport.credentials import check_host
from asyncimport.errors import FatalError, UsageError

if TYPE_CHECKING:
    from asyncimport.operations.doctor import Facts, Finding
    from asyncimport.xnat.client import Credentials

__all__ = ["doctor", "examine"]

_STYLES = {"ok": "green", "warning": "yellow", "error": "red", "unknown": "dim"}


def doctor(
    host: Host = None,
    projects: Annotated[
        list[str] | None,
        typer.Option(
            "--project", "-P", metavar="ID", envvar="ASYNCIMPORT_PROJECT", help="XNAT project; may be repeated."
        ),
    ] = None,
    user: User = None,
    profile: Profile = None,
    password_stdin: PasswordStdin = False,
    output: OutputOption = Output.TABLE,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
    _help_all: HelpAll = False,
) -> None:
    """Check the server, the way to it, the login and the projects, and say what to change. It stores nothing."""
    from asyncimport.operations.doctor import exit_code, judge

    out, err = consoles(no_color=no_color)
    facts, credentials = _facts(host, user, profile, password_stdin=password_stdin, insecure=insecure)
    wanted = list(dict.fromkeys(projects or []))
    stopped = Stopped()
    facts = anyio.run(_until_stopped, partial(examine, facts, credentials, wanted, ca_bundle=ca_bundle), facts, stopped)
    findings = judge(facts)
    code = exit_code(findings) if stopped.signal is None else 128 + stopped.signal
    if output is Output.JSON:
        write_json({"host": facts.host or None, "exit_code": code, "checks": [_json(one) for one in findings]})
    else:
        _show(out, findings)
    if stopped.signal is not None:
        err.print(Text("stopped"))
    raise typer.Exit(code)


def _facts(
    host: str | None, user: str | None, profile: Chosen | None, *, password_stdin: bool, insecure: bool
) -> "tuple[Facts, Credentials | None]":
    """Return what can be told before anything is asked, and the login to try, if there is one that may be sent."""
    from asyncimport.operations.doctor import Facts
    from asyncimport.xnat.client import Credentials

    try:
        host = check_host(host or "", insecure=True)
    except UsageError as error:
        # What is no address may hold a password.
        return Facts("", time(), bad_address=error), None
    facts = Facts(host, time(), insecure=insecure)
    try:
        check_host(host, insecure=insecure)
    except UsageError as error:
        return replace(facts, unencrypted=error), None
    try:
        _, name, password = login_from(host, user, profile, password_stdin=password_stdin, insecure=insecure)
    except UsageError as error:
        return replace(facts, no_login=error), None
    return facts, Credentials(name, password)


async def _until_stopped(find: "Callable[[], Awaitable[Facts]]", known: "Facts", stopped: Stopped) -> "Facts":
    """Find out more, unless a signal stops that."""
    with stopped_by(stopped) as stop, stop.at_once():
        return await find()
    return known


async def examine(
    facts: "Facts",
    credentials: "Credentials | None" = None,
    projects: Sequence[str] = (),
    *,
    ca_bundle: Path | None = None,
) -> "Facts":
    """Find out as much as can be, and add it to the facts; what fails is a fact too."""
    from asyncimport.pacing.retry import RetryPolicy
    from asyncimport.xnat.client import Timeouts, connect
    from asyncimport.xnat.inspection import look_at_project, look_from_inside, look_from_outside

    if facts.bad_address is not None:
        return facts
    verify = not facts.insecure
    facts = replace(facts, outside=await look_from_outside(facts.host, ca_bundle=ca_bundle, verify=verify))
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
            inside = await look_from_inside(client)
            return replace(
                facts, inside=inside, projects=[await look_at_project(client, project) for project in projects]
            )
    except FatalError as error:
        return replace(facts, no_login=error)


def _json(finding: "Finding") -> dict[str, object]:
    return {
        "code": finding.code,
        "project": finding.about or None,
        "status": finding.status.value,
        "found": plain(finding.found),
        "meaning": plain(finding.meaning) or None,
        "hint": plain(finding.hint) or None,
    }


def _show(out: Console, findings: "list[Finding]") -> None:
    wide = max((len(_name(finding)) for finding in findings), default=0)
    for finding in findings:
        line = Text(f"{finding.status.value:8}", style=_STYLES[finding.status])
        line.append(f"{_name(finding):{wide}}  ", style="bold")
        said = "; ".join(part for part in (finding.found, finding.meaning) if part)
        line.append(plain(f"{said} (hint: {finding.hint})" if finding.hint else said), style="default")
        out.print(line)


def _name(finding: "Finding") -> str:
    return plain(f"{finding.code} {finding.about}".rstrip())
