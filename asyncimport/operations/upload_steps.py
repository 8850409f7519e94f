"""The steps of one upload, from its journal to the demographics. A dry run takes some of them too."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from asyncimport import __version__
from asyncimport.demographics.table import Demographics
from asyncimport.errors import UsageError
from asyncimport.journal import Journal, LockWait
from asyncimport.model.events import AttachmentsStarted, Event, Notice
from asyncimport.model.files import Algorithm, Digest
from asyncimport.model.options import Options
from asyncimport.model.ports import Source
from asyncimport.model.record import record
from asyncimport.model.summary import Summary
from asyncimport.model.texts import are, counted, plain
from asyncimport.operations.coverage import check_coverage
from asyncimport.operations.decision import Decision
from asyncimport.operations.plan import Plan, unmatched_filter
from asyncimport.operations.upload_request import UploadRequest, has_one_label
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.demographics import DemographicsRequest, rows_without_session, update_subjects
from asyncimport.pipeline.images import FILE_POLICY, upload_images
from asyncimport.reporting.entries import RunStarted
from asyncimport.routing.attachments import resource_of
from asyncimport.routing.filters import FilteredRoutes
from asyncimport.routing.planned_routes import PlannedRoutes
from asyncimport.source.folder import FileSource
from asyncimport.xnat.client import Client
from asyncimport.xnat.images import XnatDestination
from asyncimport.xnat.tls import read_authorities

# A run without --dask needs none of these at run time, and starts sooner without them. What attachments and
# demographics need is imported for these only.
if TYPE_CHECKING:
    from asyncimport.cluster.messages import Setup
    from asyncimport.cluster.ports import WorkerLinks
    from asyncimport.cluster.source import ClusterSource

# The keys of `options` in the event that begins a run, and the fields of `Options`. The keys are a contract.
_EVENT_OPTIONS = {
    "workers": "max_workers",
    "adaptive": "is_adaptive",
    "max_rate": "max_rate",
    "compress": "compress",
    "finalizers": "max_finalizers",
    "enclosers": "attachment_workers",
    "max_open_sessions": "max_open_sessions",
    "archive": "archive",
    "scan_first": "check_first",
    "max_outage": "outage_timeout",
    "quiet_period": "settle_seconds",
    "partial": "archive_partial",
    "send_truncated": "send_truncated",
    "resend_changed": "resend_changed",
    "retry_held": "retry_held",
    "retry_refused": "retry_refused",
    "chooses": "is_filtered",
}
_MAX_LABELS = 10


@record(kw_only=True)
class OpenRun:
    """A run whose journal is open."""

    request: UploadRequest
    options: Options
    source: "FileSource | ClusterSource"
    decision: Decision
    client: Client
    journal: Journal
    report: Callable[[Event], None]
    stop: Stop
    workers: "WorkerLinks | None" = None


def open_journal(
    request: UploadRequest, decision: Decision, path: Path, lock_wait: LockWait, *, is_temporary: bool = False
) -> Journal:
    """Open the journal of a run, or a temporary copy of it. It blocks. Raises: JournalError, UsageError."""
    return Journal(
        path,
        destination=request.server.host,
        rules=decision.rules,
        relabel=request.relabel,
        allow_mixed_patients=request.allow_mixed_patients,
        accepted=request.accepted,
        is_planned=decision.is_strict,
        lock_wait=lock_wait,
        is_temporary=is_temporary,
    )


def run_started(request: UploadRequest, run: str, decision: Decision) -> RunStarted:
    """Return the first event of a run. It holds no secret."""
    options = {key: getattr(request.options, name) for key, name in _EVENT_OPTIONS.items()}
    options |= {
        "receipts": request.receipts is not None,
        "overwrite": request.overwrite,
        "reroute": request.relabel,
        "adopt_rows": request.adopt_rows,
    }
    names = {"sources": [plain(str(path)) for path in request.sources], **decision.rules}
    return RunStarted(run, __version__, request.server.host, request.project, options, names)


def describe_run(request: UploadRequest, started: RunStarted) -> dict[str, object]:
    """Return what reports tell of a run: its command, sources, rules, version and settings, and no secret."""
    return {
        "version": started.version,
        "python": platform.python_version(),
        # `platform.platform` may start another program, which blocks.
        "system": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "command": [plain(word) for word in request.command],
        "project": started.project,
        "names": dict(started.names),
        "settings": dict(started.settings),
    }


def prepare_options(request: UploadRequest, decision: Decision, journal: Journal) -> Options:
    """Postpone in the journal what this run leaves out, and return the options of the pipeline. It blocks."""
    plan = decision.plan
    if plan is not None:
        # An earlier run may have begun the session of a study that has an error by now.
        held_back = {**decision.study_filter.faulty, **plan.waiting}
        journal.scan.postpone(held_back, () if request.study_filter.is_everything else plan.left_out)
    # An earlier run may have left files pending that a plan, edited since, no longer asks for.
    leaves_out = isinstance(request.routes, PlannedRoutes) and plan is not None and bool(plan.left_out)
    return replace(
        request.options,
        check_first=request.checks_first(decision.routes),
        one_label=has_one_label(decision.routes),
        digests=request.receipts is not None,
        is_filtered=decision.study_filter.is_of_parts or decision.study_filter.studies is not None or leaves_out,
    )


async def send_images(run: OpenRun) -> None:
    """Scan the source, send its images, archive their sessions. Raises: FatalError."""
    request = run.request
    destination = XnatDestination(
        run.client,
        archive=run.options.archive,
        overwrite=request.overwrite,
        trigger_pipelines=request.trigger_pipelines,
        event_reason=request.event_reason,
        source=run.journal.source,
        adopt_rows=request.adopt_rows,
        policy=request.retries.call_policy,
        sleep=request.retries.sleep,
    )
    routes = FilteredRoutes(run.decision.routes, run.decision.study_filter)
    for place in await anyio.to_thread.run_sync(check_coverage, run.source, run.journal):
        text = "files that are not found are not taken for deleted, as an earlier run saw other disks there"
        run.report(Notice(f"{plain(place)}: {text}"))
    send = None
    if run.workers is not None:
        from asyncimport.cluster.sending import send_by_workers

        setup = await anyio.to_thread.run_sync(setup_of, run, run.workers)
        send = partial(send_by_workers, run.workers, setup)
    await upload_images(
        run.source,
        destination,
        run.journal,
        routes,
        options=run.options,
        policy=request.retries.file_policy,
        report=run.report,
        stop=run.stop,
        load=run.client.load,
        send=send,
    )


def setup_of(run: OpenRun, workers: "WorkerLinks") -> "Setup":
    """Return what workers need to send the images of a run. It blocks."""
    from asyncimport.cluster.messages import Setup

    request, server = run.request, run.request.server
    return Setup(
        host=server.host,
        credentials=server.credentials,
        authorities=read_authorities(server.ca_bundle) if server.verify_certificate else "",
        verify=server.verify_certificate,
        timeouts=request.timeouts,
        options=run.options,
        file_policy=request.retries.file_policy or FILE_POLICY,
        call_policy=request.retries.call_policy or RetryPolicy(),
        source=run.journal.source,
        adopt_rows=request.adopt_rows,
        lease_seconds=workers.lease_seconds,
        open_files=workers.open_files,
    )


def assign_attachments(request: UploadRequest, source: Source, journal: Journal) -> int:
    """Assign other files to resources of sessions; return how many are pending. It blocks."""

    def resource(path: str) -> str | None:
        return resource_of(request.attach, source.relative(path).replace(os.sep, "/"))

    # A file that has changed since it was stored may have been refused for that.
    retry_refused = request.options.retry_refused or request.options.resend_changed
    return journal.attachments.assign(source.places, resource, roots=source.roots, retry_refused=retry_refused)


async def send_attachments(run: OpenRun) -> None:
    """Send attachments into resources of archived sessions. Raises: FatalError."""
    request, source, pending = run.request, run.source, run.journal.attachments
    # A run that is to stop may not have scanned all files.
    if run.stop.requested or not (bool(request.attach) or await anyio.to_thread.run_sync(pending.has_unstored)):
        return
    from asyncimport.pipeline.attachments import upload_attachments
    from asyncimport.xnat.resources import Resources

    count = await anyio.to_thread.run_sync(assign_attachments, request, source, run.journal)
    if moves := await anyio.to_thread.run_sync(pending.possible_moves):
        # A file elsewhere under the name of a stored one is another file, unless its bytes are the same.
        known = [(file, Digest(Algorithm.MD5, bytes.fromhex(md5))) for file, md5 in moves]
        same = [file for (file, _), is_same in zip(known, await source.have_digests(known), strict=True) if is_same]
        count = await anyio.to_thread.run_sync(pending.record_moves, same)
    run.report(AttachmentsStarted(count))
    resources = Resources(run.client, replace_changed=run.options.resend_changed, event_reason=request.event_reason)
    await upload_attachments(source, resources, pending, options=run.options, report=run.report, stop=run.stop)


async def set_demographics(run: OpenRun) -> int:
    """Set demographics of archived subjects; return how many rows of the table match no session. Raises: FatalError."""
    request = run.request
    if run.stop.requested or not (request.demographics.table or request.demographics.from_headers):
        return 0
    from asyncimport.xnat.subjects import Subjects

    demographics = resolve_demographics(request, run.decision)
    subjects = Subjects(
        run.client,
        RetryPolicy(),
        overwrite=demographics.overwrite,
        event_reason=request.event_reason or "demographics",
        only_existing=True,
    )
    await update_subjects(
        run.source, subjects, run.journal, demographics, options=run.options, report=run.report, stop=run.stop
    )
    if run.stop.requested:
        return 0
    rows = await anyio.to_thread.run_sync(unmatched_rows, request, run.journal, demographics)
    if rows:
        run.report(Notice(unmatched_text(rows)))
    return len(rows)


def resolve_demographics(request: UploadRequest, decision: Decision) -> DemographicsRequest:
    """Return the demographics to set, with the project's ID in place of an alias."""
    project, asked = decision.rules.get("project", request.project), request.demographics
    table = [replace(row, project=project) if row.project == request.project else row for row in asked.table]
    return replace(asked, table=table)


def unmatched_rows(request: UploadRequest, journal: Journal, demographics: DemographicsRequest) -> list[Demographics]:
    """Return the rows of the table whose subjects have no session, unless only a part was asked for. It blocks."""
    if request.max_sessions is not None or not request.study_filter.is_everything:
        return []
    return rows_without_session(journal, demographics)


def unmatched_text(rows: Sequence[Demographics]) -> str:
    """Return a message about rows whose subjects have no session."""
    labels = ", ".join(f"{row.project} / {row.subject}" for row in rows[:_MAX_LABELS])
    examples = f"such as {labels}" if len(rows) > _MAX_LABELS else labels
    return f"{counted(len(rows), 'row')} of --subjects {are(len(rows))} of subjects without a session here ({examples})"


def nothing_to_send_error(request: UploadRequest, summary: Summary, plan: Plan | None) -> UsageError | None:
    """Return the error of a run that found no DICOM, or none that its filter selects; None if it found some."""
    files = summary.files
    # The summary leaves out files that were sent before and that this run does not ask for.
    if not request.study_filter.is_everything and files.found == summary.excluded:
        if plan is not None and plan.selects_nothing:
            return unmatched_filter(request.study_filter, plan.rows)
        if plan is None and summary.excluded:
            return unmatched_filter(request.study_filter, ())
    if files.found or files.unreadable or summary.containers or (plan is not None and plan.rows):
        return None
    places = ", ".join(plain(str(root.absolute())) for root in request.sources)
    hint = f"{counted(files.not_dicom, 'other file')} looked at; check the path"
    return UsageError(f"no DICOM found in {places}", hint=f"{hint}, and --exclude" if request.exclude else hint)
