"""Which instance a DICOM file is, and whether the file is complete.

`identify` alone decides whether a file is DICOM: by its content, never by its name. It reads the elements at the head
of the file itself (`fast_header`). Where that is not certain to give what pydicom gives, pydicom decides, which takes
ten to thirty times as long. pydicom accepts truncated files, so `completeness` checks for truncation.

Nothing here knows XNAT, labels or the walk. No reason holds a value of the file or its path. From the first file that
pydicom reads, its warnings and log are silent in the whole process.
"""

from asyncimport.dicom.encoding import begins_dicom
from asyncimport.dicom.header import identify
from asyncimport.dicom.identity import FIELDS, SERIES_FIELDS, STUDY_FIELDS, Identity, NotDicom, Unidentified, Unreadable

__all__ = [
    "FIELDS", "SERIES_FIELDS", "STUDY_FIELDS", "Identity", "NotDicom", "Unidentified", "Unreadable", "begins_dicom",
    "identify",
]  # fmt: skip
