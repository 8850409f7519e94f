"""The addresses of what resources belong to: found by project and label, compared, and made of accession IDs.

XNAT takes a name in an address for a label or an ID. The order differs between its classes, and between reading and
writing; some look for an ID in all projects (ExperimentResource, SubjectResource, XNATTemplate). Only a project's own
listing, filtered by label, knows just labels; only an address without a project knows just IDs.
"""

from collections.abc import Mapping
from urllib.parse import quote

from asyncimport.errors import RefusedError
from asyncimport.model.attachments import ResourceOwner
from asyncimport.model.files import Session
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import Archive, scan_path
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.identity import subject_conflict
from asyncimport.xnat.replies.resources import parse_scan_ids
from asyncimport.xnat.replies.subjects import parse_owners


async def find_address(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    """Return the path that an owner's resources are below. One owner has one path, however it is named.

    `owner` names its project by ID. Its session, study, subject and scan must all match.
    Raises: TransientError, RefusedError if the archive has no such owner.
    """
    if owner.session or owner.study_uid:
        accession = await _find_session(client, owner, policy)
        path = f"/data/experiments/{accession}"
        if not owner.scan:
            return path
        # XNAT takes types and patterns for scans too, and looks elsewhere if there is no such scan.
        if owner.scan not in await client.request("GET", f"{path}/scans?format=json", parse_scan_ids, policy):
            raise RefusedError(f"the session has no scan {owner.scan}")
        return scan_path(accession, owner.scan)
    if owner.subject:
        return f"/data/subjects/{await _find_subject(client, owner, policy)}"
    return f"/data/projects/{owner.project}"


async def _find_subject(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    label = quote(owner.subject, safe="")
    path = f"/data/projects/{owner.project}/subjects?label={label}&columns=ID,label,project&format=json"
    listed = await client.request("GET", path, parse_owners, policy)
    projects = {accession: project for accession, (project, shown) in listed.items() if shown == owner.subject}
    if not projects:
        raise RefusedError(f"the archive has no such subject in project {owner.project} ({owner.subject})")
    return _only_own(projects, owner, f"subjects of this label in project {owner.project} ({owner.subject})")


async def _find_session(client: Client, owner: ResourceOwner, policy: RetryPolicy) -> str:
    archive = Archive(client, policy)
    if owner.session:
        several = f"sessions of this label in project {owner.project} ({owner.session})"
        labelled = await archive.list_labelled(owner.project, [owner.session])
        labelled = [one for one in labelled if one.label == owner.session]
        found = [one for one in labelled if not owner.study_uid or one.study_uid in {"", owner.study_uid}]
        if not found:
            what = "such session of this study" if labelled else "such session"
            raise RefusedError(f"the archive has no {what} in project {owner.project} ({owner.session})")
    else:
        of_study = f"of study {owner.study_uid} in project {owner.project}"
        several = f"sessions {of_study}"
        found = await archive.list_study(owner.project, owner.study_uid)
        if not found:
            raise RefusedError(f"the archive has no session {of_study}")
    accession = _only_own({one.accession: one.project for one in found}, owner, several)
    subject = next(one.subject for one in found if one.accession == accession)
    wanted = Session(owner.project, owner.subject, owner.session, owner.study_uid)
    if owner.subject and (problem := subject_conflict(subject, wanted)):
        raise RefusedError(problem)
    return accession


def _only_own(projects: Mapping[str, str], owner: ResourceOwner, several: str) -> str:
    """Return the one accession ID that belongs to the owner's project; "" is a project that XNAT does not show."""
    own = [accession for accession, project in projects.items() if project in {"", owner.project}]
    if len(own) == 1:
        return own[0]
    if own:
        raise RefusedError(f"the archive has {len(own)} {several}")
    others = ", ".join(sorted(set(projects.values())))
    raise RefusedError(f"it belongs to another project, which shares it: attach it there ({others})")
