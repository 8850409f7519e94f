"""What identifies an instance, and why a file has no identity."""

from collections.abc import Mapping
from dataclasses import dataclass

# Keyword -> tag. Patient and study (PS3.3 C.7.1 and C.7.2) are the same in every file of a study, so only their fields
# may name a subject or a session. All precede (0020,0012), so the fast reader can stop early.
STUDY_FIELDS: Mapping[str, int] = {
    "StudyDate": 0x0008_0020,
    "StudyTime": 0x0008_0030,
    "AccessionNumber": 0x0008_0050,
    "ReferringPhysicianName": 0x0008_0090,
    "StudyDescription": 0x0008_1030,
    "PatientName": 0x0010_0010,
    "PatientID": 0x0010_0020,
    "IssuerOfPatientID": 0x0010_0021,
    "PatientBirthDate": 0x0010_0030,
    "PatientSex": 0x0010_0040,
    "OtherPatientIDs": 0x0010_1000,
    "PatientComments": 0x0010_4000,
    "ClinicalTrialSponsorName": 0x0012_0010,
    "ClinicalTrialProtocolID": 0x0012_0020,
    "ClinicalTrialProtocolName": 0x0012_0021,
    "ClinicalTrialSiteID": 0x0012_0030,
    "ClinicalTrialSiteName": 0x0012_0031,
    "ClinicalTrialSubjectID": 0x0012_0040,
    "ClinicalTrialTimePointID": 0x0012_0050,
    "StudyInstanceUID": 0x0020_000D,
    "StudyID": 0x0020_0010,
}
# The patient at the time of the study (PS3.3 C.7.2.2), and further fields of a subject.
_PATIENT_FIELDS: Mapping[str, int] = {
    "PatientAge": 0x0010_1010,
    "PatientSize": 0x0010_1020,
    "PatientWeight": 0x0010_1030,
    "EthnicGroup": 0x0010_2160,
}
# Series and equipment (PS3.3 C.7.3 and C.7.5) are the same in every file of a series.
SERIES_FIELDS: Mapping[str, int] = {
    "Modality": 0x0008_0060,
    "Manufacturer": 0x0008_0070,
    "InstitutionName": 0x0008_0080,
    "StationName": 0x0008_1010,
    "SeriesDescription": 0x0008_103E,
    "ManufacturerModelName": 0x0008_1090,
    "BodyPartExamined": 0x0018_0015,
    "ProtocolName": 0x0018_1030,
    "SeriesInstanceUID": 0x0020_000E,
    "SeriesNumber": 0x0020_0011,
}
FIELDS: Mapping[str, int] = {
    **STUDY_FIELDS,
    **SERIES_FIELDS,
    **_PATIENT_FIELDS,
    # These differ from file to file.
    "SOPClassUID": 0x0008_0016,
    "SOPInstanceUID": 0x0008_0018,
}


# Not frozen: there is one for each file, and a frozen one takes four times as long to make.
@dataclass(slots=True)
class Identity:
    """Identify an instance by the UIDs of its data set, which XNAT stores, not by those of the file meta information.

    `fields` maps keywords of FIELDS, but for the SOPInstanceUID, to text without padding. An empty value is absent;
    several values are joined by a backslash, as in the file. Files of a series may share them. `truncated` says why the
    file is not known to be complete; it is "" for a complete one.
    """

    sop_uid: str
    study_uid: str
    series_uid: str
    fields: Mapping[str, str]
    truncated: str = ""

    def __reduce__(self) -> tuple[type["Identity"], tuple[object, ...]]:
        """Pickle at a third of the cost of a dataclass's own way."""
        return Identity, (self.sop_uid, self.study_uid, self.series_uid, self.fields, self.truncated)

    @property
    def all_fields(self) -> Mapping[str, str]:
        """The fields with the SOPInstanceUID."""
        return {**self.fields, "SOPInstanceUID": self.sop_uid}


class Unidentified(Exception):  # noqa: N818 - an outcome, not a fault
    """The file has no identity. `reason` is short, and holds nothing of the file or its path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotDicom(Unidentified):
    """The file is something else, or empty, or a DICOMDIR, which is an index."""


class Unreadable(Unidentified):
    """The file is truncated, lacks a UID or cannot be read; a `damaged` one may belong to any study."""

    def __init__(self, reason: str, *, damaged: bool = True) -> None:
        super().__init__(reason)
        self.damaged = damaged


class TooLarge(Unreadable):
    """Reading the file would take too much, in bytes and elements: each machine gives the same answer."""


_NAMES = frozenset({"PatientName", "ReferringPhysicianName"})
# XNAT refuses a file that lacks one of them (GradualDicomImporter).
_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID")
_PADDING = " \0"


def strip_padding(keyword: str, text: str) -> str:
    """Strip the padding of several values, or of the component groups of a name (PS3.5 6.2.1), within a text."""
    if "\\" in text:
        return "\\".join(value.strip(_PADDING) for value in text.split("\\"))
    return text.rstrip(f"={_PADDING}") if text.endswith("=") and keyword in _NAMES else text


def missing_uid(fields: Mapping[str, str]) -> str:
    """Return the first of the required UIDs that is missing, or ""."""
    for uid in _UIDS:
        if uid not in fields:
            return uid
    return ""


def make_identity(fields: dict[str, str], truncated: str) -> Identity:
    """Make an identity from fields that include the UIDs; it keeps them."""
    sop_uid = fields.pop("SOPInstanceUID")
    return Identity(sop_uid, fields["StudyInstanceUID"], fields["SeriesInstanceUID"], fields, truncated)
