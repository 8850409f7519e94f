"""What a site or a project does to instances: series import filters and anonymisation scripts."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
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

    @property
    def text(self) -> str:
        """The script as DicomEdit has it, as far as it can be said so."""
        lines = ["(0008,1030) := project", "(0010,0010) := subject", "(0010,0020) := session"] if self.rewrite else []
        if self.map_uid is not None:
            lines.append("(0008,0018) := mapUID[(0008,0018)]")
        if self.reject is not None:
            lines.append("reject")
        return "".join(f"{line}\n" for line in ['version "6.1"', *lines])
