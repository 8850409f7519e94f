"""What the archive holds: find a session, and compare its instances with what XNAT acknowledged."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import quote

import anyio

from asyncimport.errors import SessionChangedError
from asyncimport.model import Session
from asyncimport.model.addresses import labels_match
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

NOBODY_KNOWS_WHICH = "and nobody can tell which, as a script gives instances new UIDs"

_COLUMNS = (
    "columns=ID,label,UID,xsiType,subject_label,date,project,subject_ID,xnat%3AimageSessionData%2FprearchivePath"
    "&format=json"
)
# What they say of patients. XNAT passes over names that it does not know (QueryOrganizerResource).
_PATIENT_COLUMNS = "dcmPatientId,dcmPatientName,xnat%3AimageSessionData%2FdcmPatientBirthDate"
_IMAGE_SESSIONS = "xsiType=xnat%3AimageSessionData"
# How often a session is looked at as a whole that others change meanwhile.
_LOOKS = 3
_MR, _PET = "xnat:mrSessionData", "xnat:petSessionData"


@dataclass(frozen=True, slots=True)
class Found:
    """The archived sessions that one of ours has become: one, several where XNAT has divided it, or none.

    With a `problem` what the archive has in its place is not it.
    """

    experiments: tuple[Experiment, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing: `verified` is "uids", "count" where a script gives instances new UIDs, else None.

    `missing` instances (SOPInstanceUIDs) were sent and are not in the session; `held` is what is in it, and what digest
    XNAT tells of each ("" where none). `short` is how
    many it lacks by their number; nobody can tell which if none are `missing`.
    """

    verified: str | None
    held: Mapping[str, str]
    missing: frozenset[str] = frozenset()
    short: int = 0


async def find_session(
    client: Client, session: Session, policy: RetryPolicy, rules: SiteRules, *, named: str | None = None
) -> Found:
    """Find what has become of a session: under its label, or the one that XNAT has `named` when it archived it.

    XNAT keeps the label, but of studies with PET and MR, which it can be told to divide, or to call PET sessions.
    It keeps the StudyInstanceUID, but for scripts that map it (MergePrearcToArchiveSession).
    Raises: TransientError, RefusedError.
    """
    label = named or session.label
    renamed = _as_pet(session.label)
    listed = await sessions_labelled(
        client, session.project, [*dict.fromkeys((label, renamed, *_stems(session.label).values()))], policy
    )
    there = next((one for one in listed if one.label == label), None)
    if there is None:
        there = next((one for one in listed if one.label == renamed and session_conflict(one, session) is None), None)
        return Found((there,)) if there is not None else Found(parts_among(listed, session))
    if there.study_uid not in {"", session.study_uid}:
        maps = (await rules.get(session.project)).maps_studies
        # Where scripts do not show, XNAT's own word decides.
        if maps or (maps is None and named is not None):
            there = replace(there, study_uid="")
    problem = session_conflict(there, session)
    return Found((there,), problem)


def _as_pet(label: str) -> str:
    """Return the label that a PET/MR session has where the site makes PET sessions of them (XNATSessionBuilder)."""
    return re.sub(r"petmr(?!.*petmr)", "PET", label, flags=re.IGNORECASE)


def _stems(label: str) -> dict[str, str]:
    """Return the labels of the parts of a session by data type (PrearcDatabase.getUniqueSessionLabel)."""
    if "PETMR" in label:
        return {_MR: label.replace("PETMR", "MR"), _PET: label.replace("PETMR", "PET")}
    if "petmr" in label:
        return {_MR: label.replace("petmr", "mr"), _PET: label.replace("petmr", "pet")}
    return {_MR: f"{label}_MR", _PET: f"{label}_PET"}


def parts_among(found: Iterable[Experiment], session: Session) -> tuple[Experiment, ...]:
    """Return the sessions of a listing that XNAT has made of this one by dividing PET from MR; none if it has not.

    There is an MR and a PET session then, of the same study and subject, with labels made of the session's own, and
    a number where those were taken. Any other session of the study is somebody else's, and proves nothing.
    """
    stems = _stems(session.label)
    parts = [
        one
        for one in found
        if one.type in stems
        and one.study_uid == session.study_uid
        and labels_match(one.subject, session.subject)
        and re.fullmatch(re.escape(stems[one.type]) + r"[0-9]*", one.label)
    ]
    return tuple(parts) if {one.type for one in parts} == {_MR, _PET} else ()


async def find_and_compare(
    client: Client,
    session: Session,
    there: Found,
    sent: frozenset[str],
    policy: RetryPolicy,
    rules: SiteRules,
    expected: int | None = None,
    *,
    named: str | None = None,
) -> tuple[Found, Comparison | None]:
    """Compare what was sent with what was found `there`; anew, and as a whole, where that changes meanwhile.

    Returns what was found last, which has a problem or is nothing where there is no comparison.
    Raises: TransientError, SessionChangedError where it changes each time, RefusedError.
    """
    for look in range(_LOOKS):
        if there.problem is not None or not there.experiments:
            break
        try:
            return there, await compare(client, session, there.experiments, sent, policy, rules, expected)
        except SessionChangedError:
            if look == _LOOKS - 1:
                raise
        there = await find_session(client, session, policy, rules, named=named)
    return there, None


def label_before_division(found: Sequence[Experiment], project: str) -> str | None:
    """Return the label of the session that XNAT has divided into these, which are of one study; None: it has not."""
    mr = next((one for one in found if one.type == _MR), None)
    if mr is None or len(found) < 2:
        return None
    candidates = [re.sub(r"_MR[0-9]*\Z", "", mr.label)]
    for name in ("MR", "mr"):
        whole = "PETMR" if name == "MR" else "petmr"
        candidates += [
            mr.label[: place.start()] + whole + mr.label[place.end() :] for place in re.finditer(name, mr.label)
        ]
    for label in candidates:
        if label != mr.label and parts_among(found, Session(project, mr.subject, label, mr.study_uid)):
            return label
    return None


async def compare(
    client: Client,
    session: Session,
    experiments: Sequence[Experiment],
    sent: frozenset[str],
    policy: RetryPolicy,
    rules: SiteRules,
    expected: int | None = None,
) -> Comparison:
    """Compare the SOPInstanceUIDs that were sent with those that the archive holds of the session.

    Where a script gives instances new UIDs, only the number tells: `expected` in all, or, if nobody has counted what
    was there before, as many as were sent.
    Raises: TransientError, SessionChangedError, RefusedError when the archive cannot be read.
    """
    held = await held_of_session(client, session, experiments, sent, policy)
    missing = sent - held.keys()
    if not missing:
        return Comparison("uids", held)
    uncounted = expected is None and len(missing) < len(sent)
    if uncounted or not (await rules.get(session.project)).maps_instances:
        return Comparison(None, held, missing)
    short = (len(sent) if expected is None else expected) - len(held)
    if short <= 0:
        return Comparison("count", held)
    # Where as many are absent as UIDs are, those are the ones.
    return Comparison(None, held, missing if short == len(missing) else frozenset(), short)


async def held_of_session(
    client: Client,
    session: Session,
    experiments: Sequence[Experiment],
    wanted: frozenset[str],
    policy: RetryPolicy,
) -> dict[str, str]:
    """Return the SOPInstanceUIDs in sessions of the archive, and in parts of ours if these lack something `wanted`.

    With each comes the digest that XNAT tells of it.

    Raises: TransientError, RefusedError when the archive cannot be read.
    """
    held: dict[str, str] = {}
    for experiment in experiments:
        held |= await held_uids(client, experiment, policy)
    if wanted - held.keys():
        known = {experiment.accession for experiment in experiments}
        for part in parts_among(await sessions_of_study(client, session.project, session.study_uid, policy), session):
            if part.accession not in known:
                held |= await held_uids(client, part, policy)
    return held


async def sessions_of_study(client: Client, project: str, study_uid: str, policy: RetryPolicy) -> list[Experiment]:
    """Return the archived sessions of a study in a project. Raises: TransientError."""
    path = (
        f"/data/projects/{project}/experiments?{_IMAGE_SESSIONS}"
        f"&xnat%3AimageSessionData%2FUID={quote(study_uid, safe='')}&{_COLUMNS}"
    )
    return await client.request("GET", path, partial(parse_study_sessions, study_uid=study_uid), policy)


def scan_path(accession: str, scan: str) -> str:
    """Return the path of a scan, whose ID may be anything: XNAT decodes it (SecureResource.getUrlEncodedParameter)."""
    name = scan.replace("/", "[SLASH]").replace(",", "[COMMA]")
    return f"/data/experiments/{accession}/scans/{quote(name, safe='')}"


class ArchivedSessions:
    """The imaging sessions that the archive holds of each project, listed once for all who ask."""

    def __init__(self, client: Client, policy: RetryPolicy) -> None:
        self._client = client
        self._policy = policy
        self._turns: dict[str, anyio.Lock] = {}
        self._listed: dict[str, Sequence[Experiment] | None] = {}

    async def in_project(self, project: str) -> Sequence[Experiment] | None:
        """Return all imaging sessions of a project, as they were when it was first asked for.

        None where XNAT does not show them to this user (ProjSubExptList: 403, 404). Raises: TransientError.
        """
        async with self._turns.setdefault(project, anyio.Lock()):
            if project not in self._listed:
                columns = _COLUMNS.replace("&", f",{_PATIENT_COLUMNS}&", 1)
                path = f"/data/projects/{quote(project, safe='')}/experiments?{_IMAGE_SESSIONS}&{columns}"
                self._listed[project] = await self._client.request("GET", path, parse_project_sessions, self._policy)
        return self._listed[project]


async def find_experiment(
    client: Client, session: Session, policy: RetryPolicy, *, any_study: bool = False
) -> Experiment | None:
    """Return the archived session of this label and study, or with `any_study` of this label; None: there is none.

    Its subject need not be the session's.
    Raises: TransientError; with `any_study` also where this user may not look, so that None is proof.
    """
    found = await sessions_labelled(client, session.project, [session.label], policy, is_reliable=any_study)
    there = next((one for one in found if one.label == session.label), None)
    if there is None or (there.study_uid not in {"", session.study_uid} and not any_study):
        return None
    return there


async def sessions_labelled(
    client: Client, project: str, labels: Sequence[str], policy: RetryPolicy, *, is_reliable: bool = False
) -> list[Experiment]:
    """List the archived sessions of these labels, of whatever study: an item alone would not tell its subject's label.

    XNAT reads a comma as "or" (QueryOrganizerResource).
    """
    wanted = ",".join(quote(label, safe="") for label in labels)
    path = f"/data/projects/{project}/experiments?{_IMAGE_SESSIONS}&label={wanted}&{_COLUMNS}"
    return await client.request("GET", path, partial(parse_sessions, is_reliable=is_reliable), policy)


async def held_uids(client: Client, experiment: Experiment, policy: RetryPolicy) -> dict[str, str]:
    """Return the SOPInstanceUIDs in the catalogs of all scans' DICOM resources, and the digest of each.

    Stored bytes differ from those sent (XNAT anonymises on receipt by default), so sizes and digests prove nothing
    of what was sent; a digest that differs from what it was before tells that the file is another.
    Afterwards the session itself is looked at: nothing counts that was read of another.
    Raises: TransientError, SessionChangedError, RefusedError when the archive cannot be read.
    """
    base = f"/data/experiments/{experiment.accession}"
    resources = await client.request("GET", f"{base}/resources?all=true&format=json", parse_scan_resources, policy)
    uids: dict[str, str] = {}
    # Of an instance that is there twice the same one counts each time.
    for resource in sorted(resources, key=lambda one: (one.scan, one.label)):
        label = quote(resource.label, safe="")
        path = f"{scan_path(experiment.accession, resource.scan)}/resources/{label}?format=xml"
        uids |= await client.request("GET", path, parse_catalog, policy)
    now = await client.request("GET", f"{base}?format=json", parse_session_item, policy)
    if not now.is_still(experiment, {resource.scan for resource in resources}):
        raise SessionChangedError("the session was changed in XNAT while it was looked at")
    return uids
