"""Answers that tell what the archive holds."""

from dataclasses import dataclass
from xml.etree.ElementTree import ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from asyncimport.errors import TransientError
from asyncimport.replies.reply import Reply, check, item_of, rows_of

__all__ = [
    "Experiment",
    "ScanResource",
    "all_labelled",
    "catalog",
    "experiment",
    "experiments",
    "labelled",
    "scan_resources",
]


@dataclass(frozen=True, slots=True)
class Experiment:
    """An archived session: accession ID, labels and so on as XNAT tells them, "" where it does not.

    `date` is that of the study, as YYYY-MM-DD.
    """

    accession: str
    label: str
    study_uid: str
    subject: str = ""
    type: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class ScanResource:
    """A resource of a scan that holds DICOM."""

    scan: str
    label: str


def experiment(reply: Reply) -> Experiment | None:
    """Return an archived session (ExperimentResource, `format=json`); None when there is none."""
    check(reply)
    if reply.status in {403, 404}:
        return None
    fields = item_of(reply)
    return Experiment(str(fields.get("ID", "")), str(fields.get("label", "")), str(fields.get("UID", "")))


def experiments(reply: Reply, study_uid: str) -> list[Experiment]:
    """Return the archived sessions of a study from a listing (ProjSubExptList), which may hold others too."""
    return [one for one in labelled(reply) if one.study_uid == study_uid]


def labelled(reply: Reply, *, is_proof: bool = False) -> list[Experiment]:
    """Return the archived sessions of a listing (ProjSubExptList); none where it is not shown.

    Raises: TransientError; as a proof that there are none (`is_proof`), also where it is not shown.
    """
    check(reply)
    if reply.status in {403, 404}:
        if is_proof:
            raise TransientError(f"XNAT does not show the project's sessions ({reply.status}: {reply.message})")
        return []
    found = []
    for result in rows_of(reply):
        # Two shortcuts stand for the same path, and XNAT names the column by either, or by the path.
        names = ("UID", "studyInstanceUID", "xnat:imagesessiondata/uid")
        uid = next((result[name] for name in names if result.get(name)), "")
        columns = ("ID", "label", "subject_label", "xsiType", "date")
        accession, label, subject, kind, date = (result.get(name, "") for name in columns)
        found.append(Experiment(accession, label, uid, subject, kind, date))
    return found


def all_labelled(reply: Reply) -> list[Experiment] | None:
    """Return the archived sessions of a whole project (ProjSubExptList); None where XNAT does not show them."""
    check(reply)
    return None if reply.status in {403, 404} else labelled(reply)


def scan_resources(reply: Reply) -> list[ScanResource]:
    """Return the resources with DICOM of all scans (CatalogResourceList, `all=true`)."""
    check(reply)
    if reply.status == 404:
        return []
    return [
        ScanResource(result.get("cat_id", ""), result.get("label", ""))
        for result in rows_of(reply)
        if result.get("category") == "scans" and (result.get("format") == "DICOM" or result.get("label") == "DICOM")
    ]


def catalog(reply: Reply) -> frozenset[str]:
    """Return the SOPInstanceUIDs of a resource's catalog (CatalogResource): the UID of each entry."""
    check(reply)
    if reply.status != 200:
        raise TransientError(f"XNAT does not show the catalog ({reply.status})")
    try:
        root = defusedxml.ElementTree.fromstring(reply.text)
    except (ParseError, DefusedXmlException):
        raise TransientError("XNAT's catalog is not XML") from None
    return frozenset(
        uid for element in root.iter() if element.tag.rpartition("}")[2] == "entry" and (uid := element.get("UID"))
    )
