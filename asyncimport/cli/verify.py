"""`asyncimport verify`: compare the archive with the journal, now or weeks later. Unasked, it changes nothing."""

import os
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import typer
from rich.console import Console
from rich.text import Text

from asyncimport.cli.journals import meant_journal
from asyncimport.cli.options import (
    CaBundle,
    Host,
    Insecure,
    JournalFile,
    NoColor,
    Output,
    OutputOption,
    PasswordStdin,
    Profile,
    Project,
    StateDir,
    User,
)
from asyncimport.cli.output import consoles, plain, show_error, stray_json, write_json
from asyncimport.cli.profiles import login_from
from asyncimport.cli.running import LOCK_SECONDS, in_threads, stopped_by
from asyncimport.errors import (
    AsyncimportError,
    JournalError,
    RefusedError,
    TransientError,
    UnavailableError,
    UsageError,
)
from asyncimport.journal import Journal, Ledger, Waiting
from asyncimport.model import AttachmentState, Stray
from asyncimport.model.events import Enclosed, Event
from asyncimport.operations.verify import (
    Beside,
    Finding,
    SubjectFinding,
    attachments_to_repair,
    look,
    look_at_subjects,
    look_beside,
    restore_subjects,
    sources_of,
    strays_of,
    verified_attachments,
    verified_sources,
)
from asyncimport.pacing.shutdown import Stop, StoppedError
from asyncimport.system.output_files import advice, check_output, replacing
from asyncimport.xnat.client import Client, Credentials, connect
from asyncimport.xnat.images import Xnat
from asyncimport.xnat.orphans import remove_stray
from asyncimport.xnat.resources import Depth, Resources
from asyncimport.xnat.subjects import Described, NotDescribed, Outcome

__all__ = ["verify"]


@dataclass(slots=True)
class _Result:
    """What there is to tell: findings, the instances sent again, and stray rows with what became of each.

    After a `signal` they are those that were come to.
    """

    findings: list[Finding] = field(default_factory=list)
    besides: list[Beside] = field(default_factory=list)
    subjects: list[SubjectFinding] = field(default_factory=list)
    described: list[Outcome] = field(default_factory=list)
    repaired: int = 0
    unrepaired: int = 0
    strays: list[tuple[Stray, str]] | None = None
    safe: int | None = None
    kept_back: int = 0
    signal: int | None = None
    others: list[Path] = field(default_factory=list)
    """Journals that have sessions of the project too, and are not looked at."""

    @property
    def code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        problems = [one.problem for kind in (self.findings, self.besides, self.subjects) for one in kind]
        return 0 if all(problem is None for problem in problems) and not self.unrepaired else 9


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked for, and where."""

    journal: Path
    part: str | None
    host: str
    credentials: Credentials
    ca_bundle: Path | None
    trust_only_known: bool
    repair: bool
    strays: bool
    remove_strays: bool
    safe_to_delete: Path | None
    attachments_bytes: bool


def verify(
    project: Project = None,
    host: Host = None,
    user: User = None,
    profile: Profile = None,
    password_stdin: PasswordStdin = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Send again what the archive lacks, from the files it was sent from.")
    ] = False,
    strays: Annotated[
        bool,
        typer.Option("--strays", help="Look for sessions in the prearchive that uploads which broke off left behind."),
    ] = False,
    remove_strays: Annotated[
        bool,
        typer.Option("--remove-strays", help="Delete those of them whose every file is seen to be in the archive."),
    ] = False,
    safe_to_delete: Annotated[
        Path | None,
        typer.Option(
            "--safe-to-delete",
            metavar="FILE",
            help="Write the paths of all files whose instances were just seen in the archive, one a line.",
        ),
    ] = None,
    attachments_bytes: Annotated[
        bool,
        typer.Option("--attachments-bytes", help="Read all attachments back, and compare their bytes."),
    ] = False,
    output: OutputOption = Output.TABLE,
    state_dir: StateDir = None,
    journal: JournalFile = None,
    ca_bundle: CaBundle = None,
    insecure: Insecure = False,
    no_color: NoColor = False,
) -> None:
    """Check that the archive still holds every instance that was stored, by SOPInstanceUID."""
    out, err = consoles(no_color=no_color)
    result = _Result()
    try:
        path, part, result.others = meant_journal(host, project, state_dir, journal, err)
        with Ledger.read(path) as ledger:
            about = ledger.about()
        host, name, password = login_from(
            host or about["destination"], user, profile, password_stdin=password_stdin, insecure=insecure
        )
        if host != about["destination"]:
            raise JournalError(f"the journal {path} belongs to {about['destination']}, not to {host}")
        if safe_to_delete is not None:
            _check_place(safe_to_delete)
        task = _Task(
            path,
            part,
            host,
            Credentials(name, password),
            ca_bundle,
            not insecure,
            repair,
            strays or remove_strays,
            remove_strays,
            safe_to_delete,
            attachments_bytes,
        )
        anyio.run(_carry_out, task, about, result, err)
    except AsyncimportError as error:
        if output is Output.JSON:
            message = {"message": str(error), "hint": error.hint}
            write_json({"host": host, "exit_code": error.exit_code, "error": message})
        show_error(err, error)
        raise typer.Exit(error.exit_code) from None
    if output is Output.JSON:
        write_json(_json(host, result))
    else:
        _show(out, result)
    if result.signal is not None:
        rest = "`asyncimport upload` sends the rest" if result.repaired else "the same command begins anew"
        err.print(Text(f"stopped; {rest}"))
    raise typer.Exit(result.code)


async def _carry_out(task: _Task, about: dict[str, str], result: _Result, err: Console) -> None:
    """Log in, look, and do what else is asked for; a stop lets a repair end what it has in flight."""
    with stopped_by(result) as stop:
        async with AsyncExitStack() as stack:
            with stop.at_once():
                there = connect(
                    task.host, task.credentials, connections=16, ca_bundle=task.ca_bundle, verify=task.trust_only_known
                )
                client = await stack.enter_async_context(there)
                await _look(client, task, result)
            if task.repair and not stop.requested:
                waiting = Waiting(
                    tell=lambda text: err.print(Text(plain(text))), ends=partial(stop.ends_at, LOCK_SECONDS)
                )
                # While another program has locked the journal, a stop ends the wait.
                with suppress(StoppedError):
                    await _repair(client, task.journal, about, result, stop, waiting)
                with stop.at_once():
                    # What was sent again counts once it is seen in the archive.
                    await _look(client, task, result)
            async with in_threads(partial(Ledger.read, task.journal, part=task.part)) as ledger:
                if task.safe_to_delete is not None and not stop.requested:
                    write = partial(_write_paths, task.safe_to_delete, ledger, result)
                    result.safe = await anyio.to_thread.run_sync(write)
                if task.strays and not stop.requested:
                    await _strays(client, ledger, result, stop, remove=task.remove_strays)


async def _look(client: Client, task: _Task, result: _Result) -> None:
    from asyncimport.pacing.retry import RetryPolicy

    policy = RetryPolicy()
    result.findings = []
    async with in_threads(partial(Ledger.read, task.journal, part=task.part)) as ledger:
        result.findings = await look(client, ledger, policy, report=result.findings.append)
        result.besides = await look_beside(client, ledger, policy, reads_bytes=task.attachments_bytes)
        result.subjects = await look_at_subjects(client, ledger, policy)


async def _repair(
    client: Client, path: Path, about: dict[str, str], result: _Result, stop: Stop, waiting: Waiting
) -> None:
    """Send missing instances again in a run of their own, from the files they were sent from."""
    from asyncimport.model.options import Options
    from asyncimport.operations.plan import PlannedRoutes
    from asyncimport.pipeline.attachments import enclose
    from asyncimport.pipeline.images import run
    from asyncimport.source.folder import Folder

    rules = {name.removeprefix("rule "): rule for name, rule in about.items() if name.startswith("rule ")}
    opened = partial(Journal, path, destination=about["destination"], rules=rules, waiting=waiting)
    async with in_threads(opened) as journal:
        everything = Ledger(journal.connection, path, run=None)
        paths: list[str] = []
        for finding in result.findings:
            if not finding.missing or finding.expected is not None:
                continue
            there, gone = await anyio.to_thread.run_sync(sources_of, everything, finding)
            result.unrepaired += gone
            uids = [source.sop_uid for source in there]
            if await anyio.to_thread.run_sync(journal.repair, finding.session, uids):
                result.repaired += len(uids)
                await anyio.to_thread.run_sync(journal.confirm, [source.file for source in there])
                paths += [source.file.path for source in there]
        if paths:
            # The journal knows where each of them goes; one that has changed meanwhile is not what is missing.
            routes = PlannedRoutes([])
            source = await anyio.to_thread.run_sync(Folder, paths)
            await run(source, Xnat(client, source=journal.source), journal, routes, options=Options(), stop=stop)
        missing, gone = await anyio.to_thread.run_sync(attachments_to_repair, result.besides)
        result.unrepaired += gone
        if missing:
            stored = 0

            def count(event: Event) -> None:
                nonlocal stored
                if isinstance(event, Enclosed):
                    stored += sum(one.state is AttachmentState.STORED for one in event.filed)

            await anyio.to_thread.run_sync(journal.confirm, [one.file for one in missing])
            await anyio.to_thread.run_sync(journal.put_back, [one.key for one in missing])
            source = await anyio.to_thread.run_sync(Folder, [])
            # The listing of what is gone from XNAT's disk, or damaged there, says that nothing is wrong.
            cabinet = Resources(client, depth=Depth.BYTES)
            await enclose(source, cabinet, journal, options=Options(), report=count, stop=stop)
            result.repaired += stored
            result.unrepaired += len(missing) - stored
        if not stop.requested and any(one.problem for one in result.subjects):
            with stop.at_once():
                await _restore(client, everything, result)
        await anyio.to_thread.run_sync(journal.end_run, result.code if stop.requested else 0)


async def _restore(client: Client, ledger: Ledger, result: _Result) -> None:
    """Give subjects back what XNAT has lost of their demographics, or they with their sessions that were sent again."""
    from asyncimport.pacing.retry import RetryPolicy

    wrong = {(one.project, one.subject) for one in result.subjects if one.problem}
    found = await look_at_subjects(client, ledger, RetryPolicy())
    result.described = await restore_subjects(
        client, [one for one in found if (one.project, one.subject) in wrong], RetryPolicy()
    )


async def _strays(client: Client, ledger: Ledger, result: _Result, stop: Stop, *, remove: bool) -> None:
    """Look for stray rows, and tell what became of each."""
    try:
        with stop.at_once():
            found = await strays_of(client, ledger)
        if stop.requested:
            return
        result.strays = []
        for stray in found:
            outcome = "left"
            if remove and not stop.requested:
                outcome = "left: stopped"
                with stop.after_grace():
                    outcome = await _removed(client, stray)
            result.strays.append((stray, outcome))
    except TransientError as error:
        raise UnavailableError(str(error), hint="run verify again when the server is back") from error
    except RefusedError as error:
        raise UsageError(str(error), hint="--strays needs the right to edit the project") from error


async def _removed(client: Client, stray: Stray) -> str:
    from asyncimport.pacing.retry import RetryPolicy

    try:
        await remove_stray(client, stray, RetryPolicy())
    except RefusedError as error:
        return f"left: {error}"
    except TransientError as error:
        if error.overload or error.unreachable:
            raise
        return f"left: {error}"
    return "removed"


def _check_place(path: Path) -> None:
    """Refuse, before anything is asked, a place where no list can be written. Raises: UsageError."""
    try:
        check_output(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--safe-to-delete {path} cannot be written: {error.strerror}",
        hint=advice(error, "give a file in a directory that you may write to"),
    )


def _write_paths(path: Path, ledger: Ledger, result: _Result) -> int:
    """Write paths as the file system has them, one a line; return how many.

    A path with a line end is kept back, and so is a file that is not known to hold what was sent.
    """
    count = 0
    try:
        with replacing(path) as file:
            seen = chain(verified_sources(ledger, result.findings), verified_attachments(result.besides))
            for found, holds_what_was_sent in seen:
                raw = os.fsencode(found.path)
                if holds_what_was_sent and b"\n" not in raw:
                    file.write(raw + b"\n")
                    count += 1
                else:
                    result.kept_back += 1
    except OSError as error:
        raise _unwritable(path, error) from error
    return count


def _json(host: str, result: _Result) -> dict[str, object]:
    complete = sum(one.problem is None for one in result.findings)
    value: dict[str, object] = {
        "host": host,
        "exit_code": result.code,
        "sessions": {
            "total": len(result.findings),
            "verified": complete,
            "incomplete": len(result.findings) - complete,
        },
        "attachments": [
            {
                "project": one.enclosure.resource.place.project,
                "subject": one.enclosure.resource.place.subject,
                "session": one.enclosure.resource.place.session,
                "resource": one.enclosure.resource.label,
                "files": len(one.enclosure.attachments),
                "missing": [each.name for each in one.missing],
                "altered": [each.name for each in one.altered],
                "verified": one.problem is None,
                "reason": one.problem,
            }
            for one in result.besides
        ],
        "subjects": [
            {
                "project": one.project,
                "subject": one.subject,
                "fields": list(one.fields),
                "differing": list(one.differing),
                "verified": one.problem is None,
                "reason": one.problem,
            }
            for one in result.subjects
        ],
        "restored": [
            {
                "project": one.project,
                "subject": one.subject,
                "written": list(one.written) if isinstance(one, Described) else [],
                "reason": one.reason if isinstance(one, NotDescribed) else None,
            }
            for one in result.described
        ],
        "repaired": result.repaired,
        "unrepaired": result.unrepaired,
        "safe_to_delete": result.safe,
        "kept_back": result.kept_back,
        "other_journals": [plain(str(one)) for one in result.others],
        "details": [
            {
                "project": one.session.project,
                "subject": one.session.subject,
                "session": one.session.label,
                "study_uid": one.session.study_uid,
                "files": one.files,
                "missing": len(one.missing),
                "verified": one.verified,
                "replaced": len(one.replaced),
                "reason": one.reason,
            }
            for one in result.findings
        ],
    }
    if result.strays is not None:
        value["strays"] = [{**stray_json(stray), "outcome": outcome} for stray, outcome in result.strays]
    return value


def _show(out: Console, result: _Result) -> None:
    complete = sum(one.problem is None for one in result.findings)
    total = len(result.findings)
    come_to = "" if result.signal is None else " come to"
    out.print(Text(f"{complete:,} of {total:,} sessions{come_to} hold every instance that was stored", style="bold"))
    for one in result.findings:
        if one.reason is not None:
            session = one.session
            out.print(Text(f"  {session.project} / {session.subject} / {session.label}: {plain(one.reason)}"))
    if result.besides:
        attachments = sum(len(one.enclosure.attachments) for one in result.besides)
        sound = attachments - sum(len(one.missing) + len(one.altered) for one in result.besides)
        out.print(Text(f"{sound:,} of {attachments:,} attachments are there as they were stored", style="bold"))
    for beside in result.besides:
        if beside.problem is not None:
            place = beside.enclosure.resource.place
            where = f"{place.project} / {place.subject} / {place.session} / {beside.enclosure.resource.label}"
            out.print(Text(f"  {where}: {plain(beside.problem)}"))
    if result.subjects:
        agree = sum(one.problem is None for one in result.subjects)
        out.print(Text(f"{agree:,} of {len(result.subjects):,} subjects are described as they were", style="bold"))
    for subject in result.subjects:
        if subject.problem is not None:
            out.print(Text(f"  {subject.project} / {subject.subject}: {plain(subject.problem)}"))
    for one_again in result.described:
        what = (
            f"described again: {', '.join(one_again.written)}"
            if isinstance(one_again, Described)
            else f"not described again: {plain(one_again.reason)}"
        )
        out.print(Text(f"  {one_again.project} / {one_again.subject}: {what}"))
    if result.repaired or result.unrepaired:
        out.print(Text(f"{result.repaired:,} missing files were sent again"))
    if result.unrepaired:
        out.print(
            Text(f"{result.unrepaired:,} could not be: their files are gone or have changed, or XNAT refused them")
        )
    elif not result.repaired and (
        any(one.missing and one.expected is None for one in result.findings)
        or any(one.missing or one.damaged for one in result.besides)
        or any(one.missing for one in result.subjects)
    ):
        out.print(Text("hint: --repair sends again what is missing"))
    if result.safe is not None:
        out.print(Text(f"{result.safe:,} files are safe to delete: their instances were just seen in the archive"))
        if result.kept_back:
            out.print(Text(f"{result.kept_back:,} kept back: not known to hold what was sent"))
    if result.strays is not None:
        out.print(Text(f"{len(result.strays):,} stray sessions in the prearchive", style="bold"))
        for stray, outcome in result.strays:
            out.print(Text(f"  {plain(stray.uri)} ({stray.status}, {stray.created}): {plain(outcome)}"))
