"""Users, projects, and who may do what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .anonymisation import Script
from .profiles import PetMr, Right
from .resources import Resource
from .series_filter import SeriesFilter

UNASSIGNED = "Unassigned"
"""What XNAT calls the project of sessions that have none."""
EVERYONE = "*"


@dataclass(frozen=True, slots=True)
class User:
    """A user account."""

    name: str
    password: str = field(repr=False)
    all_data: bool = False
    """All-data access: reads and edits every project, sees Unassigned prearchive rows and the site's settings."""
    password_expired: bool = False
    """Whether every request is redirected to the page that changes the password."""


GUEST = User("guest", "")
"""The user of requests without a login; reads public projects where the site is open to guests."""


@dataclass(slots=True, eq=False)
class Project:
    """A project; its fields may be set at any time."""

    id: str
    name: str = ""
    prearchive_code: int = 0
    """0 leaves sessions in the prearchive, 4 archives them on commit, 5 also overwrites files."""
    quarantine_code: int = 0
    current_arc: str = "arc001"
    scan_type_mapping: int = 1
    readers: Iterable[str] = ()
    """Names of users who may read; editors may read too."""
    editors: Iterable[str] = (EVERYONE,)
    creators: Iterable[str] | None = None
    """Names of users who may create subjects and sessions, editors or not; None: all editors."""
    deleters: Iterable[str] | None = None
    """Names of editors who may also delete; None: all of them."""
    aliases: Iterable[str] = ()
    description: str = ""
    public: bool = False
    """Whether guests may read it on a site that is open to guests."""
    series_filter: SeriesFilter | None = None
    script: Script | None = None
    """Its anonymisation script, which runs when a session is archived."""
    allows_other_studies: bool = False
    """Whether another StudyInstanceUID may be merged into a session."""
    pet_mr: PetMr = ""
    """What happens to PET and MR in one study; empty: the site's setting."""
    pipelines: Iterable[str] = ()
    """Names of the pipelines that are set up; none of them ever runs."""
    subscriptions: Mapping[str, bool] = field(default_factory=dict)
    """Names of event service subscriptions, and whether they are active; none of them ever acts."""
    resources: dict[str, Resource] = field(default_factory=dict)

    def allows(self, user: User, right: Right) -> bool:
        """Return whether the user has the right on this project."""
        if user is GUEST:
            return self.public and right == "read"
        if user.all_data:
            return True
        edits = _includes(self.editors, user)
        match right:
            case "read":
                return edits or _includes(self.readers, user) or _includes(self.creators or (), user)
            case "edit":
                return edits
            case "create":
                return edits if self.creators is None else _includes(self.creators, user)
            case "delete":
                return edits and (self.deleters is None or _includes(self.deleters, user))


def _includes(names: Iterable[str], user: User) -> bool:
    return user.name in names or EVERYONE in names
