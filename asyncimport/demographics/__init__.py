"""Demographics of subjects: what XNAT has fields for, tables of them, what headers tell, and what differs. Pure.

Values are patients' data. They leave this package in what is sent, and nowhere else: no repr, no error and no flaw
holds more than one character of them.
"""

from asyncimport.demographics.comparison import Decision, Difference, Values, decide, lacking, same
from asyncimport.demographics.fields import BIRTH, FIELDS, NULL, Field, Kind
from asyncimport.demographics.headers import agreed, header_fields, header_keywords, said_by
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
    "agreed",
    "decide",
    "filled",
    "header_fields",
    "header_keywords",
    "lacking",
    "read_subjects",
    "said_by",
    "same",
]
