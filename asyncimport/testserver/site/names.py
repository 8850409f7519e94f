"""How XNAT names things: labels, files, folders, timestamps, data types. Pure functions."""

import re
from datetime import datetime
from functools import lru_cache

from .dicom_header import Header

FILE_NAME_TEMPLATE = "${StudyInstanceUID}-${SeriesNumber}-${InstanceNumber}-${HashSOPClassUIDWithSOPInstanceUID}"
_NOT_LABEL = re.compile(r"[^A-Za-z0-9_-]")
_NOT_FILE_NAME = re.compile(r"[^\w.-]", re.ASCII)
_SERIES_NUMBER = re.compile(r"[\w.-]+", re.ASCII)
_CLEANED = str.maketrans(dict.fromkeys("`~@#$%^&*()+=[]{}|\\/?:;',.<> ", "_"))
_ESCAPED = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"})
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
# The first modality in this order that a session has decides its type; all others become "other".
_TYPES = {
    "PT": "pet",
    "MR": "mr",
    "CT": "ct",
    "US": "us",
    "NM": "nm",
    "CR": "cr",
    "DX": "dx",
    "MG": "mg",
    "XA": "xa",
    "RF": "rf",
    "XC": "xc",
    "OP": "op",
    "ES": "es",
    "EEG": "eeg",
    "RTIMAGE": "rtImage",
}
# SOP classes of primary images, by the ends of their UIDs. Among the classes that are missing here: secondary captures,
# most structured reports, presentation states, key objects, segmentations, RT structures and plans.
_PRIMARY_ENDS = """
    1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 2.1 3.1 4 4.1 6.1 6.3 9.1.1 9.1.3 9.2.1 9.3.1 9.6.1 9.7.2 9.7.3 9.8.1
    12.1 12.2 13.1.1 13.1.2 13.1.3 20 77.1.1.1 77.1.2 77.1.2.1 77.1.4.1 77.1.5.1 77.1.5.2 77.1.5.4 77.1.6 77.1.7
    77.1.8 88.11 88.22 91.1 104.4 104.5 128 130 481.1 481.2
"""
_PRIMARY = frozenset(f"1.2.840.10008.5.1.4.1.1.{end}" for end in _PRIMARY_ENDS.split())


def is_primary(sop_class: str) -> bool:
    """Return whether objects of a SOP class go into their scan's resource DICOM (SOPModel.isPrimaryImagingSOP)."""
    return sop_class in _PRIMARY


def resource_content(label: str) -> str:
    """Return the content attribute of a DICOM resource of this label."""
    return "secondary" if label == "secondary" else "RAW"


def escape_parameter(value: str) -> str:
    """Turn `& < > " '` into entities, as TurbineUtils.escapeParam does with every query and form value."""
    return value.translate(_ESCAPED)


def to_label_chars(value: str) -> str:
    """Replace all but `[A-Za-z0-9_-]` by `_` (Labels.toLabelChars; for values that come from DICOM)."""
    return _NOT_LABEL.sub("_", value)


def is_label(value: str) -> bool:
    """Return whether a label consists of `[A-Za-z0-9_-]`, as it must when it is saved."""
    return not _NOT_LABEL.search(value)


def clean_value(value: str) -> str:
    """Replace punctuation and blanks by `_` (OmUtils.cleanValue; done to labels when archiving)."""
    return value.translate(_CLEANED)


def request_file_name(name: str) -> str:
    """Return the file name of a request, made safe as GradualDicomImporter does."""
    return _NOT_FILE_NAME.sub("_", name).lstrip(".") or "_"


def scan_folder(header: Header, *, keeps_plus: bool = True) -> str:
    """Return the scan's folder below SCANS/ (Restructurer.determineScanSubdir).

    Without `keeps_plus`, a plus sign at the beginning of the series number is an underscore, as from 1.10 on.
    """
    number = header.series_number if keeps_plus else re.sub(r"^\+", "_", header.series_number)
    if _SERIES_NUMBER.fullmatch(number) and number not in {".", ".."}:
        return number
    return to_label_chars(header.series_uid) or "NA"


def java_hash(text: str) -> int:
    """Return Java's String.hashCode as an unsigned 32-bit number."""
    value = 0
    for byte in text.encode("latin-1", "replace"):
        value = value * 31 + byte & 0xFFFFFFFF
    return value


# The attributes that a template may name, as far as the importer reads them.
_IN_TEMPLATES = {
    "SOPClassUID": "sop_class",
    "SOPInstanceUID": "sop_uid",
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "SeriesNumber": "series_number",
    "InstanceNumber": "instance_number",
    "Modality": "modality",
}
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_class_hash = lru_cache(maxsize=256)(java_hash)


def _base36(value: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, 36)
        digits = _BASE36[digit] + digits
    return digits or "0"


def dicom_file_name(header: Header, template: str = FILE_NAME_TEMPLATE) -> str:
    """Return the file name that a template gives (TemplatizedDicomFileNamer).

    The default template has study UID, series number, instance number, and the hash of the list [SOP class UID, SOP
    instance UID].
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "HashSOPClassUIDWithSOPInstanceUID":
            both = (31 * (31 + _class_hash(header.sop_class)) + java_hash(header.sop_uid)) & 0xFFFFFFFF
            return _base36(both)
        return str(getattr(header, _IN_TEMPLATES.get(name, ""), "")) or f"no-value-for-{name}"

    return request_file_name(f"{_VARIABLE.sub(value, template)}.dcm")


def make_timestamp(now: datetime) -> str:
    """Return `yyyyMMdd_HHmmssSSS` (PrearcUtils.makeTimestamp): a folder of the prearchive."""
    return f"{now:%Y%m%d_%H%M%S}{now.microsecond // 1000:03d}"


def sql_timestamp(moment: datetime) -> str:
    """Return `yyyy-MM-dd HH:mm:ss.f`, as java.sql.Timestamp prints itself: with at least one digit of fraction."""
    fraction = f"{moment.microsecond // 1000:03d}".rstrip("0") or "0"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{fraction}"


def session_type(modalities: set[str]) -> str:
    """Return the xsi:type of a session with these modalities."""
    for modality, name in _TYPES.items():
        if modality in modalities:
            return f"xnat:{name}SessionData"
    return "xnat:otherDicomSessionData"


def scan_type(modality: str) -> str:
    """Return the xsi:type of a scan with this modality."""
    name = _TYPES.get(modality)
    return f"xnat:{name}ScanData" if name else "xnat:otherDicomScanData"
