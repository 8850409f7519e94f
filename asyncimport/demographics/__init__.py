"""Demographics of subjects: XNAT's fields, tables, values of headers, and comparison. Pure.

Values are patients' data. They are sent to XNAT, and appear nowhere else: no repr, error or issue holds more than one
character of them.
"""

from asyncimport.demographics.comparison import Changes, Difference, Values, compute_changes, missing_values, same_value
from asyncimport.demographics.fields import BIRTH, FIELDS, NULL, Field, Kind
from asyncimport.demographics.headers import agreed_values, header_fields, header_keywords, header_values
from asyncimport.demographics.table import Demographics, fill_gaps, read_subjects

__all__ = [
    "BIRTH",
    "FIELDS",
    "NULL",
    "Changes",
    "Demographics",
    "Difference",
    "Field",
    "Kind",
    "Values",
    "agreed_values",
    "compute_changes",
    "fill_gaps",
    "header_fields",
    "header_keywords",
    "header_values",
    "missing_values",
    "read_subjects",
    "same_value",
]
