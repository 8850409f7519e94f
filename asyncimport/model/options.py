"""The options of the commands: each default, name and help text once. Requests inherit them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from asyncimport.errors import UsageError
from asyncimport.model.choices import Compress, OnCollision, Overwrite, Partial, Retry, Truncated
from asyncimport.model.option import (
    DAY,
    DURATION,
    SIZE,
    TextForm,
    check_globs,
    check_number,
    invalid,
    option,
    rare,
    setting,
    several,
)

# With `--workers auto` the most uploads in flight: enough for a server that is 100 ms away.
AUTO_CEILING = 64
# XNAT archives with 10 to 40 consumers of its queue, for all users: an upload takes as many as there are at least.
_MAX_FINALIZERS = 10
_MAX_WORKERS = 256
_MAX_PARTS = 10_000
_WATCH_MIN_AGE_SECONDS = 120.0
REPLY_SECONDS = 600.0
"""How long to wait for the answer to a call."""


def _workers_of(text: str, name: str) -> int | None:
    if text == "auto":
        return None
    if text.isdecimal():
        return int(text)
    raise _invalid_workers(text, name)


def _invalid_workers(value: object, name: str = "--workers") -> UsageError:
    return invalid(name, value, f"a number from 1 to {_MAX_WORKERS}, or 'auto'")


_WORKERS = TextForm(_workers_of, none="auto")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How headers are judged."""

    truncated: Truncated = rare(
        "--truncated", default=Truncated.SKIP, help="Whether to send files whose data set ends before it should."
    )

    @property
    def send_truncated(self) -> bool:
        """Whether files are sent whose data set ends before it should."""
        return self.truncated == Truncated.SEND


@dataclass(frozen=True, kw_only=True)
class Options(ReadOptions):
    """What the pipeline reads.

    `workers` is the most uploads in flight, `finalizers` the most sessions that are archived at a time; None finds out
    how many are worth it. `attachment_workers` is how many resources are filled at a time. An upload derives three
    fields from its request: `digests` keeps the SHA-256 of each file that is sent, for receipts; `is_filtered`
    says that files of an earlier run may stay pending; `one_label` says that all files get one session label.
    """

    workers: int | None = setting(
        "--workers", "-w", metavar="N|auto", form=_WORKERS, help="Uploads in flight; auto finds the best number."
    )
    archive: bool = setting(
        "--archive/--no-archive", default=True, help="Archive each session, or leave it built in the prearchive."
    )
    retry: frozenset[Retry] = setting(
        "--retry",
        default=frozenset(),
        metavar="held,refused",
        form=several(Retry),
        help="Also take up what an earlier run held, or what it saw refused.",
    )
    check_first: bool = rare(
        "--check-first", default=False, help="Send nothing before the whole source is scanned and free of collisions."
    )
    max_open_sessions: int = rare(
        "--max-open-sessions", default=200, help="Sessions that may occupy the server's prearchive at a time."
    )
    outage_timeout: float = rare(
        "--outage-timeout",
        default=3600.0,
        form=DURATION,
        help="How long to wait for a server that is away: 90s, 15m, 1h30m, 2d.",
    )
    settle_seconds: float = rare(
        "--settle-time",
        default=30.0,
        form=DURATION,
        help="How long to leave a session alone after an interrupted upload, in case that still lands.",
    )
    partial: Partial = rare(
        "--partial",
        default=Partial.HOLD,
        help="Hold or archive sessions that lack files which failed, were refused or cannot be read.",
    )
    max_rate: float | None = rare("--max-rate", form=SIZE, help="Bytes a second at most: 500kB, 20MB/s, 10MiB.")
    compress: Compress = rare(
        "--compress",
        default=Compress.AUTO,
        help="Send uncompressed images as zips: where a slow link makes it worth it, always, or never.",
    )
    resend_changed: bool = rare(
        "--resend-changed", default=False, help="Send files again that have changed since; needs --overwrite append."
    )
    finalizers: int | None = None
    attachment_workers: int = 8
    digests: bool = False
    is_filtered: bool = False
    one_label: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work. Raises: UsageError."""
        if self.workers is not None and not 1 <= self.workers <= _MAX_WORKERS:
            raise _invalid_workers(self.workers)
        check_number("finalizers", self.finalizers)
        check_number("--max-open-sessions", self.max_open_sessions)

    @property
    def max_workers(self) -> int:
        """The most uploads in flight."""
        return self.workers or AUTO_CEILING

    @property
    def max_finalizers(self) -> int:
        """The most sessions that are archived at a time."""
        return self.finalizers or _MAX_FINALIZERS

    @property
    def is_adaptive(self) -> bool:
        """Whether the number of uploads in flight follows the server."""
        return self.workers is None

    @property
    def archive_partial(self) -> bool:
        """Whether sessions are archived that lack files."""
        return self.partial == Partial.ARCHIVE

    @property
    def retry_held(self) -> bool:
        """Whether sessions are taken up that an earlier run held."""
        return Retry.HELD in self.retry

    @property
    def retry_refused(self) -> bool:
        """Whether files are sent again that an earlier run saw refused."""
        return Retry.REFUSED in self.retry


@dataclass(frozen=True, kw_only=True)
class ScanOptions:
    """What of a source is scanned, and how studies become sessions."""

    exclude: Sequence[str] = rare("--exclude", default=(), help="No paths below SOURCE that match; may be given again.")
    ignore_archives: bool = rare(
        "--ignore-archives", default=False, help="Do not report zip, tar and gz files that hold DICOM."
    )
    follow_links: bool = rare(
        "--follow-links",
        default=False,
        help="Follow links out of SOURCE, to directories and to files; else report them.",
    )
    on_collision: OnCollision = rare(
        "--on-collision",
        default=OnCollision.ERROR,
        help="What to do with a label that another study has: report an error, or add _2, _3 ...",
    )
    allow_mixed_patients: bool = rare(
        "--allow-mixed-patients", default=False, help="Let several patients share a subject label."
    )
    max_sessions: int | None = rare("--max-sessions", help="Only the first N sessions, for a pilot.")

    def __post_init__(self) -> None:
        """Refuse a pilot without sessions, and malformed patterns. Raises: UsageError."""
        check_number("--max-sessions", self.max_sessions)
        check_globs("--exclude", self.exclude)

    @property
    def suffix(self) -> bool:
        """Whether a label that another study has gets a suffix."""
        return self.on_collision == OnCollision.SUFFIX


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Whether the workers of a Dask cluster do the work, and where they have the files."""

    dask: str | None = rare(
        "--dask",
        metavar="CLUSTER",
        help="Share the work among workers of Dask: tls://HOST:PORT, tcp://HOST:PORT, local:N, slurm:FILE, "
        "@MODULE:NAME.",
    )
    path_map: Sequence[str] = rare(
        "--path-map",
        default=(),
        metavar="HERE=THERE",
        help="Where workers have a directory of SOURCE: /mnt/a=/data/a; may be given again.",
    )


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """Where journals and header caches are kept."""

    state_dir: Path | None = rare("--state-dir", help="Directory of the journals.")


@dataclass(frozen=True, kw_only=True)
class JournalOptions(StateOptions):
    """Which journal is used."""

    journal: Path | None = rare("--journal", help="Use this journal file.")


def _event_reason(default: str = "") -> Any:
    return rare("--event-reason", default=default, help="The reason for the change, for sites with an audit trail.")


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """What XNAT's audit trail asks for."""

    event_reason: str = _event_reason()


@dataclass(frozen=True, kw_only=True)
class UploadOptions(AuditOptions):
    """What only an upload needs."""

    overwrite: Overwrite = rare("--overwrite", default=Overwrite.NONE, help="Passed to XNAT's archive step.")
    receipts: Path | None = rare(
        "--receipts", help="Write a line of JSON to this file for each file, attachment and session."
    )
    max_duration_seconds: float | None = rare(
        "--max-duration", form=DURATION, help="Stop gracefully after this time, as Ctrl-C does: 90s, 8h, 1h30m."
    )
    relabel: bool = rare("--relabel", default=False, help="Apply changed -S and -E to what is not archived yet.")
    adopt_rows: bool = rare(
        "--adopt-rows",
        default=False,
        help="Fill sessions in the prearchive that an upload from another journal has begun.",
    )
    trigger_pipelines: bool | None = rare(
        "--trigger-pipelines/--no-trigger-pipelines",
        help="Whether archiving starts the project's AutoRun pipelines; default: as XNAT is set up.",
    )
    watch_seconds: float | None = rare(
        "--watch", form=DURATION, help="Look for new studies again and again, with this pause: 60s, 5m; until stopped."
    )
    min_age: float | None = rare(
        "--min-age",
        form=DURATION,
        help="Leave studies out in which a file changed within this time; "
        f"default: {DURATION.write(_WATCH_MIN_AGE_SECONDS)} with --watch.",
    )

    def __post_init__(self) -> None:
        """Refuse a watch without a pause, and a run of no time. Raises: UsageError."""
        if self.watch_seconds == 0:
            raise invalid("--watch", DURATION.write(0), "a pause such as 60s or 5m")
        if self.max_duration_seconds == 0:
            raise invalid("--max-duration", DURATION.write(0), "a duration above 0, such as 90s or 8h")

    @property
    def min_age_seconds(self) -> float:
        """How long a study must be unchanged."""
        if self.min_age is not None:
            return self.min_age
        return 0.0 if self.watch_seconds is None else _WATCH_MIN_AGE_SECONDS


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Where a plan is written."""

    out_file: Path | None = option("--out", metavar="FILE", help="Write the plan as CSV, for upload --plan.")
    parts: int = option("--split", default=1, metavar="N", help="Write N plans of about equal size: FILE-1, FILE-2 ...")
    force: bool = option("--force", default=False, help="Replace a plan that exists, edits and all.")

    def __post_init__(self) -> None:
        """Refuse a plan in no parts, and in more files than anybody wants. Raises: UsageError."""
        check_number("--split", self.parts, most=_MAX_PARTS)


@dataclass(frozen=True, kw_only=True)
class CompareOptions(AuditOptions):
    """Whether the archive is changed, and why."""

    dry_run: bool = setting("--dry-run", default=False, help="Compare with the archive, and send nothing.")


@dataclass(frozen=True, kw_only=True)
class AttachOptions(CompareOptions):
    """How files go into resources."""

    replace: bool = option("--replace", default=False, help="Replace files of the same name.")
    zips: bool = rare("--zip/--no-zip", default=True, help="Send several small files in one request.")


@dataclass(frozen=True, kw_only=True)
class DemographicsOptions:
    """Whether values that XNAT has are replaced."""

    overwrite_demographics: bool = rare(
        "--overwrite-demographics",
        default=False,
        help="Replace values that XNAT has of a subject; else keep them, and report the differences.",
    )


@dataclass(frozen=True, kw_only=True)
class SubjectsOptions(DemographicsOptions, CompareOptions):
    """How demographics are set."""

    event_reason: str = _event_reason("demographics of a table")
    existing_only: bool = setting("--existing-only", default=False, help="Make no subjects that XNAT does not have.")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What else to check, and to repair."""

    repair: bool = option(
        "--repair", default=False, help="Send again what the archive lacks, from the files it was sent from."
    )
    orphans: bool = option(
        "--orphans", default=False, help="Look for sessions that interrupted uploads left in the prearchive."
    )
    delete_orphans: bool = option(
        "--delete-orphans", default=False, help="Delete orphans whose every file is seen to be in the archive."
    )
    safe_to_delete: Path | None = option(
        "--safe-to-delete",
        metavar="FILE",
        help="Write the paths of all files whose instances were just seen in the archive, one a line.",
    )
    attachments_bytes: bool = option(
        "--attachments-bytes", default=False, help="Read all attachments back, and compare their bytes."
    )


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """What to take out of a journal."""

    sessions: Sequence[str] = option(
        "--session", default=(), metavar="LABEL", help="A session, whole: the next run scans and sends it as new."
    )
    held: bool = option("--held", default=False, help="All sessions that are held, whole.")
    gone: bool = option("--gone", default=False, help="Files that are no longer on disk and that XNAT does not have.")
    archived_before: date | None = option(
        "--archived-before",
        metavar="DATE",
        form=DAY,
        help="Files of sessions archived and verified before that day, and no longer on disk.",
    )
    force: bool = option(
        "--force",
        default=False,
        help="Also where XNAT holds an unfinished delivery, and for files that may be gone only because a disk is.",
    )
