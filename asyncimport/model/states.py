"""States, and every legal change of them."""

from collections.abc import Mapping
from enum import StrEnum


class FileKind(StrEnum):
    """What a file on disk is."""

    INSTANCE = "INSTANCE"  # the copy of an instance that is sent
    DUPLICATE = "DUPLICATE"  # the same instance, byte for byte; sent if the first copy cannot be read
    SKIPPED = "SKIPPED"  # an instance that is not sent, for a reason
    EXCLUDED = "EXCLUDED"  # an instance that was not asked for, for example not in the plan
    NOT_DICOM = "NOT_DICOM"
    ATTACHMENT = "ATTACHMENT"  # not DICOM, and goes into a resource of a session
    UNREADABLE = "UNREADABLE"  # DICOM, but truncated or without identifiers, or a file that cannot be opened
    CONTAINER = "CONTAINER"  # a zip, tar or the like that holds DICOM; it is skipped
    LINK = "LINK"  # a link out of the source; it is not followed
    INNER_LINK = "INNER_LINK"  # a link to a directory of the source, whose files are found there


class InstanceState(StrEnum):
    """The state of an instance between disk and XNAT."""

    PENDING = "PENDING"
    STORED = "STORED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class Refusal(StrEnum):
    """Why XNAT refused a file.

    A session is archived without files that a rule of the site drops; any other refusal holds it.
    """

    DROPPED = "DROPPED"  # a filter or a script of the site drops it
    FILE = "FILE"  # probably because of the file: it is sent again on request only
    SERVER = "SERVER"  # because of the server's state, which may change: the next run sends it again


class DeliveryState(StrEnum):
    """The state of a delivery between its first file and the archive."""

    OPEN = "OPEN"
    SEALED = "SEALED"
    BUILT = "BUILT"
    ARCHIVED = "ARCHIVED"
    HELD = "HELD"
    DELETED = "DELETED"  # somebody deleted its row before anything was archived


# The database enforces both tables with triggers. An acknowledged instance is sent again only if the archive turned out
# to lack it, and becomes refused if a script may have dropped it there. ARCHIVED and DELETED are final: later files of
# the session go into another delivery. An open delivery ends if somebody else archives or deletes its row, and one that
# stands for instances found in the archive needs no row. A seal is never broken: HELD returns to SEALED, not to OPEN.
_INSTANCES: Mapping[InstanceState, tuple[InstanceState, ...]] = {
    InstanceState.PENDING: (InstanceState.STORED, InstanceState.REFUSED, InstanceState.FAILED),
    InstanceState.FAILED: (InstanceState.PENDING,),
    InstanceState.REFUSED: (InstanceState.PENDING,),
    InstanceState.STORED: (InstanceState.PENDING, InstanceState.REFUSED),
}
_DELIVERIES: Mapping[DeliveryState, tuple[DeliveryState, ...]] = {
    DeliveryState.OPEN: (DeliveryState.SEALED, DeliveryState.HELD, DeliveryState.ARCHIVED, DeliveryState.DELETED),
    DeliveryState.SEALED: (DeliveryState.DELETED, DeliveryState.BUILT, DeliveryState.ARCHIVED, DeliveryState.HELD),
    DeliveryState.BUILT: (DeliveryState.SEALED,),
    DeliveryState.HELD: (DeliveryState.SEALED,),
}
INSTANCE_TRANSITIONS = frozenset((before, after) for before, states in _INSTANCES.items() for after in states)
DELIVERY_TRANSITIONS = frozenset((before, after) for before, states in _DELIVERIES.items() for after in states)
