"""Demographics of subjects: what XNAT has fields for, tables of them, what headers tell, and what differs. Pure.

Values are patients' data. They leave this package in what is sent, and nowhere else: no repr, no error and no flaw
holds more than one character of them.
"""

from asyncimport.demographics.comparison import Decision, Difference, Values, decide, lacking, same
from asyncimport.demographics.fields import BIRTH, FIELDS, NULL, Field, Kind
from asyncimport.demographics.headers import from_header, header_keywords
from asyncimport.demographics.table import Demographics, filled, read_subjects

__all__ = [
    "BIRTH",
    "FIELDS",
    "NULL",
    "Decision",
    "Demographics",
    "Difference",
    "Field",
    "Kind",
    "Values",
    "decide",
    "filled",
    "from_header",
    "header_keywords",
    "lacking",
    "read_subjects",
    "same",
]
