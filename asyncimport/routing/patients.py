"""The patients of headers, and which two of them are certainly different persons.

A person is a PatientID of an issuer. An unknown issuer, birth date or group of a name agrees with every other. Names
are compared group by group (alphabetic, ideographic, phonetic; PS3.5 6.2.1.2).

Of sessions in the archive, only a PatientID proves another patient. Scripts shorten names and birth dates, and people
spell them in two ways, so a difference in them is reported and holds nothing. A PatientID proves nothing if a script of
the site may have written it, or if it is the label of its session or subject: XNAT's own script writes that. But if our
label is the PatientID too, the same rule has made both labels, and the PatientID counts.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import zip_longest

from asyncimport.model.files import ArchivedPatient, Patient
from asyncimport.model.record import record
from asyncimport.model.texts import nfc
from asyncimport.routing.labels import clean_label

_FIELDS = ("PatientID", "PatientName", "PatientBirthDate", "IssuerOfPatientID")
# Files of one study are read one after the other.
_REMEMBERED = 256
TWO_IDS = "the subject would hold two PatientIDs"
_OTHER_STUDY = re.compile(r" two (?:name|birth date)s: study (\S+) has another")


def patient_of(fields: Mapping[str, str]) -> Patient:
    """Return the patient of a header. Case, empty components and spacing of a name do not count."""
    return _patient(*(fields.get(name, "") for name in _FIELDS))


@lru_cache(maxsize=_REMEMBERED)
def _patient(patient_id: str, name: str, birth_date: str, issuer: str) -> Patient:
    groups = map(_group, name.split("="))
    return Patient(nfc(patient_id.strip()), "=".join(groups).rstrip("="), birth_date.strip(), nfc(issuer.strip()))


def _group(text: str) -> str:
    components = text.split("^")
    return nfc("^".join(" ".join(component.split()) for component in components).strip("^").casefold())


def differ(one: str, other: str) -> bool:
    """Whether two known values are not the same; "" is unknown."""
    return bool(one and other) and one != other


def patient_difference(one: Patient, other: Patient) -> str:
    """Return why two patients with one PatientID, or with none, are different persons, or ""."""
    whose = "one PatientID with two" if one.id else "files without PatientID, of two"
    what = _differing(one, other)
    return f"{whose} {what}s" if what else ""


def _differing(one: Patient, other: Patient) -> str:
    names = zip_longest(one.name.split("="), other.name.split("="), fillvalue="")
    if any(differ(mine, theirs) for mine, theirs in names):
        return "name"
    return "birth date" if differ(one.birth_date, other.birth_date) else ""


def is_same_patient(one: Patient, other: Patient) -> bool:
    """Whether two patients may be one person."""
    return one.id == other.id and not differ(one.issuer, other.issuer) and not patient_difference(one, other)


@record
class PatientConflict:
    """Why a patient cannot be in a subject. Two people with one PatientID are `other` and the patient."""

    text: str
    other: tuple[str, Patient] | None = None


def patient_conflict(
    known: Iterable[tuple[str, Patient]],
    subject: str,
    patient: Patient,
    accepts: Callable[[Patient, Patient], bool] = lambda _, __: False,
) -> PatientConflict | None:
    """Return why a patient cannot be in a subject, or None.

    `known` has the patients of the subject, and those with the same PatientID in other subjects. `accepts` says of two
    people with one PatientID that they are one person. XNAT ignores the case of subjects (PrearcSessionArchiver).
    """
    for place, one in known:
        same_subject = place.lower() == subject.lower()
        if same_subject and one.id != patient.id:
            return PatientConflict(TWO_IDS)
        if same_subject and differ(one.issuer, patient.issuer):
            return PatientConflict("the subject would hold one PatientID of two issuers")
        same_person = one.id == patient.id and not differ(one.issuer, patient.issuer)
        if same_person and (why := patient_difference(one, patient)) and not accepts(one, patient):
            return PatientConflict(why, (place, one))
    return None


def digest_patient(patient: Patient) -> Patient:
    """Return a patient as the journal keeps it, with digests of the birth date and of each group of the name."""
    # Each by itself: two names are compared by the groups that both have.
    name = "=".join(map(_digest, patient.name.split("=")))
    return replace(patient, name=name, birth_date=_digest(patient.birth_date))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] if text else ""


def two_people_text(why: str, study_uid: str) -> str:
    """Return why two people with one PatientID conflict, with a study of the other one, if it is known."""
    return f"{why}: study {study_uid} has another" if study_uid else why


def other_study_of(reason: str) -> str:
    """Return the study that `two_people_text` names, or ""."""
    found = _OTHER_STUDY.search(reason)
    return "" if found is None else found[1]


def merge_patients(one: Patient, other: Patient) -> Patient:
    """Return one patient with what is known of both."""
    names = zip_longest(one.name.split("="), other.name.split("="), fillvalue="")
    return Patient(
        one.id,
        "=".join(mine or theirs for mine, theirs in names),
        one.birth_date or other.birth_date,
        one.issuer or other.issuer,
    )


def occupant_conflict(occupant: ArchivedPatient, subject: str, patient: Patient) -> str:
    """Return why a session of the archive belongs to another patient, or ""; `subject` is our label of its subject."""
    theirs = occupant.patient.id
    if not (occupant.is_reliable and differ(theirs, patient.id)):
        return ""
    if _is_a_label(occupant) and clean_label(patient.id) != subject:
        return ""
    return f"the archive's session {occupant.session.label} of this subject has another PatientID"


def occupant_doubt(occupant: ArchivedPatient, subject: str, patient: Patient) -> str:
    """Return why a session of the archive may belong to another patient, or ""."""
    there, theirs = occupant.session, occupant.patient
    if there.subject != subject:
        return f"the archive has the subject {there.subject}, and XNAT takes {subject} for the same"
    if differ(theirs.id, patient.id):
        return f"the archive's session {there.label} of this subject has another PatientID, unless a script changed it"
    what = _differing(theirs, patient)
    return f"the archive's session {there.label} of this subject has another {what}" if what else ""


def _is_a_label(occupant: ArchivedPatient) -> bool:
    labels = {occupant.session.subject.lower(), occupant.session.label.lower()}
    return clean_label(occupant.patient.id).lower() in labels
