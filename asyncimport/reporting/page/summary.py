"""The parts of a page that come from the summary of a run."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from asyncimport.journal.rows import StudyFacts
from asyncimport.model.activity import RunActivity, WorkerActivity
from asyncimport.model.summary import SessionReport, Summary
from asyncimport.model.texts import counted
from asyncimport.reporting.causes import Cause, summary_causes
from asyncimport.reporting.page.content import BAD, BUSY, GOOD, WARNING, Fact, SessionRow, Tile
from asyncimport.reporting.progress import human_bytes, human_seconds

_PROOF = {
    "uids": "verified by UID: the archive has each SOPInstanceUID that was sent",
    "present": "present by UID: some instances were there before, and their bytes were not compared",
    "count": "verified by number: a script of the site gives instances new UIDs, and there are as many as were sent",
    None: "archived and not verified",
}
_EXIT = {
    0: ("finished: everything is done", GOOD),
    3: ("ended: the login was refused", BAD),
    4: ("ended: the server was away", BAD),
    8: ("finished, but some files did not arrive", BAD),
    9: ("finished; some sessions are held or not verified", WARNING),
    130: ("stopped; the same command goes on", WARNING),
    143: ("stopped; the same command goes on", WARNING),
}


def status_of(exit_code: int) -> tuple[str, str]:
    """Return how a run ended, in words, and the tone of that."""
    return _EXIT.get(exit_code, (f"ended with exit code {exit_code}", BAD))


def _data_sent(summary: Summary) -> str:
    stored, sent = human_bytes(summary.bytes_stored), human_bytes(summary.bytes_sent)
    if summary.bytes_sent == summary.bytes_stored:
        return f"{stored} of it sent"
    zips = f" ({counted(summary.zips, 'file')} as zips)" if summary.zips else ""
    return f"{stored} of it there, {sent} sent{zips}"


def tiles(summary: Summary, *, busy: float | None, sent: int) -> list[Tile]:
    """Return the totals; `busy` is for how many seconds runs were sending, and `sent` how many bytes they sent."""
    files, sessions = summary.files, summary.sessions
    there = files.stored + files.already_stored
    lacking = files.skipped + files.refused + files.failed + files.unreadable
    done = summary.count("archived") + summary.count("prearchive")
    archived = [one for one in sessions if one.state == "archived"]
    verified = sum(one.verified is not None for one in archived)
    concerns = summary.count("held") + summary.count("open")
    found = [
        Tile("Files in XNAT", f"{there:,}", f"of {files.found:,} to send", GOOD if there == files.found else ""),
        Tile("Data", human_bytes(summary.bytes_found), _data_sent(summary)),
        Tile("Sessions done", f"{done:,}", f"of {len(sessions):,}", GOOD if done == len(sessions) else WARNING),
        Tile(
            "Verified",
            f"{verified:,}",
            f"of {len(archived):,} archived",
            GOOD if verified == len(archived) else WARNING,
        ),
        Tile("Not in XNAT", f"{lacking:,}", "files skipped, refused, failed", BAD if lacking else GOOD),
        Tile(
            "Left to do",
            f"{files.left:,}",
            f"files; {counted(concerns, 'session')} held or open",
            WARNING if concerns else "",
        ),
    ]
    if summary.attachments.found:
        arrived = summary.attachments.stored + summary.attachments.already_stored
        found.append(Tile("Attachments", f"{arrived:,}", f"of {summary.attachments.found:,}"))
    if summary.subjects.found:
        arrived = summary.subjects.stored + summary.subjects.already_stored
        found.append(Tile("Subjects updated", f"{arrived:,}", f"of {summary.subjects.found:,}"))
    if busy:
        found.append(Tile("Time", human_seconds(busy), f"{human_bytes(sent / busy)}/s on average"))
    return found


def causes(summary: Summary) -> list[Cause]:
    """Return what went wrong, by cause, the worst first."""
    return [one for one in summary_causes(summary) if one.kind not in {"excluded", "subject from headers"}]


def workers(runs: Sequence[RunActivity]) -> list[WorkerActivity]:
    """Return what the workers of runs have done together, and how it went for each in its last run."""
    found: dict[str, WorkerActivity] = {}
    for one in (worker for run in runs for worker in run.workers):
        before = found.get(one.worker, WorkerActivity(one.worker))
        found[one.worker] = replace(one, files=before.files + one.files, size=before.size + one.size)
    return [*found.values()]


def proof(summary: Summary) -> list[str]:
    """Return how sessions were compared with what was sent, and what that proves."""
    archived = [one for one in summary.sessions if one.state == "archived"]
    found = []
    for how, text in _PROOF.items():
        if count := sum(one.verified == how for one in archived):
            found.append(f"{counted(count, 'session')} {text}.")
    if archived:
        found.append("The command asyncimport verify compares the archive with the journal again, now or weeks later.")
    return found


def session_rows(
    reports: Iterable[SessionReport], facts: Mapping[tuple[str, str], StudyFacts] | None = None
) -> list[SessionRow]:
    """Return the rows of sessions, with what is known of their studies."""
    return [session_row(one, (facts or {}).get((one.session.project, one.session.study_uid))) for one in reports]


def session_row(report: SessionReport, facts: StudyFacts | None) -> SessionRow:
    """Return the row of a session."""
    names = report.session
    return SessionRow(
        names.project,
        names.subject,
        names.label,
        names.study_uid,
        "" if facts is None else date_text(facts.date),
        "" if facts is None else ", ".join(facts.modalities),
        None if facts is None else facts.series,
        report.files,
        report.size,
        report.state,
        report.verified or "",
        report.reason or "",
        # Sessions in the prearchive have no page of their own.
        (report.uri or "") if report.state == "archived" else "",
    )


def date_text(date: str) -> str:
    """Return a date of a header as a reader writes it: 2020-01-31. What is no date stays as it is."""
    digits = date.strip().replace(".", "")
    is_date = len(digits) == 8 and digits.isascii() and digits.isdigit()
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}" if is_date else date


_VERSIONS = {"version": "asyncimport", "python": "Python", "system": "System"}
# The settings of a run have the keys of the event that begins it. They are shown as options, where there is one.
_SETTINGS = {
    "workers": "uploads in flight, at most",
    "adaptive": "--workers auto",
    "max_rate": "--max-rate",
    "compress": "--compress",
    "finalizers": "sessions archived at a time",
    "enclosers": "resources filled at a time",
    "max_open_sessions": "--max-open-sessions",
    "archive": "--archive",
    "scan_first": "--check-first",
    "max_outage": "--outage-timeout",
    "quiet_period": "--settle-time",
    "partial": "--partial archive",
    "send_truncated": "--truncated send",
    "resend_changed": "--resend-changed",
    "retry_held": "--retry held",
    "retry_refused": "--retry refused",
    "chooses": "chooses studies",
    "receipts": "--receipts",
    "overwrite": "--overwrite",
    "reroute": "--relabel",
    "adopt_rows": "--adopt-rows",
}


def asked(about: Mapping[str, object]) -> list[Fact]:
    """Return what a run was asked to do: its command, sources and rules."""
    command = about.get("command")
    found = [Fact("Command", (_words(command),), is_code=True)] if isinstance(command, list) and command else []
    names = about.get("names")
    for name, value in names.items() if isinstance(names, dict) else ():
        values = tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
        found.append(Fact(name.capitalize(), values, is_code=True))
    return found


def settings(about: Mapping[str, object]) -> list[Fact]:
    """Return the versions and settings of a run; none of them is secret."""
    found = [Fact(words, (str(about[name]),)) for name, words in _VERSIONS.items() if name in about]
    chosen = about.get("settings")
    for name, value in chosen.items() if isinstance(chosen, dict) else ():
        found.append(Fact(_SETTINGS.get(str(name), str(name)), (_setting_text(str(name), value),)))
    return found


def _setting_text(name: str, value: object) -> str:
    if name in {"max_outage", "quiet_period"} and isinstance(value, int | float):
        return human_seconds(value)
    if name == "max_rate" and isinstance(value, int | float):
        return f"{human_bytes(value)}/s"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _words(words: Sequence[object]) -> str:
    return shlex.join(map(str, words))


RUNNING = ("running", BUSY)
