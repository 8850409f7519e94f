"""What differs between XNAT versions: one row of switches a version.

The code asks a switch, never a version number, so that a new version is a new row here and nothing else.
"""

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["PROFILES", "FileLock", "PetMr", "Profile", "Right"]

Right = Literal["read", "edit", "create", "delete"]
FileLock = Literal["none", "site", "session", "scan"]
PetMr = Literal["", "separate", "pet", "petmr"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one XNAT version behaves where versions differ."""

    version: str
    """What `/xapi/siteConfig/buildInfo` reports."""
    import_right: Right
    """The right on a project that lets an import reach it; without it the session is Unassigned."""
    default_importer: str
    """The importer of requests that name none and whose content type tells none."""
    row_key_has_label: bool
    """Whether files of one study under another session label make another prearchive row."""
    rows_locked: bool
    """Whether a row is looked up and made in one step; otherwise files that come at once may make several."""
    file_lock: FileLock
    """What two files must share, besides their name, for the second to be refused while the first is written."""
    merge_needs_overwrite: bool
    """Whether archiving into an existing session needs `overwrite=append|delete`."""
    archive_dest_breaks: bool
    """Whether `dest` on an archive request of one session ends in 500 (a failed cast in XNAT's own job)."""
    archive_hides_codes: bool
    """Whether every failed archive job is a 500 with text, conflicts (409) included."""
    archive_prefix: str
    """What stands before the archived session's URI in the reply."""
    has_xapi: bool
    """Whether there is /xapi; before, the version was at /data/version."""
    catalog_has_sizes: bool
    """Whether listings of files tell sizes from the catalog, and not from the disk (CatalogUtils.getEntryDetails)."""


_NOW = Profile(
    version="1.8.10.1",
    import_right="read",
    default_importer="DICOM-zip",
    row_key_has_label=True,
    rows_locked=True,
    file_lock="scan",
    merge_needs_overwrite=False,
    archive_dest_breaks=True,
    archive_hides_codes=True,
    archive_prefix="/data",
    has_xapi=True,
    catalog_has_sizes=True,
)
# How 1.7 archives is inferred from 1.8.
_1_7 = replace(
    _NOW,
    version="1.7.6",
    import_right="edit",
    default_importer="SI",
    file_lock="session",
    catalog_has_sizes=False,
)
_1_6 = replace(
    _1_7,
    version="1.6.5",
    row_key_has_label=False,
    file_lock="site",
    merge_needs_overwrite=True,
    archive_dest_breaks=False,
    archive_hides_codes=False,
    has_xapi=False,
)
_1_5 = replace(_1_6, version="1.5.4", rows_locked=False, file_lock="none", archive_prefix="")

PROFILES = {"1.5": _1_5, "1.6": _1_6, "1.7": _1_7, "1.8": _NOW}
