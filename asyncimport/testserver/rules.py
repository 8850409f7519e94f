"""What a site or a project does to instances: series import filters and anonymisation scripts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from .dicom import Header

__all__ = ["Script", "SeriesFilter"]

_WIRE_MODES = {"denylist": "blacklist", "allowlist": "whitelist", "modality map": "modalityMap"}
_ATTRIBUTES = {
    "SeriesDescription": "series_description",
    "StudyDescription": "study_description",
    "Modality": "modality",
    "PatientID": "patient_id",
}


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """A series import filter (RegExBasedSeriesImportFilter): patterns that are found in series descriptions.

    It is as of XNAT 1.7: case does not matter, a line such as `[Modality]` begins the patterns of another attribute,
    and one that begins with `#` is a comment. `modalityMap` filters (ModalityMapSeriesImportFilter) hold programs,
    which are not run: they let everything in but what `excludes` says.
    """

    patterns: tuple[str, ...]
    mode: Literal["denylist", "allowlist", "modality map"] = "denylist"
    enabled: bool = True
    excludes: Callable[[Header], bool] | None = None

    def admits(self, header: Header) -> bool:
        """Tell whether an instance is let in. An absent attribute matches `!EXISTS` only."""
        if not self.enabled:
            return True
        if self.mode == "modality map":
            return self.excludes is None or not self.excludes(header)
        return self._matches(header) is (self.mode == "allowlist")

    def _matches(self, header: Header) -> bool:
        value = header.series_description
        for line in self.patterns:
            if line.startswith("#"):
                continue
            if line.startswith("[") and line.endswith("]"):
                value = getattr(header, _ATTRIBUTES[line[1:-1]])
            elif line in {"EXISTS", "!EXISTS"}:
                if bool(value) is (line == "EXISTS"):
                    return True
            elif value and _compiled(line).search(value):
                return True
        return False

    @property
    def wire_mode(self) -> str:
        """The mode as XNAT spells it."""
        return _WIRE_MODES[self.mode]

    @property
    def contents(self) -> str:
        """The filter as the configuration service keeps it: a JSON object of strings."""
        enabled = str(self.enabled).lower()
        return json.dumps({"enabled": enabled, "mode": self.wire_mode, "list": "\n".join(self.patterns)})


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


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
    condition: str = "isUnwanted[]"
    """What the script tells of which these are, as a condition of DicomEdit's; an empty one stands for all."""
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
            lines.append(f"{self.condition} ? reject" if self.condition else "reject")
        return "".join(f"{line}\n" for line in ['version "6.1"', *lines])

    def mapped(self, header: Header) -> Header:
        """Return what the header says afterwards: UIDs, the others are not looked at again."""
        return replace(
            header,
            sop_uid=_through(self.map_uid, header.sop_uid),
            study_uid=_through(self.map_study, header.study_uid),
            series_uid=_through(self.map_series, header.series_uid),
        )

    def patient(self, header: Header, names: tuple[str, str, str]) -> tuple[str, str, str]:
        """Return PatientID, PatientName and PatientBirthDate afterwards; `names` as in `values`."""
        _, subject, session = names
        known = header.patient_id, header.patient_name
        return (*((session, subject) if self.rewrite else known), header.birth_date)

    def values(self, header: Header, names: tuple[str, str, str]) -> tuple[str | None, ...]:
        """Return the values of REWRITTEN, None for what is left alone; `names` are project, subject and session."""
        new = self.mapped(header)
        pairs = ((new.sop_uid, header.sop_uid), (new.study_uid, header.study_uid), (new.series_uid, header.series_uid))
        sop, study, series = (one if one != other else None for one, other in pairs)
        return (sop, *(names if self.rewrite else (None, None, None)), study, series)


def _through(mapping: Callable[[str], str] | None, uid: str) -> str:
    return uid if mapping is None else mapping(uid)
