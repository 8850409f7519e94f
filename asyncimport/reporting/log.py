"""Entries as log lines for people."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from asyncimport.errors import UsageError
from asyncimport.model import attachments, deliveries, events
from asyncimport.model.summary import Orphan, SubjectReport
from asyncimport.model.texts import are, counted
from asyncimport.reporting.entries import Entry, EventsLost, LineFormat, RunEnded, RunStarted, text_of_path

_STATUS = re.compile(r"\d{3}")


def log_lines(*, names: bool) -> LineFormat:
    """Return the format of a log. Without `names` it has UIDs instead of labels and paths, which may name patients."""

    def lines(now: float, entry: Entry) -> Iterator[str]:
        stamp = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
        for level, text in _messages(entry, names=names):
            yield f"{stamp} {level:7} {_one_line(text)}\n"

    return lines


def _messages(entry: Entry, *, names: bool) -> Iterator[tuple[str, str]]:
    def why(reason: str) -> str:
        return reason if names else _without_quotes(reason)

    def who(delivery: deliveries.Delivery) -> str:
        session = delivery.session
        label = f" ({session.project} / {session.subject} / {session.label})" if names else ""
        return f"study {session.study_uid}{label}"

    match entry:
        case RunStarted():
            settings = {**entry.settings, **(entry.names if names else {})}
            words = " ".join(f"{name}={value}" for name, value in settings.items())
            where = f"{entry.host}, project {entry.project}"
            yield "INFO", f"run {entry.run} began: asyncimport {entry.version}, {where}; {words}"
        case events.ScanFinished(gone=gone, unsent=unsent):
            lost = f"; {counted(gone, 'file')} of an earlier run {are(gone)} gone, {unsent:,} not sent" if gone else ""
            yield "INFO", f"the scan is finished{lost}"
        case events.OutcomesRecorded(outcomes=outcomes):
            for outcome in outcomes:
                if not isinstance(outcome, deliveries.Stored):
                    instance = outcome.claim.instance
                    path = f" ({text_of_path(instance.file.path)})" if names else ""
                    what = {deliveries.Refused: "refused", deliveries.Withheld: "withheld"}.get(type(outcome), "failed")
                    which = f"instance {instance.sop_uid}{path} of {who(outcome.claim.delivery)}"
                    yield "WARNING", f"{what}: {which}: {why(outcome.reason)}"
        case events.RetryScheduled(reason=reason) if names:
            yield "INFO", f"repeated: {reason}"
        case events.SessionFound(claim=claim, files=files):
            yield "INFO", f"in the archive already: {counted(files, 'file')} of {who(claim.delivery)}"
        case events.Notice(reason=reason):
            yield "WARNING", f"noticed: {why(reason)}"
        case events.WorkerJoined(worker=worker):
            yield "INFO", f"worker {worker} has joined"
        case events.WorkerLeft(worker=worker, reason=reason):
            yield ("WARNING" if reason else "INFO"), f"worker {worker} has left{f': {why(reason)}' if reason else ''}"
        case events.ServerUnavailable(reason=None):
            yield "INFO", "the server is back"
        case events.ServerUnavailable(reason=reason):
            yield "WARNING", f"waiting for the server: {why(reason or '')}"
        case deliveries.Archived(delivery=delivery, verified=verified):
            proof = f"verified by {verified}" if verified else "not verified"
            yield ("INFO" if verified else "WARNING"), f"archived, {proof}: {who(delivery)}"
        case deliveries.Built(delivery=delivery):
            yield "INFO", f"built, and left in the prearchive: {who(delivery)}"
        case deliveries.Held(delivery=delivery, reason=reason):
            yield "WARNING", f"held: {who(delivery)}: {why(reason)}"
        case deliveries.Deleted(delivery=delivery, files=files):
            yield "WARNING", f"deleted from the prearchive, {counted(files, 'instance')} sent again: {who(delivery)}"
        case deliveries.Postponed(delivery=delivery, reason=reason):
            yield "WARNING", f"postponed to the next run: {who(delivery)}: {why(reason)}"
        case deliveries.Incomplete(delivery=delivery, lost=lost):
            instances = f"{counted(len(lost), 'instance')}, sent again"
            yield "WARNING", f"the archive lacks {instances}: {who(delivery)}"
        case events.AttachmentsStored(resource=resource, results=results):
            for one in results:
                if one.state is not attachments.AttachmentState.STORED:
                    path = f" ({text_of_path(one.attachment.file.path)})" if names else ""
                    which = f"an attachment{path} of study {resource.owner.study_uid}, resource {resource.label}"
                    yield "WARNING", f"{one.state.value.lower()}: {which}: {why(one.reason or '')}"
        case SubjectReport():
            which = f"subject {entry.project} / {entry.subject}" if names else "a subject"
            if entry.reason is not None:
                yield "WARNING", f"demographics {entry.state}: {which}: {why(entry.reason)}"
            else:
                changes = {
                    "written": entry.written,
                    "from headers": entry.taken,
                    "kept, because XNAT differs": entry.kept,
                }
                words = "; ".join(f"{word}: {', '.join(fields)}" for word, fields in changes.items() if fields)
                yield ("WARNING" if entry.kept else "INFO"), f"demographics of {which}: {words or 'nothing to do'}"
        case Orphan(session=session, uri=uri):
            place = f" ({session.project} / {session.subject} / {session.label}: {uri})" if names else ""
            yield "WARNING", f"an orphan is in the prearchive: study {session.study_uid}{place}"
        case EventsLost(events=count):
            yield "WARNING", f"{counted(count, 'event')} {are(count)} missing here"
        case RunEnded():
            yield _end(entry, names=names)


def _without_quotes(reason: str) -> str:
    """Remove XNAT's words in brackets, which may name patients, except the status."""
    first, last = reason.find("("), reason.rfind(")")
    if not 0 <= first < last:
        return reason
    status = _STATUS.match(reason, first + 1)
    return f"{reason[:first]}({status[0] if status else '…'}{reason[last:]}"


def _end(ended: RunEnded, *, names: bool) -> tuple[str, str]:
    level = {0: "INFO", 8: "WARNING", 9: "WARNING", 130: "WARNING", 143: "WARNING"}.get(ended.exit_code, "ERROR")
    text = f"run {ended.run} ended with" if ended.run else "the run did not begin:"
    text += f" exit code {ended.exit_code}"
    if ended.summary is not None:
        files = ended.summary.files
        counts = {name: getattr(files, name) for name in files.__dataclass_fields__}
        counts |= {state: ended.summary.count(state) for state in ("archived", "prearchive", "held", "open")}
        text += f": {', '.join(f'{count} {name}' for name, count in counts.items() if count) or 'nothing was found'}"
    if ended.error is not None and (names or not isinstance(ended.error, UsageError)):
        text += f"; {ended.error if names else _without_quotes(str(ended.error))}"
    elif ended.error is not None:
        # The text has paths, and labels that collide.
        text += "; standard error says why"
    return level, text


def _one_line(text: str) -> str:
    """Escape line ends and control characters."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
