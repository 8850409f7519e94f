"""Deliveries and claims, which the journal hands out, and how they end: outcomes and verdicts."""

from collections.abc import Mapping
from dataclasses import field

from asyncimport.model.files import Instance, Session
from asyncimport.model.record import record
from asyncimport.model.states import Refusal


@record
class Delivery:
    """One prearchive row of a session; `uri` is None until the first file is acknowledged.

    `initial_session` has the labels that the row began with, if the session has others now.
    """

    key: int
    session: Session
    number: int
    uri: str | None
    initial_session: Session | None = None

    @property
    def row_session(self) -> Session:
        """The session by the labels of the row."""
        return self.initial_session or self.session


@record
class Claim:
    """An instance handed out to be sent, and its delivery; `key` is the journal's.

    With `check_archive` the archive must be asked first what it has of the session.
    """

    key: int
    instance: Instance
    delivery: Delivery
    check_archive: bool = False


@record
class ArchivedContent:
    """What the archive has of a session before anything is sent: its address and SOPInstanceUIDs (`held`).

    `kind` is its data type (`xnat:mrSessionData`), "" if XNAT merges files of any modality into it. `label` is the
    label under which the study is archived, if it differs from the session's.
    """

    uri: str
    held: frozenset[str]
    kind: str = ""
    label: str = ""


MAY_HAVE_REJECTED = "may have rejected it, which cannot be tried here"


@record
class Dropped:
    """A rule of the site that drops a file, by its name; it only may do so unless `is_certain`."""

    rule: str
    is_certain: bool


@record
class SealedDelivery:
    """A delivery to finalise. It takes no more files, and XNAT has acknowledged `sop_uids` of its whole session.

    There are two exceptions. If it `is_archived`, an earlier run has archived it, and it is only to be verified. If it
    `is_open`, it has no seal, and only the fate of its row is to be found out.

    The archive had some version of `presumed` instances before, and nothing proves yet that it has the one on disk;
    this delivery sent `resent` ones of them again. It should not have any `refused` instance.

    XNAT has `acknowledged` that many files in the row. The row can hold `max_row_files` of ours: these, and refused or
    failed ones of which it may have kept a part. If only numbers can be compared, the archive must hold
    `expected_count` instances; `archived_before` are those that it held before. Both are None until they are known.
    """

    delivery: Delivery
    sop_uids: frozenset[str]
    is_archived: bool = False
    is_open: bool = False
    presumed: frozenset[str] = frozenset()
    resent: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    acknowledged: int = 0
    max_row_files: int | None = None
    expected_count: int | None = None
    archived_before: frozenset[str] | None = None


@record
class Stored:
    """XNAT acknowledged the file and put it where it belongs, at the last of `attempts`.

    `may_have_taken_effect`: an earlier attempt broke off, and may still take effect. `xxh3` and `sha256` are digests of
    the file that was sent. `merges`: the archive held the session before anything of this delivery was sent. `sha256`
    and `merges` are None unless asked for. `zip_size` is the size of the zip that was sent; None: the file as it is.
    `seconds` is how long the last attempt occupied its slot.
    """

    claim: Claim
    uri: str
    attempts: int = 1
    may_have_taken_effect: bool = False
    sha256: bytes | None = None
    merges: bool | None = None
    xxh3: bytes | None = None
    zip_size: int | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def sent_size(self) -> int:
        """Bytes that were sent."""
        return self.claim.instance.file.size if self.zip_size is None else self.zip_size


@record
class Refused:
    """XNAT answered, but did not keep the file, for a reason of this `kind`.

    With `whole_session` this run sends nothing more of the session. `second_row`: XNAT put the file into another row
    than those before it; unless the first row turns out to be gone, that blocks the session too.
    """

    claim: Claim
    reason: str
    whole_session: bool = False
    attempts: int = 1
    may_have_taken_effect: bool = False
    kind: Refusal = Refusal.FILE
    second_row: bool = False


@record
class Failed:
    """No verdict after all retries, or (`unreadable`) the file could not be read.

    With `may_be_elsewhere`, another machine may have it.
    """

    claim: Claim
    reason: str
    unreadable: bool = False
    attempts: int = 1
    may_have_taken_effect: bool = False
    may_be_elsewhere: bool = False


@record
class Withheld:
    """The file stays queued, and nothing of its session is sent: XNAT has something else in the session's place."""

    claim: Claim
    reason: str
    attempts: int = 1
    may_have_taken_effect: bool = False


Outcome = Stored | Refused | Failed | Withheld


@record
class Archived:
    """The session is in the archive; `verified` says how it was compared with what was sent, None: not at all.

    "uids": it has all SOPInstanceUIDs. "present": likewise, but some were there before, and nothing proves that it has
    the bytes on disk. "count": a script gives instances new UIDs, and there are as many more as were sent.

    `has_replaced`: what the delivery sent again has replaced what was there. `origin_unknown`: nothing shows that the
    session was archived from the row of the delivery, so all instances of that are presumed. If only numbers can be
    compared, it `holds` this many instances. If somebody else archived it, `unacknowledged` instances are in it too,
    perhaps in part. `digests` are XNAT's digests of the instances it holds, by SOPInstanceUID, "" for none: a changed
    digest means that an instance has been replaced since.
    """

    delivery: Delivery
    uri: str
    verified: str | None
    has_replaced: bool = False
    holds: int | None = None
    unacknowledged: frozenset[str] = frozenset()
    origin_unknown: bool = False
    digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@record
class Built:
    """The session is built and stays in the prearchive, as requested."""

    delivery: Delivery
    uri: str


@record
class Held:
    """XNAT did not build or archive the session, or has something else than was sent; `uri` if it is archived."""

    delivery: Delivery
    reason: str
    uri: str | None = None


@record
class Deleted:
    """The row of the delivery is gone, and the archive has nothing of it: somebody has deleted it.

    The journal adds how many `files` of it are sent again.
    """

    delivery: Delivery
    files: int = 0


@record
class Incomplete:
    """The session is in the archive, which lacks acknowledged instances, by SOPInstanceUID.

    `script` names the script of the site that drops files there: it dropped those that it `rejects`, and may have
    dropped the `doubtful` ones. The others are lost. The archive has an earlier version of `resent` instances, and XNAT
    has lost the new version of some. `origin_unknown` is as in `Archived`.
    """

    delivery: Delivery
    uri: str
    missing: frozenset[str]
    script: str | None = None
    resent: frozenset[str] = frozenset()
    rejects: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    origin_unknown: bool = False

    @property
    def lost(self) -> frozenset[str]:
        """The instances whose absence nothing explains."""
        return self.missing - self.rejects - self.doubtful


@record
class Postponed:
    """No verdict: a step failed at each of its attempts. The next run continues with the delivery."""

    delivery: Delivery
    reason: str


Verdict = Archived | Built | Deleted | Held | Incomplete | Postponed
