"""A test XNAT from a JSON file: its version, users, projects, settings, service times and faults.

    {"xnat": "1.6.1", "users": [{"name": "anna", "password": "secret"}],
     "projects": [{"id": "STUDY", "prearchive_code": 4, "editors": ["anna"]}],
     "settings": {"checksums": false}, "timing": {"parallel_seconds": 0.02},
     "faults": [{"kind": "import", "action": "status", "status": 503, "nth": 3}]}

All parts may be left out. `config_schema` describes the file.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .faults.files import fault_schema, faults_from
from .faults.schedule import Fault
from .site.anonymisation import Script
from .site.dicom_header import Header
from .site.json_values import check_values, hints_of, is_json_type, object_schema, schema_of
from .site.profiles import PROFILES, PetMr
from .site.projects import EVERYONE, Project, User
from .site.series_filter import SeriesFilter
from .site.settings import Settings, Timing
from .xnat import TestXnat

_SETTINGS = {name: hint for name, hint in hints_of(Settings).items() if is_json_type(hint)}
_Uid = Literal["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]


@dataclass(frozen=True, slots=True)
class UserConfig:
    """A user; without a password, the name is the password."""

    name: str
    password: str | None = None
    all_data: bool = False
    password_expired: bool = False


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """A series import filter."""

    patterns: tuple[str, ...]
    mode: Literal["denylist", "allowlist"] = "denylist"
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ScriptConfig:
    """An anonymisation script: what it rejects, and which UIDs it replaces."""

    rewrite: bool = True
    """Whether it sets StudyDescription, PatientName and PatientID, as XNAT's own does."""
    reject_modalities: tuple[str, ...] = ()
    new_uids: tuple[_Uid, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectConfig:
    """A project. Lists of users have names; `*` is everybody."""

    id: str
    name: str = ""
    description: str = ""
    prearchive_code: int = 0
    aliases: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    editors: tuple[str, ...] = (EVERYONE,)
    creators: tuple[str, ...] | None = None
    deleters: tuple[str, ...] | None = None
    public: bool = False
    series_filter: FilterConfig | None = None
    script: ScriptConfig | None = None
    allows_other_studies: bool = False
    pet_mr: PetMr = ""
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """What a file says of a test XNAT."""

    xnat: str = "1.8"
    context: str | None = None
    users: tuple[UserConfig, ...] = ()
    projects: tuple[ProjectConfig, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    series_filter: FilterConfig | None = None
    script: ScriptConfig | None = None
    timing: Timing = field(default_factory=Timing)
    faults: tuple[Fault, ...] = ()

    def make(self, directory: Path | None, *, xnat: str | None = None) -> TestXnat:
        """Make the site, with its files in a directory; `xnat` is another version than the file's.

        Without users there is the user `demo`, without projects the project `demo`.
        """
        settings = dict(self.settings)
        if self.script is not None:
            settings["anonymise"] = _script(self.script)
        site = TestXnat(
            directory,
            profile=PROFILES[xnat or self.xnat],
            timing=self.timing,
            series_filter=_filter(self.series_filter),
            **settings,
        )
        if self.users:
            site.users.clear()
        for user in self.users:
            password = user.name if user.password is None else user.password
            site.add_user(User(user.name, password, user.all_data, user.password_expired))
        if self.projects:
            site.projects.clear()
        for project in self.projects:
            site.add_project(_project(project))
        for fault in self.faults:
            site.faults.add(fault)
        return site


def read_config(data: object) -> SiteConfig:
    """Read a parsed JSON file. Raises ValueError, with a line for each mistake."""
    if not isinstance(data, dict):
        raise ValueError("a configuration is an object")  # noqa: TRY004 - what a file says, not what code does
    parts: dict[str, Any] = {}
    mistakes: list[str] = []

    def read(name: str, reader: Callable[[object], object]) -> None:
        if name in data:
            try:
                parts[name] = reader(data[name])
            except ValueError as error:
                mistakes.extend(str(error).splitlines())

    read("settings", lambda value: check_values(_SETTINGS, _object(value, "settings"), "settings"))
    read("faults", lambda value: tuple(faults_from(value)))
    rest = {name: value for name, value in data.items() if name not in {"settings", "faults"}}
    hints = {name: hint for name, hint in hints_of(SiteConfig).items() if name not in {"settings", "faults"}}
    try:
        parts |= check_values(hints, rest)
    except ValueError as error:
        mistakes += str(error).splitlines()
    version = parts.get("xnat", "1.8")
    if version not in PROFILES:
        mistakes.append(f"xnat: {version!r} is none of {', '.join(PROFILES)}")
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return SiteConfig(**parts)


def config_schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration."""
    schema = schema_of(SiteConfig)
    schema["properties"] |= {
        "xnat": {"enum": list(PROFILES)},
        "settings": object_schema(_SETTINGS),
        "faults": {"type": "array", "items": fault_schema()},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A test XNAT", **schema}


def _object(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: this is not an object")  # noqa: TRY004 - as above
    return value


def _project(config: ProjectConfig) -> Project:
    plain = hints_of(ProjectConfig).keys() - {"series_filter", "script"}
    values = {name: getattr(config, name) for name in plain}
    script = None if config.script is None else _script(config.script)
    return Project(**values, series_filter=_filter(config.series_filter), script=script)


def _filter(config: FilterConfig | None) -> SeriesFilter | None:
    return None if config is None else SeriesFilter(config.patterns, config.mode, config.enabled)


def _script(config: ScriptConfig) -> Script:
    def rejects(header: Header) -> bool:
        return header.modality in config.reject_modalities

    def mapping(name: _Uid) -> Callable[[str], str] | None:
        return _new_uid if name in config.new_uids else None

    return Script(
        config.rewrite,
        reject=rejects if config.reject_modalities else None,
        condition=" || ".join(f'(0008,0060) = "{modality}"' for modality in config.reject_modalities),
        map_uid=mapping("SOPInstanceUID"),
        map_study=mapping("StudyInstanceUID"),
        map_series=mapping("SeriesInstanceUID"),
    )


def _new_uid(uid: str) -> str:
    """Return a UID that follows from another, as DicomEdit's hashUID does: below 2.25, from a digest."""
    return f"2.25.{int.from_bytes(hashlib.sha256(uid.encode()).digest()[:16])}"
