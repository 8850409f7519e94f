"""The patient of a header, for comparison."""

from collections.abc import Mapping

from asyncimport.model import Patient

__all__ = ["patient_of"]


def patient_of(fields: Mapping[str, str]) -> Patient:
    """Return the patient of a header. Of the name only its letters count: not case, empty components or spacing.

    A name may come in three groups, alphabetic, ideographic and phonetic (PS3.5 6.2.1.2); the first one is compared.
    """
    components = fields.get("PatientName", "").partition("=")[0].split("^")
    name = "^".join(" ".join(component.split()) for component in components).strip("^").casefold()
    return Patient(fields.get("PatientID", "").strip(), name, fields.get("PatientBirthDate", "").strip())
