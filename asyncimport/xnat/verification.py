"""Compares an archived session with what XNAT acknowledged, and gives the verdict on its delivery."""

from dataclasses import dataclass
from urllib.parse import unquote

from asyncimport.errors import RefusedError, TransientError
from asyncimport.model.deliveries import Archived, Delivery, Held, Incomplete, SealedDelivery, Verdict
from asyncimport.model.files import Session
from asyncimport.xnat.archive import UNKNOWN_WHICH, Archive, Comparison, FoundSessions
from asyncimport.xnat.replies.archive import Experiment
from asyncimport.xnat.site import SiteRules

CORRECT = "correct it in XNAT, then `--retry held`"


@dataclass(slots=True)
class Progress:
    """What this run knows of a delivery on its way into the archive.

    `row_files` is how many files its row held when it was built; None: nobody has counted. `archive_uri` is where XNAT
    says that it archived it. `may_have_archived`: XNAT was asked to, but the answer got lost.
    """

    row_files: int | None = None
    may_have_archived: bool = False
    archive_uri: str | None = None

    @property
    def new_label(self) -> str | None:
        """The label that XNAT says it gave the session."""
        return unquote(self.archive_uri.rpartition("/")[2]) if self.archive_uri else None


async def verify(
    archive: Archive,
    rules: SiteRules,
    sealed: SealedDelivery,
    found: FoundSessions,
    progress: Progress,
    *,
    overwrite: str,
) -> Verdict:
    """Compare what the archive has with what XNAT acknowledged. Raises: TransientError.

    Somebody may have deleted a row that is gone, and archived another of the same study. If nothing shows that the
    session is from this row, its UIDs prove nothing about the bytes.
    """
    delivery, session, row_files = sealed.delivery, sealed.delivery.session, progress.row_files
    uri = archive_address(session, found.experiments[0])
    # What an earlier run archived was judged then.
    is_known = sealed.archived or progress.may_have_archived or progress.archive_uri is not None
    is_own = is_known or _is_from_row(found, delivery)
    comparison = None
    try:
        found, comparison = await archive.compare(
            session, found, sealed.sop_uids, sealed.expected, new_label=progress.new_label
        )
    except RefusedError:
        pass
    except TransientError as error:
        if error.unreachable or error.overload or error.may_have_taken_effect:
            raise
    if found.problem is not None:
        return Held(delivery, f"{found.problem}; {CORRECT}", uri)
    if comparison is None:
        # It is archived, but could not be read: the next run tries again.
        return Archived(delivery, uri, None, unproven=not is_own)
    digests, missing = comparison.digests, comparison.missing
    if refused := sealed.refused & digests.keys():
        # A write that fails, on a full disk say, can leave a part of a file.
        return Held(delivery, f"the archive holds instances that XNAT refused, perhaps in part ({len(refused):,})")
    surplus = _surplus(sealed, comparison)
    if comparison.verified == "count" and (surplus < 0 or (row_files is not None and row_files < sealed.files)):
        lost = max(-surplus, sealed.files - (sealed.files if row_files is None else row_files))
        return Held(delivery, f"the archive has too few instances ({lost:,} missing), {UNKNOWN_WHICH}", uri)
    # Some may have replaced others: all UIDs are new, the row had all files, and no rule drops any.
    replaces = overwrite != "none" and row_files == sealed.files and not digests.keys() & sealed.sop_uids
    if comparison.missing_count and replaces and (await rules.get(session.project)).on_archive == "":
        return Archived(delivery, uri, "count" if is_own else "present", holds=len(digests), unproven=not is_own)
    if comparison.missing_count and not missing:
        return Held(
            delivery, f"the archive has too few instances ({comparison.missing_count:,} missing), {UNKNOWN_WHICH}", uri
        )
    # The archive had these UIDs before: only a row with all files proves that those sent again arrived.
    lost = sealed.files - row_files if sealed.resent and row_files is not None else 0
    resent = sealed.resent if lost > len(missing) else frozenset()
    if missing or resent:
        script = None if resent else (await rules.get(session.project)).on_archive
        doubtful = missing if script else frozenset()
        return Incomplete(delivery, uri, missing, script or None, resent, doubtful=doubtful, unproven=not is_own)
    is_proven = bool(sealed.resent) and row_files == sealed.files and progress.archive_uri is not None
    # A script that rejects files when they are archived leaves the earlier versions there.
    is_proven = is_proven and (await rules.get(session.project)).on_archive == ""
    is_sure = is_own and sealed.presumed <= (sealed.resent if is_proven else frozenset())
    if comparison.verified == "uids":
        # An interrupted attempt may have left a part of a file.
        others = frozenset(digests.keys() - sealed.sop_uids) if sealed.is_open else frozenset()
        return Archived(
            delivery,
            uri,
            "uids" if is_sure else "present",
            is_proven,
            unacknowledged=others,
            unproven=not is_own,
            digests=digests,
        )
    # Others' instances may make up the number, unless the archive has just what was in our row.
    is_sure = is_sure and surplus == 0 and row_files == sealed.files
    verified = "count" if is_sure else "present"
    return Archived(delivery, uri, verified, is_proven, len(digests), unproven=not is_own, digests=digests)


def _surplus(sealed: SealedDelivery, comparison: Comparison) -> int:
    """Return how many more instances are new in the archive than were brought (negative: missing); 0: not counted."""
    if sealed.archived_before is None or sealed.expected is None:
        return 0
    return len(comparison.digests.keys() - sealed.archived_before) - (sealed.expected - len(sealed.archived_before))


def _is_from_row(found: FoundSessions, delivery: Delivery) -> bool:
    """Whether all sessions were archived from the row of a delivery, by whomever."""
    # An archived session keeps the folder of the row that made it (xnat:imageSessionData/prearchivePath): timestamp and
    # name are those of the row's address. It does not keep those of rows that were merged into it later.
    place = (delivery.uri or "").split("/")[-2:]
    paths = [one.prearchive_path.replace("\\", "/").rstrip("/").split("/")[-2:] for one in found.experiments]
    return len(place) == 2 and all(path == place for path in paths)


def archive_address(session: Session, found: Experiment) -> str:
    """Return the address of an archived session, by its labels."""
    subject = found.subject or session.subject
    return f"/data/archive/projects/{session.project}/subjects/{subject}/experiments/{found.label}"
