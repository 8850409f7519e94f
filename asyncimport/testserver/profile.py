"""What differs between XNAT versions: one row of switches a version.

The code asks a switch, never a version number, so that a new version is a new row here and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["PROFILES", "Profile", "Right"]

Right = Literal["read", "edit"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one XNAT version behaves where versions differ."""

    version: str
    """What `/xapi/siteConfig/buildInfo` reports."""
    import_right: Right
    """The right on a project that lets an import reach it; without it the session is Unassigned."""
    row_key_has_label: bool
    """Whether files of one study under another session label make another prearchive row."""
    merge_needs_overwrite: bool
    """Whether archiving into an existing session needs `overwrite=append|delete`."""
    archive_dest_breaks: bool
    """Whether `dest` on an archive request of one session ends in 500 (a failed cast in XNAT's own job)."""
    archive_hides_codes: bool
    """Whether every failed archive job is a 500 with text, conflicts (409) included."""


PROFILES = {
    "1.8": Profile(
        version="1.8.10.1",
        import_right="read",
        row_key_has_label=True,
        merge_needs_overwrite=False,
        archive_dest_breaks=True,
        archive_hides_codes=True,
    ),
}
