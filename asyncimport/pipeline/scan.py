"""The scan stage: walk the source, identify new files, route them, and admit them to the journal."""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from asyncimport.dicom import Identity
from asyncimport.errors import UsageError
from asyncimport.journal import Admission, SopUidConflict
from asyncimport.model.events import Admitted, ScanFinished, Scanned
from asyncimport.model.files import File, Ignored, Instance
from asyncimport.model.record import record
from asyncimport.model.states import FileKind
from asyncimport.model.texts import counted
from asyncimport.pipeline.context import Context, Signal, notify
from asyncimport.pipeline.in_order import in_order
from asyncimport.routing.labels import LeftOutError, UnplannedError, UnroutableError
from asyncimport.routing.patients import patient_of


@record
class _Read:
    """A batch of the walk, what the journal knows of it, and what the other files are."""

    found: list[File | Ignored]
    known: Admission
    identities: Sequence[Identity | Ignored]


class Scanner:
    """Admits all files of the source to the journal."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._directory = ""
        """The session directory that the walk is in."""
        self._last: tuple[Mapping[str, str], Instance] | None = None
        """The fields of the last file, and what it became; None if its path decided too."""

    async def run(self, wake_feed: Signal, wake_finalizers: Signal) -> None:
        """Scan the source. Raises: UsageError."""
        context, options, scan = self._context, self._context.options, self._context.journal.scan
        async with wake_feed, wake_finalizers:
            with context.stop.immediate_scope():
                # Deliveries that an earlier run sealed can be finalised at once.
                notify(wake_finalizers, options.max_finalizers)
                admit = partial(self._admit, wake_feed=wake_feed, wake_finalizers=wake_finalizers)
                await in_order(context.source.batches(), self._read, admit, ahead=context.source.ahead)
                gone = await context.call_journal(
                    partial(
                        scan.finish,
                        context.source.roots,
                        archive_built=options.archive,
                        retry_held=options.retry_held,
                        retry_refused=options.retry_refused,
                        partial=options.archive_partial,
                    )
                )
                if options.check_first and (collisions := await context.call_journal(scan.skip_reasons)):
                    raise _nothing_sent(collisions, one_label=options.one_label)
                context.may_feed = context.has_scanned = True
                context.report(ScanFinished(gone.files, gone.unsent))
                notify(wake_finalizers, options.max_finalizers)
                notify(wake_feed)

    def _finished_directories(self, found: list[File | Ignored]) -> list[str]:
        """Return the session directories that the walk has left, if each session lies in one (of one source)."""
        context = self._context
        depth = context.routes.session_depth
        if depth is None or not context.source.is_in_order:
            return []
        finished: list[str] = []
        for item in found:
            path = (item if isinstance(item, File) else item.file).path
            relative = context.source.relative(path)
            parts = relative.split(os.sep, depth)
            directory = path[: len(path) - len(parts[depth]) - 1] if len(parts) > depth else ""
            if directory != self._directory:
                finished += [self._directory] if self._directory else []
                self._directory = directory
        return finished

    async def _read(self, found: list[File | Ignored]) -> "_Read":
        """Skip what the journal knows, and identify the other files."""
        context, options, scan = self._context, self._context.options, self._context.journal.scan
        context.report(Scanned(len(found), sum(item.size for item in found if isinstance(item, File))))
        files = [item for item in found if isinstance(item, File)]
        skip_known = partial(
            scan.skip_known,
            files,
            retry_refused=options.retry_refused,
            resend_changed=options.resend_changed,
            is_filtered=options.is_filtered,
        )
        known = await context.call_journal(skip_known)
        return _Read(found, known, await context.source.identify_many(known.unknown))

    async def _admit(self, read: "_Read", *, wake_feed: Signal, wake_finalizers: Signal) -> None:
        """Admit a batch. The order of batches decides which of two studies was first."""
        context, options, scan = self._context, self._context.options, self._context.journal.scan
        found, known = read.found, read.known
        ignored = [item for item in found if isinstance(item, Ignored)]
        admit = partial(scan.admit, resend_changed=options.resend_changed)

        def route_and_admit() -> Admission:
            return admit([*ignored, *map(self._route, known.unknown, read.identities)])

        admissions = [known, await context.call_journal(route_and_admit)]
        proofs: dict[str, bool] = {}
        while conflicts := admissions[-1].conflicts:
            compared = await self._compare_all(conflicts, proofs)
            admissions.append(await context.call_journal(partial(admit, compared, proofs=proofs)))
        context.report(Admitted(sum(one.files for one in admissions), sum(one.size for one in admissions)))
        context.report_notices()
        if not options.check_first:
            notify(wake_feed)
            if directories := self._finished_directories(found):
                done = partial(scan.directory_done, directories, partial=options.archive_partial)
                notify(wake_finalizers, await context.call_journal(done))

    def _route(self, file: File, identity: Identity | Ignored) -> Instance | Ignored:
        if isinstance(identity, Ignored):
            return identity
        if self._last is not None and identity.fields is self._last[0] and not identity.truncated:
            # Most files: it is routed, and its patient found, once a series.
            one, uids = self._last[1], (identity.sop_uid, identity.series_uid)
            return Instance(file, *uids, one.session, one.patient, one.modality, one.study_date)
        context = self._context
        truncated = identity.truncated if not context.options.send_truncated else None
        try:
            path = context.source.relative(file.path) if context.routes.needs_path else ""
            session = context.routes.route(identity.study_uid, identity.fields, path)
        except LeftOutError as error:
            if truncated and isinstance(error, UnplannedError):
                # The plan lacks a study of which every file is truncated: nobody has excluded it.
                return Ignored(file, FileKind.UNREADABLE, truncated, damaged=True)
            reason = f"study {identity.study_uid}: {error}"
            sop_uid = identity.sop_uid if error.session else None
            return Ignored(file, FileKind.EXCLUDED, reason, session=error.session, sop_uid=sop_uid)
        except UnroutableError as error:
            if truncated:
                return Ignored(file, FileKind.UNREADABLE, truncated, damaged=True)
            return Ignored(file, FileKind.SKIPPED, f"study {identity.study_uid}: {error}", sop_uid=identity.sop_uid)
        if truncated:
            return Ignored(file, FileKind.UNREADABLE, truncated, session=session, sop_uid=identity.sop_uid)
        patient, modality = patient_of(identity.fields), identity.fields.get("Modality", "")
        study_date = identity.fields.get("StudyDate", "")
        instance = Instance(file, identity.sop_uid, identity.series_uid, session, patient, modality, study_date)
        self._last = None if context.routes.needs_path else (identity.fields, instance)
        return instance

    async def _compare_all(
        self, conflicts: Sequence[SopUidConflict], proofs: dict[str, bool]
    ) -> list[Instance | Ignored]:
        """Compare each file with what was sent, and note the result in `proofs`, or with the other file of its UID."""
        compared: list[Instance | Ignored] = [
            await self._compare(conflict) for conflict in conflicts if conflict.sent is None
        ]
        sent = [(conflict.instance, conflict.sent) for conflict in conflicts if conflict.sent is not None]
        same = await self._context.source.have_digests([(instance.file, digest) for instance, digest in sent])
        for (instance, _), is_same in zip(sent, same, strict=True):
            if is_same is None:
                reason = f"cannot be compared with what was sent of this instance ({instance.sop_uid})"
                compared.append(Ignored(instance.file, FileKind.UNREADABLE, reason))
            else:
                proofs[instance.file.path] = is_same
                compared.append(instance)
        return compared

    async def _compare(self, conflict: SopUidConflict) -> Ignored:
        file, uid = conflict.instance.file, conflict.instance.sop_uid
        is_same = await self._context.source.same_bytes(file.path, conflict.other)
        if is_same is None:
            reason = f"cannot be compared with another file of the same SOPInstanceUID ({uid})"
            return Ignored(file, FileKind.UNREADABLE, reason)
        if is_same:
            return Ignored(file, FileKind.DUPLICATE, "the same bytes as another file", conflict.key)
        reason = f"another file has the same SOPInstanceUID ({uid}) but different content"
        return Ignored(file, FileKind.SKIPPED, reason)


def _nothing_sent(reasons: Sequence[tuple[str, int]], *, one_label: bool) -> UsageError:
    """Return the error of a run that checks all files first, by the reasons why files are skipped."""
    hint = "see them all with `asyncimport status`, and correct them"
    if one_label:
        hint += "; one fixed session label is for one study: a field in --session, with --relabel, gives each its own"
    else:
        hint += "; without --check-first, the other files are sent"
    problems = counted(len(reasons), "problem was found", "problems were found")
    return UsageError(f"nothing was sent, because {problems}: {reasons[0][0]}", hint=hint)
