"""What a site or a project does to instances: series import filters and anonymisation scripts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .dicom import Header

__all__ = ["Script", "SeriesFilter"]

_WIRE_MODES = {"denylist": "blacklist", "allowlist": "whitelist"}


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """A series import filter (RegExBasedSeriesImportFilter): patterns that match whole series descriptions."""

    patterns: tuple[str, ...]
    mode: Literal["denylist", "allowlist"] = "denylist"
    enabled: bool = True

    def admits(self, header: Header) -> bool:
        """Tell whether an instance is let in. An absent description matches nothing."""
        if not self.enabled:
            return True
        description = header.series_description
        matched = bool(description.strip()) and any(_compiled(one).fullmatch(description) for one in self.patterns)
        return matched is (self.mode == "allowlist")

    @property
    def wire_mode(self) -> str:
        """The mode as XNAT spells it."""
        return _WIRE_MODES[self.mode]

    @property
    def contents(self) -> str:
        """The filter as the configuration service keeps it: a JSON object of strings."""
        enabled = str(self.enabled).lower()
        return json.dumps({"enabled": enabled, "mode": self.wire_mode, "list": "\n".join(self.patterns)})


_compiled = lru_cache(maxsize=256)(re.compile)


@dataclass(frozen=True, slots=True)
class Script:
    """An anonymisation script. As it is, it does what XNAT comes with.

    That sets StudyDescription to the project, PatientName to the subject, PatientID to the session label, so that
    no stored file equals what was sent.
    """

    rewrite: bool = True
    """Whether those three attributes are set."""
    reject: Callable[[Header], bool] | None = None
    """Tells which instances the script refuses: they are dropped without a word."""
    map_uid: Callable[[str], str] | None = None
    """Returns the SOPInstanceUID that takes the place of one."""
    map_study: Callable[[str], str] | None = None
    """Returns the StudyInstanceUID that takes the place of one."""
    map_series: Callable[[str], str] | None = None
    """Returns the SeriesInstanceUID that takes the place of one."""

    @property
    def text(self) -> str:
        """The script as DicomEdit has it, as far as it can be said so."""
        lines = ["(0008,1030) := project", "(0010,0010) := subject", "(0010,0020) := session"] if self.rewrite else []
        mapped = (("0008,0018", self.map_uid), ("0020,000D", self.map_study), ("0020,000E", self.map_series))
        lines += [f"({tag}) := mapUID[({tag})]" for tag, mapping in mapped if mapping is not None]
        if self.reject is not None:
            lines.append("reject")
        return "".join(f"{line}\n" for line in ['version "6.1"', *lines])

    def mapped(self, header: Header) -> Header:
        """Return what the header says afterwards: UIDs, the others are not looked at again."""
        return replace(
            header,
            sop_uid=_through(self.map_uid, header.sop_uid),
            study_uid=_through(self.map_study, header.study_uid),
            series_uid=_through(self.map_series, header.series_uid),
        )

    def values(self, header: Header, names: tuple[str, str, str]) -> tuple[str | None, ...]:
        """Return the values of REWRITTEN, None for what is left alone; `names` are project, subject and session."""
        new = self.mapped(header)
        pairs = ((new.sop_uid, header.sop_uid), (new.study_uid, header.study_uid), (new.series_uid, header.series_uid))
        sop, study, series = (one if one != other else None for one, other in pairs)
        return (sop, *(names if self.rewrite else (None, None, None)), study, series)


def _through(mapping: Callable[[str], str] | None, uid: str) -> str:
    return uid if mapping is None else mapping(uid)
