"""The values that options can have, where these are words."""

from enum import StrEnum


class Truncated(StrEnum):
    """What becomes of files whose data set ends before it should."""

    SKIP = "skip"
    SEND = "send"


class Partial(StrEnum):
    """What becomes of sessions that lack files."""

    HOLD = "hold"
    ARCHIVE = "archive"


class Overwrite(StrEnum):
    """What XNAT's archive step does with a session that exists."""

    NONE = "none"
    APPEND = "append"
    DELETE = "delete"


class Compress(StrEnum):
    """Whether images go as zips, which XNAT unpacks."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class OnCollision(StrEnum):
    """What becomes of a label that another study has already."""

    ERROR = "error"
    SUFFIX = "suffix"


class Retry(StrEnum):
    """What else a run takes up of an earlier one."""

    HELD = "held"
    REFUSED = "refused"
