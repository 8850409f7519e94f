"""What is known about whole studies, for labels that depend on all files."""

import re
from collections.abc import Iterable, Mapping

from asyncimport.model.record import record
from asyncimport.routing.labels import UnroutableError

WHOLE_STUDY = ("Modality", "StudyIndex")

# XNAT names a session by the first of these modalities (SOPModel, lead types). Secondary captures come after all other
# images.
_LEADING = ("PT", "MR", "CT", "XA", "US", "RTIMAGE", "CR", "OPT", "MG", "DX", "NM", "SM", "GM", "RF", "ES", "RG")
_SECONDARY = frozenset({"OT", "SC"})
_OTHERS = """
    ANN AR ASMT AU CTPROTOCOL DOC ECG EEG EMG EOG EPS FID HD IOL KER KO LEN M3D PLAN POS PR REG RESP RTDOSE RTINTENT
    RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SMR SR SRF STAIN TEXTUREMAP VA XAPROTOCOL
"""
_NO_IMAGES = frozenset(_OTHERS.split())
_RANKS = {modality: rank for rank, modality in enumerate(_LEADING)}
_DATE = re.compile(r"\d{8}", re.ASCII)
# The modality of each data type of sessions, in lower case (org.nrg.xdat bean of each lead type).
_OF_TYPE = {f"xnat:{'pet' if one == 'PT' else one.lower()}sessiondata": one for one in _LEADING}
_OTHER_TYPE = "xnat:otherdicomsessiondata"
# Modalities that have a data type of their own since XNAT 1.7, and those that come before all others.
_TYPED = frozenset({"PT", "MR", "CT", "XA", "US", "CR", "MG", "DX", "NM"})
_FIRST = frozenset({"PT", "MR", "CT"})


@record
class Study:
    """What one or more files say about a study.

    `fields` are those of header and path. `disputed` names those in which the files differ.
    """

    uid: str
    fields: Mapping[str, str]
    modalities: frozenset[str] = frozenset()
    disputed: frozenset[str] = frozenset()

    def merge(self, other: "Study") -> "Study":
        """Return what both say. A field that one of them lacks is not disputed."""
        if other.fields == self.fields and other.modalities <= self.modalities and other.disputed <= self.disputed:
            return self
        fields = dict(self.fields)
        disputed = set(self.disputed | other.disputed)
        for name, value in other.fields.items():
            if not value:
                continue
            mine = fields.get(name) or value
            if mine != value:
                disputed.add(name)
            fields[name] = min(mine, value)
        return Study(self.uid, fields, self.modalities | other.modalities, frozenset(disputed))


def modality_of(modalities: Iterable[str]) -> str:
    """Return the modality by which XNAT names a session, or "".

    Presentation states, reports and the like count only if there is nothing else.
    """
    return min((modality for modality in modalities if modality), key=_rank, default="")


def type_conflict(kind: str, modalities: Iterable[str]) -> str:
    """Return why XNAT would not merge files of these modalities alone into an archived session, or "".

    `kind` is the data type of the session (`xnat:mrSessionData`), or "". XNAT gives a row a type by its leading
    modality, and merges it only into a session of the same type, unless the site has set `preventCrossModalityMerge`
    off (PrearcSessionArchiver.checkForConflicts).
    """
    found = frozenset(modalities)
    lead, has = modality_of(found), _OF_TYPE.get(kind.lower())
    if not lead or "" in found:
        # XNAT uses the SOP class then.
        return ""
    if has is None:
        differs = kind.lower() == _OTHER_TYPE and lead in _TYPED
    else:
        differs = lead != has and (has not in found or lead in _FIRST)
    if not differs:
        return ""
    return (
        f"the archive has it as {kind}, and its other files ({', '.join(sorted(found))}) would have another type, "
        "which XNAT does not merge unless preventCrossModalityMerge is off at the site; attach them as other files, "
        "or let an administrator upload them: only administrators can see this setting"
    )


def is_dated(study: Study) -> bool:
    """Whether a study has a valid date."""
    return _DATE.fullmatch(_date_of(study)) is not None


def sort_key(study: Study) -> tuple[str, str, str]:
    """Return date, time and UID, by which studies are sorted. Raises: UnroutableError without a date."""
    if not is_dated(study):
        raise UnroutableError("StudyDate is not a date" if _date_of(study) else "no StudyDate in the header")
    return _date_of(study), study.fields.get("StudyTime", "").strip().replace(":", ""), study.uid


def _date_of(study: Study) -> str:
    # Old files have points in dates and colons in times (PS3.5 6.2, DA and TM).
    return study.fields.get("StudyDate", "").strip().replace(".", "")


def _rank(modality: str) -> tuple[int, str]:
    if modality in _NO_IMAGES:
        return len(_RANKS) + 2, modality
    if modality in _SECONDARY:
        return len(_RANKS) + 1, modality
    return _RANKS.get(modality, len(_RANKS)), modality
