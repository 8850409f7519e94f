"""Entries as JSON, an event a line. The names of events and of their fields are a contract: `schema/events.json`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from asyncimport.model import attachments, deliveries, events
from asyncimport.model.activity import WorkerActivity
from asyncimport.model.summary import Orphan, SubjectReport, Summary
from asyncimport.reporting.entries import Entry, EventsLost, RunEnded, RunStarted, lane, session_names, text_of_path

# New events and keys keep the version; a key that changes its meaning or goes raises it.
_SCHEMA = 1


def as_json(now: float, entry: Entry) -> Iterator[str]:
    """Write entries as JSON, one event a line."""
    time_of = {"ts": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")}
    for event in _events(entry):
        yield json.dumps({**time_of, **event, "schema": _SCHEMA}) + "\n"


def _events(entry: Entry) -> Iterator[dict[str, object]]:
    match entry:
        case RunStarted():
            yield {
                "event": "run_began",
                "run": entry.run,
                "version": entry.version,
                "host": entry.host,
                "project": entry.project,
                "options": {**entry.settings, **entry.names},
            }
        case events.Scanned(files=files, size=size):
            yield {"event": "scanned", "files": files, "bytes": size}
        case events.Admitted(files=files, size=size):
            yield {"event": "admitted", "files": files, "bytes": size}
        case events.ScanFinished(gone=gone, unsent=unsent):
            yield {"event": "scan_finished", "gone": gone, "gone_unsent": unsent}
        case events.OutcomesRecorded(outcomes=outcomes):
            yield from map(_outcome, outcomes)
        case events.RetryScheduled(reason=reason, claim=claim, attempt=attempt):
            file = {} if claim is None else _file(claim)
            yield {"event": "call_repeated", **file, "attempt": attempt, "reason": reason}
        case events.SessionFound(claim=claim, uri=uri, files=files):
            yield {"event": "session_found", **_names(claim.delivery), "uri": uri, "files": files}
        case events.Notice(reason=reason):
            yield {"event": "noticed", "reason": reason}
        case events.WorkerJoined(worker=worker):
            yield {"event": "worker_joined", "worker": worker}
        case events.WorkerLeft(worker=worker, reason=reason):
            yield {"event": "worker_left", "worker": worker, "reason": reason or None}
        case WorkerActivity():
            yield {"event": "worker_progress", **worker_json(entry)}
        case events.ServerUnavailable(reason=None):
            yield {"event": "server_back"}
        case events.ServerUnavailable(reason=reason):
            yield {"event": "server_away", "reason": reason}
        case events.Settling(seconds=seconds):
            yield {"event": "session_waits", "seconds": round(seconds, 3)}
        case deliveries.Archived(delivery=delivery, uri=uri, verified=verified):
            yield {"event": "session_archived", **_names(delivery), "uri": uri, "verified": verified}
        case deliveries.Built(delivery=delivery, uri=uri):
            yield {"event": "session_built", **_names(delivery), "uri": uri}
        case deliveries.Held(delivery=delivery, reason=reason):
            yield {"event": "session_held", **_names(delivery), "reason": reason}
        case deliveries.Deleted(delivery=delivery, files=files):
            yield {"event": "session_deleted", **_names(delivery), "files": files}
        case deliveries.Postponed(delivery=delivery, reason=reason):
            yield {"event": "session_postponed", **_names(delivery), "reason": reason}
        case deliveries.Incomplete(delivery=delivery, uri=uri, lost=lost):
            yield {"event": "session_incomplete", **_names(delivery), "uri": uri, "missing": sorted(lost)}
        case events.AttachmentsStarted(files=files):
            yield {"event": "enclosing", "files": files}
        case events.AttachmentsStored(resource=resource, results=results):
            yield from (_attachment(resource, one) for one in results)
        case SubjectReport():
            yield {
                "event": f"subject_{entry.state}",
                "project": entry.project,
                "subject": entry.subject,
                **({"reason": entry.reason} if entry.reason else {"written": entry.written, "kept": entry.kept}),
                "taken": entry.taken,
            }
        case Orphan(session=session, uri=uri, status=status):
            yield {"event": "stray_found", **session_names(session), "uri": uri, "status": status}
        case EventsLost(events=count):
            yield {"event": "events_lost", "count": count}
        case RunEnded(run=run, exit_code=code, error=error, summary=summary):
            counts = {} if summary is None else _counts(summary)
            reason = None if error is None else str(error)
            yield {"event": "run_ended", "run": run, "exit_code": code, "reason": reason, **counts}


def worker_json(one: WorkerActivity) -> dict[str, object]:
    """Return what a worker of a cluster has done."""
    return {
        "worker": one.worker,
        "files": one.files,
        "bytes": one.size,
        "files_per_second": round(one.files_per_second, 3),
        "in_flight": one.in_flight,
        "limited_by": one.limited_by or None,
    }


def _outcome(outcome: deliveries.Outcome) -> dict[str, object]:
    event = {"event": "file_stored", **_file(outcome.claim), "attempts": outcome.attempts}
    match outcome:
        case deliveries.Stored(uri=uri, zip_size=zip_size, sent_size=size):
            return event | {"uri": f"/data{uri}", "lane": lane(zip_size), "sent_bytes": size}
        case deliveries.Refused(reason=reason):
            return event | {"event": "file_refused", "reason": reason}
        case deliveries.Failed(reason=reason):
            return event | {"event": "file_failed", "reason": reason}
        case deliveries.Withheld(reason=reason):
            return event | {"event": "file_withheld", "reason": reason}


def _file(claim: deliveries.Claim) -> dict[str, object]:
    file = claim.instance.file
    return {
        **_names(claim.delivery),
        "path": text_of_path(file.path),
        "sop_uid": claim.instance.sop_uid,
        "bytes": file.size,
    }


def _attachment(resource: attachments.Resource, result: attachments.AttachmentResult) -> dict[str, object]:
    place, file = resource.owner, result.attachment.file
    event: dict[str, object] = {
        "event": f"attachment_{result.state.value.lower()}",
        "project": place.project,
        "subject": place.subject,
        "session": place.session,
        "resource": resource.label,
        "path": text_of_path(file.path),
        "name": result.attachment.name,
        "bytes": file.size,
    }
    return event | ({"sent": result.sent, "md5": result.md5} if result.md5 else {"reason": result.reason})


def _names(delivery: deliveries.Delivery) -> dict[str, object]:
    return {**session_names(delivery.session), "delivery": delivery.number}


def _counts(summary: Summary) -> dict[str, object]:
    files = summary.files
    sessions = {state: summary.count(state) for state in ("archived", "prearchive", "held", "open")}
    return {
        "files": {name: getattr(files, name) for name in ("found", *files.__dataclass_fields__)},
        "sessions": {"total": len(summary.sessions), **sessions},
    }
