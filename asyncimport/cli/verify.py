"""`asyncimport verify`: compare the archive with the journal, now or weeks later. It changes nothing."""

from dataclasses import dataclass
from pathlib import Path

import anyio
import typer
from rich.text import Text

from asyncimport.cli.journals import existing_journal
from asyncimport.cli.options import (
    CaBundle,
    Host,
    Insecure,
    JournalFile,
    NoColor,
    Output,
    OutputOption,
    PasswordStdin,
    Project,
    StateDir,
    User,
)
from asyncimport.cli.output import consoles, plain, show_error, write_json
from asyncimport.cli.upload import login_from
from asyncimport.errors import AsyncimportError, JournalError, RefusedError, TransientError, UnavailableError
from asyncimport.journal import Ledger
from asyncimport.model import Session, SessionReport

__all__ = ["verify"]


@dataclass(frozen=True, slots=True)
class _Found:
    """A session, how many instances were stored of it, how they were verified, and what is wrong."""

    session: Session
    files: int
    verified: str | None
    problem: str | None


def verify(
    project: Project = None,
    host: Host = None,
    user: User = None,
    password_stdin: PasswordStdin = False,
    output: OutputOption = Output.TABLE,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
) -> None:
    """Check that the archive still holds every instance that was stored, by SOPInstanceUID."""
    out, err = consoles(no_color=no_color)
    try:
        path = existing_journal(host, project, state_dir, journal)
        with Ledger.read(path) as ledger:
            about = ledger.about()
        host, name, password = login_from(
            host or about["destination"], user, password_stdin=password_stdin, insecure=insecure
        )
        if host != about["destination"]:
            raise JournalError(f"the journal {path} belongs to {about['destination']}, not to {host}")
        found = anyio.run(_compare, path, host, (name, password), ca_bundle, not insecure)
    except AsyncimportError as error:
        if output is Output.JSON:
            write_json(
                {
                    "host": host,
                    "exit_code": error.exit_code,
                    "error": {"message": str(error), "hint": error.hint},
                }
            )
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    complete = [one for one in found if one.problem is None]
    code = 0 if len(complete) == len(found) else 9
    if output is Output.JSON:
        write_json(
            {
                "host": host,
                "exit_code": code,
                "sessions": {
                    "total": len(found),
                    "verified": len(complete),
                    "incomplete": len(found) - len(complete),
                },
                "details": [
                    {
                        "project": one.session.project,
                        "subject": one.session.subject,
                        "session": one.session.label,
                        "study_uid": one.session.study_uid,
                        "files": one.files,
                        "verified": one.verified,
                        "reason": one.problem,
                    }
                    for one in found
                ],
            }
        )
    else:
        out.print(
            Text(f"{len(complete):,} of {len(found):,} sessions hold every instance that was stored", style="bold")
        )
        for one in found:
            if one.problem is not None:
                session = one.session
                out.print(Text(f"  {session.project} / {session.subject} / {session.label}: {plain(one.problem)}"))
    raise typer.Exit(code)


async def _compare(
    path: Path, host: str, login: tuple[str, str], ca_bundle: Path | None, trust_only_known: bool
) -> list[_Found]:
    """Look at each session of the journal."""
    from asyncimport.retry import RetryPolicy
    from asyncimport.xnat import Client, Credentials, compare, connect, find_experiment

    policy = RetryPolicy()

    async def look(client: Client, report: SessionReport, uids: frozenset[str]) -> _Found:
        if report.state != "archived":
            return _Found(report.session, len(uids), None, f"not archived yet ({report.state})")
        try:
            experiment = await find_experiment(client, report.session, policy)
            if experiment is None:
                return _Found(report.session, len(uids), None, "the archive has no session of this label and study")
            found = await compare(client, experiment, report.session, uids, policy)
        except TransientError as error:
            raise UnavailableError(str(error), hint="run verify again when the server is back") from error
        except RefusedError as error:
            return _Found(report.session, len(uids), None, str(error))
        problem = f"{found.missing} of {len(uids)} instances are missing" if found.missing else None
        return _Found(report.session, len(uids), found.verified, problem)

    with Ledger.read(path) as ledger:
        credentials = Credentials(*login)
        async with connect(host, credentials, connections=2, ca_bundle=ca_bundle, verify=trust_only_known) as client:
            return [await look(client, report, uids) for report, uids in ledger.acknowledged()]
