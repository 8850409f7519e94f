"""The addresses of what resources belong to: looked up by project and label, compared, and made of accession IDs.

XNAT takes a name in an address for a label or for an ID: which comes first differs between its classes, and between
reading and writing, and some look for an ID in all projects (ExperimentResource, SubjectResource, XNATTemplate). A list
of a project's own, filtered by label, knows labels alone; an address without a project knows IDs alone.
"""

from collections.abc import Mapping
from urllib.parse import quote

from asyncimport.errors import RefusedError
from asyncimport.model import ResourceOwner, Session
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import scan_path, sessions_labelled, sessions_of_study
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.identity import subject_conflict
from asyncimport.xnat.replies.resources import parse_scan_ids
from asyncimport.xnat.replies.subjects import parse_owners


async def address_of(client: Client, place: ResourceOwner, policy: RetryPolicy) -> str:
    """Return the path below which the resources of a place are. Two places have the same one if they are the same.

    `place` names its project by ID. What it says of session, study, subject and scan has all to be true.
    Raises: TransientError, RefusedError when the archive has nothing of the kind.
    """
    if place.session or place.study_uid:
        accession = await _session(client, place, policy)
        return await _scan(client, accession, place.scan, policy) if place.scan else f"/data/experiments/{accession}"
    if place.subject:
        return f"/data/subjects/{await _subject(client, place, policy)}"
    return f"/data/projects/{place.project}"


async def _subject(client: Client, place: ResourceOwner, policy: RetryPolicy) -> str:
    """Return the accession ID of a subject."""
    label = quote(place.subject, safe="")
    path = f"/data/projects/{place.project}/subjects?label={label}&columns=ID,label,project&format=json"
    listed = await client.request("GET", path, parse_owners, policy)
    homes = {accession: home for accession, (home, shown) in listed.items() if shown == place.subject}
    if not homes:
        raise RefusedError(f"the archive has no such subject in project {place.project} ({place.subject})")
    return _own(homes, place, f"subjects of this label in project {place.project} ({place.subject})")


async def _session(client: Client, place: ResourceOwner, policy: RetryPolicy) -> str:
    """Return the accession ID of a session."""
    if place.session:
        several = f"sessions of this label in project {place.project} ({place.session})"
        labelled = await sessions_labelled(client, place.project, [place.session], policy)
        labelled = [one for one in labelled if one.label == place.session]
        found = [one for one in labelled if not place.study_uid or one.study_uid in {"", place.study_uid}]
        if not found:
            what = "such session of this study" if labelled else "such session"
            raise RefusedError(f"the archive has no {what} in project {place.project} ({place.session})")
    else:
        of_study = f"of study {place.study_uid} in project {place.project}"
        several = f"sessions {of_study}"
        found = await sessions_of_study(client, place.project, place.study_uid, policy)
        if not found:
            raise RefusedError(f"the archive has no session {of_study}")
    accession = _own({one.accession: one.project for one in found}, place, several)
    subject = next(one.subject for one in found if one.accession == accession)
    wanted = Session(place.project, place.subject, place.session, place.study_uid)
    if place.subject and (problem := subject_conflict(subject, wanted)):
        raise RefusedError(problem)
    return accession


def _own(homes: Mapping[str, str], place: ResourceOwner, several: str) -> str:
    """Return the one of several accession IDs whose home is the project of the place: "" where XNAT does not tell."""
    own = [accession for accession, home in homes.items() if home in {"", place.project}]
    if len(own) == 1:
        return own[0]
    if own:
        raise RefusedError(f"the archive has {len(own)} {several}")
    home = ", ".join(sorted(set(homes.values())))
    raise RefusedError(f"it is of another project, which shares it: attach it there ({home})")


async def _scan(client: Client, accession: str, scan: str, policy: RetryPolicy) -> str:
    """Return the path of a scan: XNAT takes types and patterns too, and looks elsewhere where there is none."""
    path = f"/data/experiments/{accession}/scans?format=json"
    if scan not in await client.request("GET", path, parse_scan_ids, policy):
        raise RefusedError(f"the session has no scan {scan}")
    return scan_path(accession, scan)
