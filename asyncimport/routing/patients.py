"""The patient of a header, for comparison."""

from collections.abc import Mapping

from asyncimport.model import Patient

__all__ = ["mismatch", "patient_of", "person_of"]


def patient_of(fields: Mapping[str, str]) -> Patient:
    """Return the patient of a header. Of the name only its letters count: not case, empty components or spacing.

    A name may come in three groups, alphabetic, ideographic and phonetic (PS3.5 6.2.1.2); the first one is compared.
    """
    components = fields.get("PatientName", "").partition("=")[0].split("^")
    name = "^".join(" ".join(component.split()) for component in components).strip("^").casefold()
    return Patient(fields.get("PatientID", "").strip(), name, fields.get("PatientBirthDate", "").strip())


def person_of(patient: Patient, subject: str) -> tuple[str, str]:
    """Return what stands for one person: a PatientID or, where there is none, the subject that the files go to."""
    return ("PatientID", patient.id) if patient.id else ("subject", subject.casefold())


def mismatch(one: Patient, other: Patient) -> str:
    """Say why two patients of the same `person_of` are not one; "" where nothing that is known of them differs."""
    whose = "one PatientID with two" if one.id else "files without PatientID, of two"
    if one.name and other.name and one.name != other.name:
        return f"{whose} names"
    if one.birth_date and other.birth_date and one.birth_date != other.birth_date:
        return f"{whose} birth dates"
    return ""
