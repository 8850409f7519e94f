"""`asyncimport doctor`: check everything that decides whether a migration will work, and say what to change."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Connection, ResultScreen
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import login_from
from asyncimport.cli.running import run_operation
from asyncimport.errors import UsageError
from asyncimport.model.option import setting
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from asyncimport.operations.doctor import DoctorResult
    from asyncimport.operations.server_checks import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "red", "unknown": "dim"}


@dataclass(frozen=True, kw_only=True)
class Projects:
    """The projects to check."""

    projects: Sequence[str] = setting(
        "--project", "-P", default=(), metavar="ID", help="XNAT project; may be given again."
    )


@command(omit={"project"})
def doctor(*, projects: Projects, connection: Connection, screen: ResultScreen) -> None:
    """Check the server, the way to it, the login and the projects, and say what to change. It stores nothing."""
    from asyncimport.operations.doctor import DoctorRequest
    from asyncimport.operations.doctor import doctor as carry_out
    from asyncimport.xnat.login import Credentials

    credentials = no_login = None
    try:
        _, name, password = login_from(connection)
        credentials = Credentials(name, password)
    except UsageError as error:
        no_login = error
    request = DoctorRequest(
        host=connection.host or "",
        credentials=credentials,
        no_login=no_login,
        projects=list(dict.fromkeys(projects.projects)),
        ca_bundle=connection.ca_bundle,
        insecure=connection.insecure,
    )
    result = run_operation(partial(carry_out, request))
    conclude(screen, result, as_json=_json, show=_show, if_stopped="not everything was checked")


def _json(result: "DoctorResult") -> dict[str, object]:
    return {
        **outcome_json("doctor", result, result.host or None),
        "checks": [_check_json(one) for one in result.findings],
    }


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
    show_findings(out, result.findings)


def show_findings(out: Console, findings: "Sequence[Finding]") -> None:
    """Write a line for each finding."""
    width = max((len(_name(finding)) for finding in findings), default=0)
    for finding in findings:
        line = Text(f"{finding.status.value:8}", style=_STYLES[finding.status])
        line.append(f"{_name(finding):{width}}  ", style="bold")
        text = "; ".join(part for part in (finding.found, finding.meaning) if part)
        line.append(plain(f"{text} (hint: {finding.hint})" if finding.hint else text), style="default")
        out.print(line)


def _name(finding: "Finding") -> str:
    return plain(f"{finding.code} {finding.about}".rstrip())
