"""What is handed out and what becomes of it: deliveries, claims, outcomes, verdicts."""

from collections.abc import Mapping
from dataclasses import field

from asyncimport.model.files import Instance, Session
from asyncimport.model.record import record
from asyncimport.model.states import Refusal


@record
class Delivery:
    """One prearchive row of a session; `uri` is None until the first file has been acknowledged.

    `initial_session` has the labels that the row was begun with, where the session has got others since.
    """

    key: int
    session: Session
    number: int
    uri: str | None
    initial_session: Session | None = None

    @property
    def row_session(self) -> Session:
        """The session by the labels that the row has."""
        return self.initial_session or self.session


@record
class Claim:
    """An instance handed out to be sent, and where it goes; `key` is the journal's.

    Before it is sent the archive is asked what it has of the session, if the journal does not know (`look`).
    """

    key: int
    instance: Instance
    delivery: Delivery
    check_archive: bool = False


@record
class ArchivedContent:
    """What the archive has of a session before anything of it is sent: its address, and SOPInstanceUIDs.

    `kind` is its data type (`xnat:mrSessionData`), "" where files of whatever modality are merged into it. `label` is
    its label where that is another than the session's: the study has been archived under it.
    """

    uri: str
    held: frozenset[str]
    kind: str = ""
    label: str = ""


MAY_HAVE_REJECTED = "may have rejected it, which cannot be tried here"


@record
class Dropped:
    """A rule of the site, by its name, that drops a file; unless that `is_certain`, it may do so."""

    rule: str
    is_certain: bool


@record
class SealedDelivery:
    """A delivery that nothing is sent into any more, and the SOPInstanceUIDs that XNAT acknowledged of its session.

    Of those that it `refused` nothing should be in the archive. `archived`: it is there already, and only to be
    verified. `is_open`: it is not sealed, and all that is to be found out is what has become of its row. `most_files`
    is how many files of ours that can hold: those acknowledged there, and those of which it may have kept a part; None:
    nobody has counted.

    Of `presumed` instances the archive had some version before, and nothing proves yet that it has the one on disk;
    `resent` are those of them that this delivery has brought, among `files` in all. Where only numbers can be compared,
    `expected` is how many instances the archive must hold, and `before` those that it held before, by SOPInstanceUID.
    """

    delivery: Delivery
    sop_uids: frozenset[str]
    refused: frozenset[str] = frozenset()
    archived: bool = False
    is_open: bool = False
    most_files: int | None = None
    presumed: frozenset[str] = frozenset()
    resent: frozenset[str] = frozenset()
    files: int = 0
    expected: int | None = None
    archived_before: frozenset[str] | None = None


@record
class Stored:
    """XNAT acknowledged the file and put it where it belongs, at the last of so many `attempts`.

    `may_have_taken_effect`: an earlier attempt broke off, and may yet take effect. `xxh3` and `sha256` are digests of
    what was sent; `merges` tells whether the archive held the session before anything of this delivery was sent. The
    last two only where they were asked for.
    """

    claim: Claim
    uri: str
    attempts: int = 1
    may_have_taken_effect: bool = False
    sha256: bytes | None = None
    merges: bool | None = None
    xxh3: bytes | None = None


@record
class Refused:
    """XNAT answered, but did not keep the file, for a reason of this `kind`.

    With `whole_session` nothing more of the session is sent in this run; with `second_row`, because XNAT has put the
    file into another row than those before it, unless the first one turns out to be gone.
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
    """No verdict after all retries, or (`unreadable`) the file could not be read."""

    claim: Claim
    reason: str
    unreadable: bool = False
    attempts: int = 1
    may_have_taken_effect: bool = False


@record
class Withheld:
    """The file waits as before, and nothing of its session is sent: XNAT has something else in the session's place."""

    claim: Claim
    reason: str
    attempts: int = 1
    may_have_taken_effect: bool = False


Outcome = Stored | Refused | Failed | Withheld


@record
class Archived:
    """The session is in the archive; `verified` tells how it was compared with what was sent, None: it was not.

    "uids": it has all SOPInstanceUIDs; "present": as well, but some were there before, and nothing proves that it has
    the bytes on disk; "count": a script gives instances new UIDs, and there are as many more as were sent. `proven`:
    what the delivery sent again has taken the place of what was there. `holds` is how many instances it holds then,
    where only numbers can be compared. Where somebody else has archived it, `unacknowledged` instances are in it too,
    perhaps in part. `unproven`: nothing shows that it was archived from the row of the delivery, so all that went there
    is presumed. `digests` are what XNAT tells of the file of each instance that it holds, by SOPInstanceUID, "" where
    none: those that are not what they were when an earlier delivery was verified have been replaced.
    """

    delivery: Delivery
    uri: str
    verified: str | None
    proven: bool = False
    holds: int | None = None
    unacknowledged: frozenset[str] = frozenset()
    unproven: bool = False
    digests: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@record
class Built:
    """The session is built and stays in the prearchive, as asked."""

    delivery: Delivery
    uri: str


@record
class Held:
    """XNAT would not build or archive the session, or what it has is not what was sent; `uri` where it is archived."""

    delivery: Delivery
    reason: str
    uri: str | None = None


@record
class Deleted:
    """The row of the delivery is gone, and nothing of it is in the archive: somebody has deleted it.

    So many `files` of it are to be sent again, as the journal adds.
    """

    delivery: Delivery
    files: int = 0


@record
class Incomplete:
    """The session is in the archive, which lacks instances that XNAT had acknowledged, by SOPInstanceUID.

    `script` names what of the site drops files there: it has dropped those that it `rejects`, and may have dropped the
    `doubtful` ones. The others are lost. Of those that were `resent` it has an earlier version, and XNAT has lost the
    new one of some. `unproven` is as of `Archived`.
    """

    delivery: Delivery
    uri: str
    missing: frozenset[str]
    script: str | None = None
    resent: frozenset[str] = frozenset()
    rejects: frozenset[str] = frozenset()
    doubtful: frozenset[str] = frozenset()
    unproven: bool = False

    @property
    def lost(self) -> frozenset[str]:
        """Return the instances that nothing explains where they are."""
        return self.missing - self.rejects - self.doubtful


@record
class Postponed:
    """No verdict: a step failed for a time as often as any call may. The next run goes on with the delivery."""

    delivery: Delivery
    reason: str


Verdict = Archived | Built | Deleted | Held | Incomplete | Postponed
