"""Differences between XNAT versions: one row of switches for each version.

The code asks a switch, never a version number, so a new version is only a new row here.
"""

from dataclasses import dataclass, replace
from typing import Literal

Right = Literal["read", "edit", "create", "delete"]
FileLock = Literal["none", "site", "session", "scan"]
PetMr = Literal["", "separate", "pet", "petmr"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How one XNAT version behaves where versions differ."""

    version: str
    """What `/xapi/siteConfig/buildInfo` reports."""
    import_right: Right
    """The right on a project that an import into it needs; without it the session is Unassigned."""
    default_importer: str
    """The importer for requests that name none and whose content type implies none."""
    row_key_has_label: bool
    """Whether files of one study with another session label make another prearchive row."""
    rows_locked: bool
    """Whether a row is looked up and created in one step; otherwise simultaneous files may create several rows."""
    file_lock: FileLock
    """What two files of one name must share for the second to be refused while the first is being written."""
    merge_needs_overwrite: bool
    """Whether archiving into an existing session needs `overwrite=append|delete`."""
    archive_dest_breaks: bool
    """Whether `dest` on an archive request for one session is a 500 (a failed cast in XNAT's own job)."""
    archive_hides_codes: bool
    """Whether every failed archive job is a 500 with text, conflicts (409) included."""
    archive_prefix: str
    """The prefix of the archived session's URI in the reply."""
    has_xapi: bool
    """Whether /xapi exists; before it did, the version was at /data/version."""
    zip_format_by_name: bool
    """Whether DICOM-zip takes the format of an archive from its name; before 1.8.3 all were zip files to it."""
    has_checksums: bool
    """Whether catalogs can have digests at all."""
    has_event_tracking: bool
    """Whether /xapi/event_tracking tells of archive jobs."""
    has_direct_archive: bool
    """Whether imports may go straight into the archive (Direct-Archive, from 1.8.3 on)."""
    strict_urls: bool
    """Whether its Tomcat refuses raw brackets and the like in addresses."""
    context: str
    """The context path under which it was usually installed."""
    plus_in_series_number: bool
    """Whether a SeriesNumber that begins with a plus sign names its folder as it is; 1.10 makes it an underscore."""
    catalog_has_sizes: bool
    """Whether listings of files take sizes from the catalog, not from the disk (CatalogUtils.getEntryDetails)."""


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
    zip_format_by_name=True,
    has_checksums=True,
    has_event_tracking=True,
    has_direct_archive=True,
    strict_urls=True,
    context="",
    plus_in_series_number=True,
    catalog_has_sizes=True,
)
_1_9 = replace(_NOW, version="1.9.2.1")
_1_10 = replace(_1_9, version="1.10.0", plus_in_series_number=False)
# How 1.7 archives is inferred from 1.8, which Tomcat each version ran on from the years of both, and that 1.6.1 has no
# digests from the release notes of later versions.
_1_7 = replace(
    _NOW,
    version="1.7.6",
    import_right="edit",
    default_importer="SI",
    file_lock="session",
    zip_format_by_name=False,
    has_event_tracking=False,
    has_direct_archive=False,
    strict_urls=False,
    catalog_has_sizes=False,
)
_1_6 = replace(
    _1_7,
    version="1.6.1",
    row_key_has_label=False,
    file_lock="site",
    merge_needs_overwrite=True,
    archive_dest_breaks=False,
    archive_hides_codes=False,
    has_xapi=False,
    has_checksums=False,
    context="/xnat",
)
_1_5 = replace(_1_6, version="1.5.4", rows_locked=False, file_lock="none", archive_prefix="")
PROFILES = {"1.5.4": _1_5, "1.6.1": _1_6, "1.7": _1_7, "1.8": _NOW, "1.9": _1_9, "1.10": _1_10}
