"""Series import filters."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .dicom_header import Header

_WIRE_MODES = {"denylist": "blacklist", "allowlist": "whitelist", "modality map": "modalityMap"}
_ATTRIBUTES = {
    "SeriesDescription": "series_description",
    "StudyDescription": "study_description",
    "Modality": "modality",
    "PatientID": "patient_id",
}


@dataclass(frozen=True, slots=True)
class SeriesFilter:
    """A series import filter (RegExBasedSeriesImportFilter): patterns that are searched for in series descriptions.

    As of XNAT 1.7, case does not matter, a line such as `[Modality]` begins the patterns of another attribute, and a
    line that begins with `#` is a comment. `modalityMap` filters (ModalityMapSeriesImportFilter) hold programs, which
    are not run: such a filter admits everything except what `excludes` names.
    """

    patterns: tuple[str, ...]
    mode: Literal["denylist", "allowlist", "modality map"] = "denylist"
    enabled: bool = True
    excludes: Callable[[Header], bool] | None = None

    def admits(self, header: Header) -> bool:
        """Return whether an instance is imported. An absent attribute matches `!EXISTS` only."""
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
            elif value and _compile(line).search(value):
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
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)
