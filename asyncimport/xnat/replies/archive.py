"""Replies about what the archive holds."""

from collections.abc import Iterable, Mapping
from dataclasses import field
from xml.parsers.expat import ExpatError, ParserCreate

from asyncimport.errors import SessionChangedError, TransientError
from asyncimport.model.record import record
from asyncimport.xnat.replies.response import Reply, check, parse_child_items, parse_item, parse_rows


@record
class Experiment:
    """An archived session in a listing. A field is "" if XNAT does not show it.

    `date` is the study's, as YYYY-MM-DD. `project` owns the session; others may share it. `prearchive_path` is the
    folder on the server of the first row that was archived into it. The repr shows no data of the patient.
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


@record
class SessionItem:
    """An archived session as it is now, with the IDs of its scans. A field is "" if XNAT does not show it."""

    accession: str
    project: str
    label: str
    study_uid: str
    subject_id: str
    scans: frozenset[str]

    def is_still(self, before: Experiment, scans: Iterable[str]) -> bool:
        """Whether it is the session that was listed, with these scans. What XNAT does not show is no difference."""
        names = ("accession", "project", "label", "study_uid", "subject_id")
        pairs = ((getattr(self, name), getattr(before, name)) for name in names)
        return all(now == then or not now or not then for now, then in pairs) and self.scans.issuperset(scans)


def parse_session_item(reply: Reply) -> SessionItem:
    """Return an archived session as it is now (ExperimentResource, `format=json`). Raises: SessionChangedError."""
    check(reply)
    if reply.status in {403, 404}:
        raise SessionChangedError(f"the session is not there any more ({reply.status}: {reply.message})")
    fields = parse_item(reply)
    names = ("ID", "project", "label", "UID", "subject_ID")
    accession, project, label, uid, subject = (str(fields.get(name, "")) for name in names)
    scans = frozenset(str(scan.get("ID", "")) for scan in parse_child_items(reply, "scans/scan"))
    return SessionItem(accession, project, label, uid, subject, scans)


def parse_study_sessions(reply: Reply, study_uid: str) -> list[Experiment]:
    """Return the archived sessions of a study from a listing (ProjSubExptList), which may contain others too."""
    return [one for one in parse_sessions(reply) if one.study_uid == study_uid]


def parse_sessions(reply: Reply, *, is_reliable: bool = False) -> list[Experiment]:
    """Return the sessions of a listing (ProjSubExptList). If not shown: none; with `is_reliable`, a TransientError."""
    found = parse_project_sessions(reply)
    if found is None and is_reliable:
        raise TransientError(f"XNAT does not show the project's sessions ({reply.status}: {reply.message})")
    return found or []


def parse_project_sessions(reply: Reply) -> list[Experiment] | None:
    """Return the archived sessions of a whole project (ProjSubExptList); None if XNAT does not show them."""
    check(reply)
    if reply.status in {403, 404}:
        return None
    found = []
    for row in parse_rows(reply):
        # XNAT has two shortcuts for this path, and names the column by either of them or by the path.
        names = ("UID", "studyInstanceUID", "xnat:imagesessiondata/uid")
        uid = next((row[name] for name in names if row.get(name)), "")
        # If a column is requested by its path, XNAT names it by the path's end, or by all of it in lower case.
        path, born = (
            next((value for column, value in row.items() if column.lower().endswith(end)), "")
            for end in ("prearchivepath", "dcmpatientbirthdate")
        )
        found.append(
            Experiment(
                accession=row.get("ID", ""),
                label=row.get("label", ""),
                study_uid=uid,
                subject=row.get("subject_label", ""),
                type=row.get("xsiType", ""),
                date=row.get("date", ""),
                project=row.get("project", ""),
                subject_id=row.get("subject_ID", ""),
                prearchive_path=path,
                patient_id=row.get("dcmPatientId", ""),
                patient_name=row.get("dcmPatientName", ""),
                birth_date=born,
            )
        )
    return found


def parse_scan_resources(reply: Reply) -> list[tuple[str, str]]:
    """Return scan and label of the resources with DICOM of all scans (CatalogResourceList, `all=true`)."""
    check(reply)
    if reply.status == 404:
        return []
    return [
        (row.get("cat_id", ""), row.get("label", ""))
        for row in parse_rows(reply)
        if row.get("category") == "scans" and (row.get("format") == "DICOM" or row.get("label") == "DICOM")
    ]


def parse_catalog(reply: Reply) -> dict[str, str]:
    """Return the MD5 (hexadecimal, or "") of each instance stored in a resource (CatalogResource), by UID."""
    check(reply)
    if reply.status == 404:
        raise SessionChangedError("a catalog of the session is not there any more (404)")
    if reply.status != 200:
        raise TransientError(f"XNAT does not show the catalog ({reply.status})")
    digests: dict[str, str] = {}

    def note(name: str, values: Mapping[str, str]) -> None:
        if name.rpartition(":")[2] == "entry" and (uid := values.get("UID")):
            digests[uid] = values.get("digest", "")

    # Only what is needed of each entry: a tree would take several times the time and memory.
    parser = ParserCreate()
    parser.StartElementHandler = note
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(reply.text, True)  # noqa: FBT003 - as expat has it
    except ExpatError:
        raise TransientError("XNAT's catalog is not XML") from None
    return digests


def _refuse_doctype(*_: object) -> None:
    """Refuse what may define entities: texts that grow without end, or files of this machine."""
    raise ExpatError("it has a document type")
