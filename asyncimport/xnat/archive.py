"""Sessions of the archive: found by label or study, and compared with what XNAT acknowledged."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import anyio

from asyncimport.errors import SessionChangedError
from asyncimport.model.addresses import labels_match
from asyncimport.model.files import Session
from asyncimport.model.record import record
from asyncimport.pacing.concurrency import map_concurrently
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.archive import (
    Experiment,
    parse_catalog,
    parse_project_sessions,
    parse_scan_resources,
    parse_session_item,
    parse_sessions,
    parse_study_sessions,
)
from asyncimport.xnat.replies.identity import session_conflict
from asyncimport.xnat.site import SiteRules

UNKNOWN_WHICH = "and nobody can tell which, because a script changes their UIDs"

_COLUMNS = (
    "columns=ID,label,UID,xsiType,subject_label,date,project,subject_ID,xnat%3AimageSessionData%2FprearchivePath"
    "&format=json"
)
# XNAT ignores columns that it does not know (QueryOrganizerResource).
_PATIENT_COLUMNS = "dcmPatientId,dcmPatientName,xnat%3AimageSessionData%2FdcmPatientBirthDate"
_IMAGE_SESSIONS = "xsiType=xnat%3AimageSessionData"
# Catalogs of a session that are read side by side: a session may have dozens, each a round trip away.
READS_AT_ONCE = 4
# How often a session that others change meanwhile is read as a whole.
_READ_ATTEMPTS = 3
_MR, _PET = "xnat:mrSessionData", "xnat:petSessionData"


@record
class FoundSessions:
    """The archived sessions that one has become: none, one, or several parts. With a `problem`, something else."""

    experiments: tuple[Experiment, ...] = ()
    problem: str | None = None


@record
class Comparison:
    """What the archive has, compared with what was sent.

    `verified` is "uids", "count" where a script changes UIDs, or None. `digests` are XNAT's of each instance in the
    session, by SOPInstanceUID, "" where it has none. `missing` instances were sent and are not in it. `missing_count`
    is how many it lacks by their number; if none are `missing`, nobody can tell which.
    """

    verified: str | None
    digests: Mapping[str, str]
    missing: frozenset[str] = frozenset()
    missing_count: int = 0


class Archive:
    """Reads sessions of the archive. All methods raise TransientError."""

    def __init__(self, client: Client, policy: RetryPolicy, rules: SiteRules | None = None) -> None:
        self._client = client
        self._policy = policy
        self._rules = rules or SiteRules(client, policy)

    async def find_session(self, session: Session, *, new_label: str | None = None) -> FoundSessions:
        """Find what a session has become, under its label or the `new_label` that XNAT named when it archived it.

        XNAT keeps the label, except for studies with PET and MR, which a site may divide or call PET sessions. It keeps
        the StudyInstanceUID unless a script changes it (MergePrearcToArchiveSession).
        """
        label = new_label or session.label
        # At a site that makes PET sessions of PET/MR ones (XNATSessionBuilder).
        pet_label = re.sub(r"petmr(?!.*petmr)", "PET", session.label, flags=re.IGNORECASE)
        labels = dict.fromkeys((label, pet_label, *_part_labels(session.label).values()))
        listed = await self.list_labelled(session.project, [*labels])
        found = next((one for one in listed if one.label == label), None)
        if found is None:
            as_pet = (one for one in listed if one.label == pet_label and session_conflict(one, session) is None)
            found = next(as_pet, None)
            return FoundSessions((found,) if found is not None else parts_among(listed, session))
        if found.study_uid not in {"", session.study_uid}:
            maps = (await self._rules.get(session.project)).maps_studies
            # If XNAT does not show its scripts, the label that it named decides.
            if maps or (maps is None and new_label is not None):
                found = replace(found, study_uid="")
        return FoundSessions((found,), session_conflict(found, session))

    async def compare(
        self,
        session: Session,
        found: FoundSessions,
        sent: frozenset[str],
        expected: int | None = None,
        *,
        new_label: str | None = None,
    ) -> tuple[FoundSessions, Comparison | None]:
        """Compare the SOPInstanceUIDs that were sent with those in the sessions found; again if these change meanwhile.

        Where a script changes UIDs, only numbers tell: `expected` in all, or as many as were sent if nobody counted
        what was there before. Returns what was found last; no comparison if that is nothing or has a problem.
        Raises: SessionChangedError if it changes each time, RefusedError if it cannot be read.
        """
        for attempt in range(_READ_ATTEMPTS):
            if found.problem is not None or not found.experiments:
                break
            try:
                digests = await self.read_digests(session, found.experiments, sent)
                return found, await self._compare(session, digests, sent, expected)
            except SessionChangedError:
                if attempt == _READ_ATTEMPTS - 1:
                    raise
            found = await self.find_session(session, new_label=new_label)
        return found, None

    async def _compare(
        self, session: Session, digests: Mapping[str, str], sent: frozenset[str], expected: int | None
    ) -> Comparison:
        missing = sent - digests.keys()
        if not missing:
            return Comparison("uids", digests)
        is_uncounted = expected is None and len(missing) < len(sent)
        if is_uncounted or not (await self._rules.get(session.project)).maps_instances:
            return Comparison(None, digests, missing)
        missing_count = (len(sent) if expected is None else expected) - len(digests)
        if missing_count <= 0:
            return Comparison("count", digests)
        # If as many are missing as UIDs are, they are the ones.
        return Comparison(None, digests, missing if missing_count == len(missing) else frozenset(), missing_count)

    async def read_digests(
        self, session: Session, experiments: Sequence[Experiment], wanted: frozenset[str] = frozenset()
    ) -> dict[str, str]:
        """Return XNAT's digest of each instance in archived sessions, by SOPInstanceUID, "" where it has none.

        If these lack any that are `wanted`, parts that XNAT has made of the session are read too. Raises: RefusedError.
        """
        digests: dict[str, str] = {}
        for experiment in experiments:
            digests |= await self.read_session(experiment)
        if wanted - digests.keys():
            known = {experiment.accession for experiment in experiments}
            for part in parts_among(await self.list_study(session.project, session.study_uid), session):
                if part.accession not in known:
                    digests |= await self.read_session(part)
        return digests

    async def read_session(self, experiment: Experiment) -> dict[str, str]:
        """Return the digests of the instances in the catalogs of all scans' DICOM resources, by SOPInstanceUID.

        Stored bytes differ from those sent, because XNAT anonymises on receipt by default. So a digest proves nothing
        about what was sent; but if it changes, the file has been replaced. At the end the session itself is read: if it
        has become another, nothing counts. Raises: SessionChangedError, RefusedError if the archive cannot be read.
        """
        base = f"/data/experiments/{experiment.accession}"
        path = f"{base}/resources?all=true&format=json"
        resources = await self._client.request("GET", path, parse_scan_resources, self._policy)
        digests: dict[str, str] = {}
        paths = [
            f"{scan_path(experiment.accession, scan)}/resources/{quote(label, safe='')}?format=xml"
            for scan, label in sorted(resources)
        ]
        # In a fixed order: of two copies of an instance the same one counts each time.
        for found in await map_concurrently(self._read_catalog, paths, READS_AT_ONCE):
            digests |= found
        now = await self._client.request("GET", f"{base}?format=json", parse_session_item, self._policy)
        if not now.is_still(experiment, {scan for scan, _ in resources}):
            raise SessionChangedError("the session was changed in XNAT while it was read")
        return digests

    async def _read_catalog(self, path: str) -> Mapping[str, str]:
        return await self._client.request("GET", path, parse_catalog, self._policy)

    async def list_study(self, project: str, study_uid: str) -> list[Experiment]:
        """Return the archived sessions of a study in a project."""
        path = (
            f"/data/projects/{project}/experiments?{_IMAGE_SESSIONS}"
            f"&xnat%3AimageSessionData%2FUID={quote(study_uid, safe='')}&{_COLUMNS}"
        )
        parse = partial(parse_study_sessions, study_uid=study_uid)
        return await self._client.request("GET", path, parse, self._policy)

    async def list_labelled(
        self, project: str, labels: Sequence[str], *, is_reliable: bool = False
    ) -> list[Experiment]:
        """Return the archived sessions of these labels, of any study: an item would not name its subject's label.

        XNAT reads a comma as "or" (QueryOrganizerResource). With `is_reliable` an empty list proves that there is none:
        a listing that XNAT does not show is a TransientError.
        """
        wanted = ",".join(quote(label, safe="") for label in labels)
        path = f"/data/projects/{project}/experiments?{_IMAGE_SESSIONS}&label={wanted}&{_COLUMNS}"
        return await self._client.request("GET", path, partial(parse_sessions, is_reliable=is_reliable), self._policy)


class ArchivedSessions:
    """The imaging sessions in the archive by project; each project is listed once. Raises: TransientError."""

    def __init__(self, client: Client, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._locks: dict[str, anyio.Lock] = {}
        self._projects: dict[str, Sequence[Experiment] | None] = {}

    async def list_project(self, project: str) -> Sequence[Experiment] | None:
        """Return a project's sessions, as of the first call; None: not shown to this user (ProjSubExptList: 403)."""
        async with self._locks.setdefault(project, anyio.Lock()):
            if project not in self._projects:
                columns = _COLUMNS.replace("&", f",{_PATIENT_COLUMNS}&", 1)
                path = f"/data/projects/{quote(project, safe='')}/experiments?{_IMAGE_SESSIONS}&{columns}"
                listed = await self._client.request("GET", path, parse_project_sessions, self._policy)
                self._projects[project] = listed
        return self._projects[project]


@record
class KnownSite:
    """What is read of a site once, for all who ask: the archived sessions of each project, and what drops files."""

    archived: ArchivedSessions
    rules: SiteRules

    @classmethod
    def of(cls, client: Client, policy: RetryPolicy) -> "KnownSite":
        """Return a site of which nothing is known yet."""
        return cls(ArchivedSessions(client, policy), SiteRules(client, policy))


def scan_path(accession: str, scan: str) -> str:
    """Return the path of a scan, whose ID may be any text (SecureResource.getUrlEncodedParameter decodes it)."""
    name = scan.replace("/", "[SLASH]").replace(",", "[COMMA]")
    return f"/data/experiments/{accession}/scans/{quote(name, safe='')}"


def _part_labels(label: str) -> dict[str, str]:
    """Return the labels of the parts of a session by data type (PrearcDatabase.getUniqueSessionLabel)."""
    if "PETMR" in label:
        return {_MR: label.replace("PETMR", "MR"), _PET: label.replace("PETMR", "PET")}
    if "petmr" in label:
        return {_MR: label.replace("petmr", "mr"), _PET: label.replace("petmr", "pet")}
    return {_MR: f"{label}_MR", _PET: f"{label}_PET"}


def parts_among(found: Iterable[Experiment], session: Session) -> tuple[Experiment, ...]:
    """Return the sessions that XNAT has made of this one by dividing PET from MR; none if it has not divided it.

    These are an MR and a PET session of the same study and subject. XNAT makes their labels from the session's own, and
    adds a number if one is taken. Any other session of the study belongs to somebody else, and proves nothing.
    """
    labels = _part_labels(session.label)
    parts = [
        one
        for one in found
        if one.type in labels
        and one.study_uid == session.study_uid
        and labels_match(one.subject, session.subject)
        and re.fullmatch(re.escape(labels[one.type]) + r"[0-9]*", one.label)
    ]
    return tuple(parts) if {one.type for one in parts} == {_MR, _PET} else ()


def label_before_division(found: Sequence[Experiment], project: str) -> str | None:
    """Return the label of the session that XNAT has divided into these sessions of one study; None if it has not."""
    mr = next((one for one in found if one.type == _MR), None)
    if mr is None or len(found) < 2:
        return None
    candidates = [re.sub(r"_MR[0-9]*\Z", "", mr.label)]
    for name, whole in (("MR", "PETMR"), ("mr", "petmr")):
        matches = re.finditer(name, mr.label)
        candidates += [mr.label[: match.start()] + whole + mr.label[match.end() :] for match in matches]
    for label in candidates:
        if label != mr.label and parts_among(found, Session(project, mr.subject, label, mr.study_uid)):
            return label
    return None
