"""Settings of a test XNAT; each default is that of a newly installed XNAT. All times are in seconds."""

import time
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from typing import Literal

from .anonymisation import Script
from .names import FILE_NAME_TEMPLATE
from .profiles import PROFILES, PetMr, Profile
from .series_filter import SeriesFilter


@dataclass(frozen=True, slots=True)
class Timing:
    """A service-time model for benchmarks. With all values at zero, the server is as fast as it can be."""

    serial_seconds: float = 0.0
    """Per import, under the site-wide lock around the row look-up (a SELECT of PrearcDatabase)."""
    row_seconds: float = 0.0
    """Per import and row of the site's prearchive, under the same lock: the look-up has no index."""
    other_rows: int = 0
    """Rows of other people that lie in the prearchive, for `row_seconds`."""
    shadow_lock_seconds: float = 0.0
    """Per import, under a second lock of the whole site: 0.0001 for a lock file on a local disk, more on NFS."""
    parallel_seconds: float = 0.0
    """Per import, outside those locks (filters, body copy, the parsing of the anonymisation script)."""
    byte_seconds: float = 0.0
    """Per byte of an import, outside those locks: it is written, and anonymised in a copy."""
    inflation_byte_seconds: float = 0.0
    """Per byte that an imported archive unpacks to."""
    build_seconds: float = 0.0
    """Per build of a session document."""
    naming_seconds: float = 0.0
    """Without `rename`, between the check that a file name is free and the lock on it."""
    queue_seconds: float = 0.0
    """How long an archive job or a batch operation waits in its queue."""
    archive_slowdown: float = 0.0
    """How much longer imports and other archive jobs take, as a share, for each archive job that copies files.

    0 is a fast disk, 1 one that they share."""
    archive_workers: int = 40
    """Archive jobs at once; XNAT has 10 to 40."""
    poll_seconds: float = 0.0
    """Between the end of an archive job and the moment its waiters see it; up to 0.5 in XNAT."""
    saving_seconds: float = 0.0
    """Between reading a resource's catalog and writing it, and between looking for a subject and saving a new one.

    If two requests overlap there, one fails."""
    subject_seconds: float = 0.0
    """How long an archive job holds the lock on its subject's label, to find the subject or to make it."""
    subject_lock_seconds: float = 0.0
    """How long an archive job sleeps while another holds its subject's label; 10 in XNAT. 0: until it is free."""
    threads: int = 200
    """Requests served at once (Tomcat's maxThreads)."""
    db_connections: int = 40
    """Imports at once between row look-up and reply (the connection pool)."""
    keepalive_requests: int | None = None
    """Requests until a connection is closed (Tomcat's maxKeepAliveRequests, 100 by default)."""
    keepalive_seconds: float | None = None
    """How long an idle connection is kept (Tomcat's connectionTimeout, 20 by default)."""

    @property
    def is_free(self) -> bool:
        """Whether imports take no modelled time, so that no limit can matter."""
        return not any(
            (self.serial_seconds, self.row_seconds, self.shadow_lock_seconds, self.parallel_seconds, self.byte_seconds)
        )

    def look_up_seconds(self, rows: int) -> float:
        """Return how long a row look-up takes with so many rows in the prearchive."""
        return self.serial_seconds + self.row_seconds * (rows + self.other_rows)


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """Keyword arguments of a site. Most are attributes too, and can be changed at any time."""

    profile: Profile = PROFILES["1.8"]
    """Which XNAT version to imitate."""
    timing: Timing = Timing()
    keep_bytes: InitVar[bool] = True
    """False keeps only sizes and digests of files."""
    checksums: InitVar[bool] = True
    """Whether catalogs have MD5 digests, if the version can; an attribute of `storage`."""
    session_timeout: InitVar[float] = 900
    """How long an idle login lives."""
    max_sessions: InitVar[int] = 1000
    """Concurrent logins of a user (concurrentMaxSessions)."""
    max_failed_logins: InitVar[int] = 20
    """Failed logins until an account is locked."""
    lockout_seconds: InitVar[float] = 3600
    token_seconds: InitVar[float] = 172_800
    """How long an alias token lives (aliasTokenTimeout)."""
    archive_seconds: float = 0.0
    """How long each archive job takes."""
    archive_timeout: float = 600.0
    """How long an archive request waits for its job (sessionArchiveTimeoutInterval)."""
    default_prearchive_code: int = 4
    """The prearchive code of projects that are made over HTTP."""
    anonymise: InitVar[bool | Script] = True
    """The site's anonymisation script, which is the attribute `script`: False is none, True is XNAT's own."""
    series_filter: SeriesFilter | None = None
    """The site's series import filter."""
    idle_minutes: int = 5
    """Minutes without files after which the idle builder builds a session (sessionXmlRebuilderInterval)."""
    idle_repeat: float | None = 60.0
    """How often the idle builder runs; None turns it off."""
    prevent_cross_modality_merge: bool = True
    """Whether a session takes only scans of its own type."""
    unique_sop_uids: bool = True
    """Whether a catalog holds each SOPInstanceUID once (useSopInstanceUidToUniquelyIdentifyDicom)."""
    separate_secondary: bool = True
    """Whether secondary DICOM objects get a resource of their own (separateSecondaryDicomOnArchive)."""
    pet_mr: PetMr = ""
    """What happens to PET and MR in one study (sitewidePetMr)."""
    require_login: bool = True
    """False lets guests read public projects."""
    restrict_user_list: bool = False
    """Whether only administrators may list users (restrictUserListAccessToAdmins)."""
    initialised: bool = True
    """False is a site that nobody has set up yet: it serves no data."""
    strict_urls: bool | None = None
    """Whether Tomcat refuses characters such as brackets in addresses; None: as it does for the version."""
    has_data: bool = True
    """Whether addresses may begin with /data; /REST works in any case."""
    max_body: int | None = None
    """The largest body in bytes that a proxy in front lets through (413); nginx's own default is 1 MB."""
    sticky_cookie: str = ""
    """The name of a cookie by which a load balancer finds the one server that knows a login; empty: there is none."""
    swallowed_bytes: int | None = None
    """How much Tomcat reads of a body after an early error before it breaks the connection; 2 MB by default there."""
    starting: Literal[404, 502, 503] | None = None
    """What every request gets while XNAT starts: Tomcat's 404, or the 502 or 503 of a proxy in front."""
    disk_full: bool = False
    needs_reason: bool = False
    """Whether a change needs an event_reason."""
    site_url: str | None = None
    """The address that the site believes it has; the one it is served at, unless given."""
    file_name_template: str = FILE_NAME_TEMPLATE
    """How imported files are named (dicomFileNameTemplate)."""
    seconds_ahead: float = 0.0
    """How far the server's clock is ahead of this machine's."""
    clock: Callable[[], float] = time.monotonic
    """The clock for everything that expires."""
