"""`asyncimport verify`: compare the archive with the journal. It changes nothing unless an option says so."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from asyncimport.cli.conclusion import conclude, outcome_json
from asyncimport.cli.options import Connection, ResultScreen
from asyncimport.cli.output import how_compared, orphan_json, session_name, show_causes, show_other_journals
from asyncimport.cli.parameters import command
from asyncimport.cli.profiles import server_from
from asyncimport.cli.running import run_operation
from asyncimport.model.attachments import Resource
from asyncimport.model.options import JournalOptions, VerifyOptions
from asyncimport.model.texts import are, counted, plain
from asyncimport.operations.journals import journal_server, select_journal
from asyncimport.reporting.causes import Cause, group_by_cause
from asyncimport.reporting.entries import session_names
from asyncimport.routing.problems import Severity
from asyncimport.xnat.subjects import SubjectError, SubjectUpdated

if TYPE_CHECKING:
    from asyncimport.operations.verify import VerifyResult


@command()
def verify(*, options: VerifyOptions, connection: Connection, journal: JournalOptions, screen: ResultScreen) -> None:
    """Check that the archive still holds every instance that was stored, by SOPInstanceUID."""
    from asyncimport.operations.verify import VerifyRequest
    from asyncimport.operations.verify import verify as carry_out
    from asyncimport.system.output_files import check_option

    _, err = screen.consoles
    path, project, others = select_journal(connection.host, connection.project, journal.state_dir, journal.journal)
    show_other_journals(err, connection.project, others)
    server = server_from(replace(connection, host=connection.host or journal_server(path)))
    if options.safe_to_delete is not None:
        check_option("--safe-to-delete", options.safe_to_delete)
    request = VerifyRequest(server=server, journal=path, project=project, **vars(options))
    result = run_operation(partial(carry_out, request, report=lambda text: err.print(Text(plain(text)))))
    conclude(
        screen,
        result,
        as_json=partial(_json, host=server.host, others=others),
        show=_show,
        if_stopped="`asyncimport upload` sends the rest" if result.repaired else "the same command starts again",
    )


def _json(result: "VerifyResult", *, host: str, others: Sequence[Path]) -> dict[str, object]:
    if result.error is not None:
        return outcome_json("verify", result, host)
    complete = sum(one.problem is None for one in result.findings)
    value: dict[str, object] = {
        **outcome_json("verify", result, host),
        "sessions": {
            "total": len(result.findings),
            "verified": complete,
            "incomplete": len(result.findings) - complete,
        },
        "attachments": [
            {
                **{name: getattr(one.batch.resource.owner, name) for name in ("project", "subject", "session")},
                "resource": one.batch.resource.label,
                "files": len(one.batch.attachments),
                "missing": [each.name for each in one.missing],
                "altered": [each.name for each in one.altered],
                "verified": one.problem is None,
                "reason": one.problem,
            }
            for one in result.resources
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
                "written": list(one.written) if isinstance(one, SubjectUpdated) else [],
                "reason": one.reason if isinstance(one, SubjectError) else None,
            }
            for one in result.restored
        ],
        "repaired": result.repaired,
        "unrepaired": result.unrepaired,
        "safe_to_delete": result.safe,
        "kept_back": result.kept_back,
        "other_journals": [plain(str(one)) for one in others],
        "details": [
            {
                **session_names(one.session),
                "files": one.files,
                "missing": len(one.missing),
                "verified": one.verified,
                "replaced": len(one.replaced),
                "reason": one.reason,
            }
            for one in result.findings
        ],
    }
    if result.orphans is not None:
        value["strays"] = [{**orphan_json(orphan), "outcome": outcome} for orphan, outcome in result.orphans]
    return value


def _resource_name(resource: Resource) -> str:
    owner = resource.owner
    return f"{owner.project} / {owner.subject} / {owner.session} / {resource.label}"


def _show(out: Console, result: "VerifyResult") -> None:
    if result.error is not None:
        return
    _show_sessions(out, result)
    _show_attachments(out, result)
    _show_subjects(out, result)
    _show_repairs(out, result)
    if result.safe is not None:
        safe = f"{counted(result.safe, 'file')} {are(result.safe)} safe to delete"
        out.print(Text(f"{safe}: their instances were just seen in the archive"))
        if result.kept_back:
            kept = f"{counted(result.kept_back, 'file')} {are(result.kept_back)} kept back"
            out.print(Text(f"{kept}: nothing proves that the archive has the same content"))
    if result.orphans is not None:
        _title(out, f"orphans in the prearchive: {len(result.orphans):,}")
        for orphan, outcome in result.orphans:
            _line(out, f"{orphan.uri} ({orphan.status}, {orphan.created}): {outcome}")


def _show_sessions(out: Console, result: "VerifyResult") -> None:
    total, complete = len(result.findings), sum(one.problem is None for one in result.findings)
    checked = "" if result.signal is None else " checked so far"
    hold = "holds" if total == 1 else "hold"
    _title(out, f"{complete:,} of {counted(total, 'session')}{checked} {hold} every instance that was stored")
    if less := how_compared(one.verified for one in result.findings if one.verified != "uids"):
        _line(out, ", ".join(less))
    found = [(one.reason, one.problem, session_name(one.session)) for one in result.findings]
    _causes(out, (("session", name, reason) for reason, problem, name in found if problem is not None))
    # Somebody replaced instances; none is missing.
    told = ((reason, name) for reason, problem, name in found if problem is None and reason is not None)
    _causes(out, (("session", name, reason) for reason, name in told), Severity.WARNING)


def _show_attachments(out: Console, result: "VerifyResult") -> None:
    if not result.resources:
        return
    total = sum(len(one.batch.attachments) for one in result.resources)
    sound = total - sum(len(one.missing) + len(one.altered) for one in result.resources)
    _title(out, f"{sound:,} of {counted(total, 'attachment')} {are(total)} there as they were stored")
    wrong = [one for one in result.resources if one.problem is not None]
    _causes(out, (("resource", _resource_name(one.batch.resource), one.problem) for one in wrong))


def _show_subjects(out: Console, result: "VerifyResult") -> None:
    if result.subjects:
        total, same = len(result.subjects), sum(one.problem is None for one in result.subjects)
        have = "has" if total == 1 else "have"
        _title(out, f"{same:,} of {counted(total, 'subject')} {have} the demographics that were stored")
    wrong = [one for one in result.subjects if one.problem is not None]
    _causes(out, (("subject", f"{one.project} / {one.subject}", one.problem) for one in wrong))
    for restored in result.restored:
        if isinstance(restored, SubjectUpdated):
            text = f"stored again: {', '.join(restored.written)}"
        else:
            text = f"not stored again: {restored.reason}"
        _line(out, f"{restored.project} / {restored.subject}: {text}")


def _show_repairs(out: Console, result: "VerifyResult") -> None:
    if result.repaired or result.unrepaired:
        out.print(Text(f"missing files sent again: {result.repaired:,}"))
    if result.unrepaired:
        reason = "they are gone or have changed, or XNAT refused them"
        out.print(Text(f"missing files that could not be sent again: {result.unrepaired:,} ({reason})"))
    elif not result.repaired and (
        any(one.missing and one.expected is None for one in result.findings)
        or any(one.missing or one.damaged for one in result.resources)
        or any(one.missing for one in result.subjects)
    ):
        out.print(Text("hint: --repair sends again what is missing"))


def _title(out: Console, text: str) -> None:
    out.print(Text(text, style="bold"))


def _line(out: Console, text: str) -> None:
    out.print(Text(f"  {plain(text)}"))


def _causes(out: Console, problems: Iterable[tuple[str, str, str | None]], severity: Severity = Severity.ERROR) -> None:
    """Print each cause once, with its number; a problem is what it concerns, the name of that, and why."""
    each = (Cause(severity, "", why or "", "", ((1, noun),), name) for noun, name, why in problems)
    show_causes(out, group_by_cause(each))
