"""Who headers speak of, and which of two are surely not one person.

A person is a PatientID of an issuer. What is unknown on one side agrees with everything: an issuer, a birth date, a
group of a name. Two names are compared group by group (alphabetic, ideographic, phonetic; PS3.5 6.2.1.2).

Of sessions that are in the archive only a PatientID proves that they are of somebody else: names and birth dates are
what scripts shorten and people spell in two ways, so they are told and hold nothing. And a PatientID proves it only if
no script of the site may have put it there. One that is the label of its own session or subject tells nothing: that is
what XNAT's own script writes. Unless our label is the PatientID too, as then both were made by the same rule.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import zip_longest

from asyncimport.model import ArchivedPatient, Patient
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import clean_label

_FIELDS = ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID")
# The files of a study come one after the other.
_REMEMBERED = 256
TWO_IDS = "the subject would hold two PatientIDs"


def patient_of(fields: Mapping[str, str]) -> Patient:
    """Return the patient of a header. Of a name only its letters count: not case, empty components or spacing."""
    return _patient(*(fields.get(name, "") for name in _FIELDS))


@lru_cache(maxsize=_REMEMBERED)
def _patient(patient_id: str, name: str, birth_date: str, issuer: str) -> Patient:
    groups = map(_group, name.split("="))
    return Patient(nfc(patient_id.strip()), "=".join(groups).rstrip("="), birth_date.strip(), nfc(issuer.strip()))


def _group(text: str) -> str:
    components = text.split("^")
    return nfc("^".join(" ".join(component.split()) for component in components).strip("^").casefold())


def _differ(one: str, other: str) -> bool:
    return bool(one and other) and one != other


def patient_difference(one: Patient, other: Patient) -> str:
    """Say why two patients of one PatientID, or of none, are not one; "" where nothing that is known differs."""
    whose = "one PatientID with two" if one.id else "files without PatientID, of two"
    what = _differing(one, other)
    return f"{whose} {what}s" if what else ""


def _differing(one: Patient, other: Patient) -> str:
    names = zip_longest(one.name.split("="), other.name.split("="), fillvalue="")
    if any(_differ(mine, theirs) for mine, theirs in names):
        return "name"
    return "birth date" if _differ(one.birth_date, other.birth_date) else ""


def is_same_patient(one: Patient, other: Patient) -> bool:
    """Whether two patients are one for all that is known of them."""
    return one.id == other.id and not _differ(one.issuer, other.issuer) and not patient_difference(one, other)


def patient_conflict(known: Iterable[tuple[str, Patient]], subject: str, patient: Patient) -> str:
    """Say why a patient cannot be in a subject; "" if they can.

    `known` is who is in it, and who has their PatientID in other subjects, which an empty one never names. Subjects
    that differ in case only are one to XNAT (PrearcSessionArchiver).
    """
    for place, one in known:
        same_subject = place.lower() == subject.lower()
        if same_subject and one.id != patient.id:
            return TWO_IDS
        if same_subject and _differ(one.issuer, patient.issuer):
            return "the subject would hold one PatientID of two issuers"
        same_person = one.id == patient.id and not _differ(one.issuer, patient.issuer)
        if same_person and (why := patient_difference(one, patient)):
            return why
    return ""


def merge_patients(one: Patient, other: Patient) -> Patient:
    """Return what is known by both of one patient."""
    names = zip_longest(one.name.split("="), other.name.split("="), fillvalue="")
    return Patient(
        one.id,
        "=".join(mine or theirs for mine, theirs in names),
        one.birth_date or other.birth_date,
        one.issuer or other.issuer,
    )


def occupant_conflict(occupant: ArchivedPatient, subject: str, patient: Patient) -> str:
    """Say why a session of the archive is surely not of a patient of ours; "": it may be.

    `subject` is our label of the subject that it is in.
    """
    theirs = occupant.patient.id
    if not (occupant.is_reliable and _differ(theirs, patient.id)):
        return ""
    if _is_a_label(occupant) and clean_label(patient.id) != subject:
        return ""
    return f"the archive's session {occupant.session.label} of this subject is of another PatientID"


def occupant_doubt(occupant: ArchivedPatient, subject: str, patient: Patient) -> str:
    """Say what lets one doubt that a session of the archive is of our patient, where nothing proves it; else ""."""
    there, theirs = occupant.session, occupant.patient
    if there.subject != subject:
        return f"the archive calls the subject {there.subject}, and this one is {subject}: XNAT makes them one"
    if _differ(theirs.id, patient.id):
        return f"the archive's session {there.label} of this subject has another PatientID, if no script has changed it"
    what = _differing(theirs, patient)
    return f"the archive's session {there.label} of this subject has another {what}" if what else ""


def _is_a_label(occupant: ArchivedPatient) -> bool:
    labels = {occupant.session.subject.lower(), occupant.session.label.lower()}
    return clean_label(occupant.patient.id).lower() in labels
