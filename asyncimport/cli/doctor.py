"""`asyncimport doctor`: check everything that decides whether a migration will work, and say what to change."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

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
from asyncimport.cli.output import consoles
from asyncimport.cli.profiles import login_from
from asyncimport.cli.running import conclude, run_operation
from asyncimport.errors import UsageError
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from asyncimport.operations.doctor import DoctorResult
    from asyncimport.operations.findings import Finding

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
    from asyncimport.operations.doctor import DoctorRequest
    from asyncimport.operations.doctor import doctor as carry_out
    from asyncimport.xnat.login import Credentials

    out, err = consoles(no_color=no_color)
    credentials = no_login = None
    try:
        _, name, password = login_from(host, user, profile, password_stdin=password_stdin, insecure=insecure)
        credentials = Credentials(name, password)
    except UsageError as error:
        no_login = error
    request = DoctorRequest(
        host=host or "",
        credentials=credentials,
        no_login=no_login,
        projects=list(dict.fromkeys(projects or [])),
        ca_bundle=ca_bundle,
        insecure=insecure,
    )
    result = run_operation(partial(carry_out, request))
    conclude(
        out,
        err,
        result,
        host=result.host or None,
        output=output,
        as_json=_json,
        show=_show,
        if_stopped="not everything was checked",
    )


def _json(result: "DoctorResult") -> dict[str, object]:
    return {"checks": [_check_json(one) for one in result.findings]}


def _check_json(finding: "Finding") -> dict[str, object]:
    return {
        "code": finding.code,
        "project": finding.about or None,
        "status": finding.status.value,
        "found": plain(finding.found),
        "meaning": plain(finding.meaning) or None,
        "hint": plain(finding.hint) or None,
    }


def _show(out: Console, result: "DoctorResult") -> None:
    findings = result.findings
    wide = max((len(_name(finding)) for finding in findings), default=0)
    for finding in findings:
        line = Text(f"{finding.status.value:8}", style=_STYLES[finding.status])
        line.append(f"{_name(finding):{wide}}  ", style="bold")
        said = "; ".join(part for part in (finding.found, finding.meaning) if part)
        line.append(plain(f"{said} (hint: {finding.hint})" if finding.hint else said), style="default")
        out.print(line)


def _name(finding: "Finding") -> str:
    return plain(f"{finding.code} {finding.about}".rstrip())
