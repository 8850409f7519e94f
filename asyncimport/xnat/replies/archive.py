"""Answers that tell what the archive holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml.common import DefusedXmlException
from defusedxml.sax import make_parser

from asyncimport.errors import SessionChangedError, TransientError
from asyncimport.xnat.replies.response import Reply, check, parse_child_items, parse_item, parse_rows


@dataclass(frozen=True, slots=True)
class Experiment:
    """An archived session: accession ID, labels and so on as XNAT tells them, "" where it does not.

    `date` is that of the study, as YYYY-MM-DD. `project` owns it, which others may show too. `prearchive_path` is the
    folder on the server that it was archived from, of the first archiving where others were merged into it.

    What DICOM says of the patient, in XNAT's words, is never in its repr.
    """

    accession: str
    label: str
    study_uid: str
    subject: str = ""
    type: str = ""
    date: str = ""
    project: str = ""
    subject_id: str = ""
    prearchive_path: str = ""
    patient_id: str = field(default="", repr=False, compare=False)
    patient_name: str = field(default="", repr=False, compare=False)
    birth_date: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SessionItem:
    """An archived session as it is now: names as XNAT tells them, "" where it does not, and the IDs of its scans."""

    accession: str
    project: str
    label: str
    study_uid: str
    subject_id: str
    scans: frozenset[str]

    def is_still(self, before: Experiment, scans: Iterable[str]) -> bool:
        """Whether it is the session that a listing told of, with these scans; what XNAT does not tell is no change."""
        pairs = (
            (self.accession, before.accession),
            (self.project, before.project),
            (self.label, before.label),
            (self.study_uid, before.study_uid),
            (self.subject_id, before.subject_id),
        )
        return all(now == then or not now or not then for now, then in pairs) and self.scans.issuperset(scans)


@dataclass(frozen=True, slots=True)
class ScanResource:
    """A resource of a scan that holds DICOM."""

    scan: str
    label: str


def parse_session_item(reply: Reply) -> SessionItem:
    """Return an archived session as it is now (ExperimentResource, `format=json`).

    Raises: TransientError, SessionChangedError where it is not there, or not shown, any more.
    """
    check(reply)
    if reply.status in {403, 404}:
        raise SessionChangedError(f"the session is not there any more ({reply.status}: {reply.message})")
    fields = parse_item(reply)
    names = ("ID", "project", "label", "UID", "subject_ID")
    accession, project, label, uid, subject = (str(fields.get(name, "")) for name in names)
    scans = frozenset(str(scan.get("ID", "")) for scan in parse_child_items(reply, "scans/scan"))
    return SessionItem(accession, project, label, uid, subject, scans)


def parse_study_sessions(reply: Reply, study_uid: str) -> list[Experiment]:
    """Return the archived sessions of a study from a listing (ProjSubExptList), which may hold others too."""
    return [one for one in parse_sessions(reply) if one.study_uid == study_uid]


def parse_sessions(reply: Reply, *, is_reliable: bool = False) -> list[Experiment]:
    """Return the archived sessions of a listing (ProjSubExptList); none where it is not shown.

    Raises: TransientError; as a proof that there are none (`is_reliable`), also where it is not shown.
    """
    check(reply)
    if reply.status in {403, 404}:
        if is_reliable:
            raise TransientError(f"XNAT does not show the project's sessions ({reply.status}: {reply.message})")
        return []
    found = []
    for result in parse_rows(reply):
        # Two shortcuts stand for the same path, and XNAT names the column by either, or by the path.
        names = ("UID", "studyInstanceUID", "xnat:imagesessiondata/uid")
        uid = next((result[name] for name in names if result.get(name)), "")
        columns = ("ID", "label", "subject_label", "xsiType", "date", "project", "subject_ID")
        accession, label, subject, kind, date, project, owner = (result.get(name, "") for name in columns)
        patient, name = (result.get(column, "") for column in ("dcmPatientId", "dcmPatientName"))
        # A column that is asked for by its path may be named by the end of that, or by all of it in lower case.
        row, born = (
            next((value for column, value in result.items() if column.lower().endswith(end)), "")
            for end in ("prearchivepath", "dcmpatientbirthdate")
        )
        found.append(Experiment(accession, label, uid, subject, kind, date, project, owner, row, patient, name, born))
    return found


def parse_project_sessions(reply: Reply) -> list[Experiment] | None:
    """Return the archived sessions of a whole project (ProjSubExptList); None where XNAT does not show them."""
    check(reply)
    return None if reply.status in {403, 404} else parse_sessions(reply)


def parse_scan_resources(reply: Reply) -> list[ScanResource]:
    """Return the resources with DICOM of all scans (CatalogResourceList, `all=true`)."""
    check(reply)
    if reply.status == 404:
        return []
    return [
        ScanResource(result.get("cat_id", ""), result.get("label", ""))
        for result in parse_rows(reply)
        if result.get("category") == "scans" and (result.get("format") == "DICOM" or result.get("label") == "DICOM")
    ]


def parse_catalog(reply: Reply) -> dict[str, str]:
    """Return the SOPInstanceUIDs of a resource's catalog (CatalogResource), and the digest of each entry.

    That is the MD5 of the file as XNAT keeps it, in hexadecimal, "" on sites that keep none.
    """
    check(reply)
    if reply.status == 404:
        raise SessionChangedError("a catalog of the session is not there any more (404)")
    if reply.status != 200:
        raise TransientError(f"XNAT does not show the catalog ({reply.status})")
    entries, parser = _Entries(), make_parser()
    parser.setContentHandler(entries)
    try:
        parser.feed(reply.text)
        parser.close()
    except (SAXException, DefusedXmlException):
        raise TransientError("XNAT's catalog is not XML") from None
    return entries.digests


class _Entries(ContentHandler):
    """Takes the entries of a catalog as they come: a tree of them would take twice the time, and the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: dict[str, str] = {}

    def startElement(self, name: str, attrs: "AttributesImpl[str]") -> None:  # noqa: N802 - as SAX calls it
        """Keep the UID and the digest of an entry."""
        if name.rpartition(":")[2] == "entry" and (uid := attrs.get("UID")):
            self.digests[uid] = attrs.get("digest", "")
