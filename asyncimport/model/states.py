"""States, and every legal change of them."""

from enum import StrEnum


class FileKind(StrEnum):
    """What a file on disk turned out to be."""

    INSTANCE = "INSTANCE"  # the copy of an instance that is sent
    DUPLICATE = "DUPLICATE"  # the same instance again, byte for byte; stands in if the first copy cannot be read
    SKIPPED = "SKIPPED"  # an instance that we chose not to send, with the reason
    EXCLUDED = "EXCLUDED"  # an instance that nobody asked for: it is not in the plan, say
    NOT_DICOM = "NOT_DICOM"
    ATTACHMENT = "ATTACHMENT"  # not DICOM, and asked for: it goes beside the images of a session
    UNREADABLE = "UNREADABLE"  # DICOM, but truncated or without the identifiers, or a file that cannot be opened
    CONTAINER = "CONTAINER"  # a zip, tar or the like that holds DICOM, which is passed over
    LINK = "LINK"  # a link that leads out of the source, which is not followed
    INNER_LINK = "INNER_LINK"  # a link to a directory of the source, whose files are found there


class InstanceState(StrEnum):
    """Where an instance stands between disk and XNAT."""

    PENDING = "PENDING"
    STORED = "STORED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"


class Refusal(StrEnum):
    """Why XNAT has nothing of a file that was sent to it and refused.

    Only what a rule of the site drops is not lacking: a session is archived without it. Any other holds its session.
    """

    DROPPED = "DROPPED"  # a filter or a script of the site drops it
    FILE = "FILE"  # the file is why, as far as anyone can tell: it is sent again when asked for
    SERVER = "SERVER"  # the state of the server is why, which may change: the next run sends it again


class DeliveryState(StrEnum):
    """Where a delivery stands between its first file and the archive."""

    OPEN = "OPEN"
    SEALED = "SEALED"
    BUILT = "BUILT"
    ARCHIVED = "ARCHIVED"
    HELD = "HELD"
    DELETED = "DELETED"  # somebody deleted its row before anything of it was archived


# The database enforces both tables with triggers. What XNAT has acknowledged is sent again only when the archive turned
# out to lack it, and is refused when a script of the site may have dropped it there. ARCHIVED and DELETED
# are final: what comes later for the session is another delivery. Somebody else may have archived or deleted the row of
# an open one, and what is found in the archive before anything is sent needs no row. A seal is never broken: HELD goes
# back to SEALED, not to OPEN.
INSTANCE_TRANSITIONS = frozenset(
    {
        (InstanceState.PENDING, InstanceState.STORED),
        (InstanceState.PENDING, InstanceState.REFUSED),
        (InstanceState.PENDING, InstanceState.FAILED),
        (InstanceState.FAILED, InstanceState.PENDING),
        (InstanceState.REFUSED, InstanceState.PENDING),
        (InstanceState.STORED, InstanceState.PENDING),
        (InstanceState.STORED, InstanceState.REFUSED),
    }
)


DELIVERY_TRANSITIONS = frozenset(
    {
        (DeliveryState.OPEN, DeliveryState.SEALED),
        (DeliveryState.OPEN, DeliveryState.HELD),
        (DeliveryState.OPEN, DeliveryState.ARCHIVED),
        (DeliveryState.OPEN, DeliveryState.DELETED),
        (DeliveryState.SEALED, DeliveryState.DELETED),
        (DeliveryState.SEALED, DeliveryState.BUILT),
        (DeliveryState.SEALED, DeliveryState.ARCHIVED),
        (DeliveryState.SEALED, DeliveryState.HELD),
        (DeliveryState.BUILT, DeliveryState.SEALED),
        (DeliveryState.HELD, DeliveryState.SEALED),
    }
)
