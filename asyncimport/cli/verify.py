"""`asyncimport verify`: compare the archive with the journal, now or weeks later. It changes nothing."""

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
from asyncimport.errors import AsyncimportError, JournalError, TransientError, UnavailableError
from asyncimport.journal import Ledger
from asyncimport.model import Session

__all__ = ["verify"]


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
    from asyncimport.xnat import Credentials

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
        found = anyio.run(_compare, path, host, Credentials(name, password), ca_bundle, not insecure)
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
    complete = [session for session, _, problem in found if problem is None]
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
                        "project": session.project,
                        "subject": session.subject,
                        "session": session.label,
                        "study_uid": session.study_uid,
                        "files": files,
                        "verified": None if problem else "uids",
                        "reason": problem,
                    }
                    for session, files, problem in found
                ],
            }
        )
    else:
        out.print(
            Text(
                f"{len(complete):,} of {len(found):,} sessions hold every instance that was stored",
                style="bold",
            )
        )
        for session, _, problem in found:
            if problem is not None:
                out.print(Text(f"  {session.project} / {session.subject} / {session.label}: {plain(problem)}"))
    raise typer.Exit(code)


async def _compare(
    path: Path,
    host: str,
    credentials: object,
    ca_bundle: Path | None,
    trust_only_known: bool,
) -> list[tuple[Session, int, str | None]]:
    """Return each session of the journal, the instances stored of it, and what is wrong, if anything is."""
    from asyncimport.retry import RetryPolicy
    from asyncimport.xnat import Credentials, connect, find_experiment, held_uids

    assert isinstance(credentials, Credentials)  # noqa: S101 - for the type checker
    policy = RetryPolicy()
    found: list[tuple[Session, int, str | None]] = []
    with Ledger.read(path) as ledger:
        async with connect(host, credentials, connections=2, ca_bundle=ca_bundle, verify=trust_only_known) as client:
            for report, uids in ledger.acknowledged():
                problem: str | None = None
                if report.state != "archived":
                    problem = f"not archived yet ({report.state})"
                else:
                    try:
                        experiment = await find_experiment(client, report.session, policy)
                        held = await held_uids(client, experiment, policy) if experiment else frozenset()
                    except TransientError as error:
                        raise UnavailableError(str(error)) from error
                    if experiment is None:
                        problem = "the archive has no session of this label and study"
                    elif missing := len(uids - held):
                        problem = f"{missing} of {len(uids)} instances are missing"
                found.append((report.session, len(uids), problem))
    return found
