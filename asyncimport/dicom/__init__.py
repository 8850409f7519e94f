"""Who a DICOM file is, and whether it is whole.

`identify` owns the decision whether a file is DICOM: content decides, never the name. It comes to its one
answer in two ways: by a *peek*, a scan by hand of the elements at the head of the file, and by pydicom, which
takes ten to thirty times as long and decides whatever the peek does not surely know. The peek never guesses:
it gives what pydicom would give, or it declines. Whether the file was cut short is judged by a rule of our own,
as pydicom calls such files fine.

Nothing here knows of XNAT, of labels or of the walk. No reason given holds a value of the file or its path,
and from the first file that pydicom decides, its warnings and log are silent in the whole process.
"""

from asyncimport.dicom.header import identify
from asyncimport.dicom.identity import FIELDS, SERIES_FIELDS, STUDY_FIELDS, Identity, NotDicom, Unidentified, Unreadable
from asyncimport.dicom.magic import begins_dicom

__all__ = [
    "FIELDS",
    "SERIES_FIELDS",
    "STUDY_FIELDS",
    "Identity",
    "NotDicom",
    "Unidentified",
    "Unreadable",
    "begins_dicom",
    "identify",
]
