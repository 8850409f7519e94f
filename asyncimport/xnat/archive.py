"""What the archive holds: find a session, and compare its instances with what XNAT acknowledged."""

from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from asyncimport import replies
from asyncimport.model import Session
from asyncimport.replies import Experiment
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.client import Client

__all__ = [
    "Comparison",
    "archived_sessions",
    "compare",
    "find_experiment",
    "held_of_study",
    "held_uids",
    "scan_path",
    "sessions_of_study",
]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing: `verified` is "uids", "count" where a script gives instances new UIDs, else None.

    `missing` instances (SOPInstanceUIDs) were sent and are in none of the study's sessions; `held` is what is in them.
    """

    verified: str | None
    held: frozenset[str]
    missing: frozenset[str] = frozenset()


async def compare(
    client: Client, experiment: Experiment, session: Session, sent: frozenset[str], policy: RetryPolicy
) -> Comparison:
    """Compare the SOPInstanceUIDs that were sent with those that the archive holds of the study.

    Raises: TransientError, RefusedError when the archive cannot be read.
    """
    held = await held_uids(client, experiment, policy)
    if sent - held:
        held = await held_of_study(client, experiment, session, policy)
    missing = sent - held
    if not missing:
        return Comparison("uids", held)
    if len(missing) == len(sent) <= len(held) and await _maps_uids(client, session.project, policy):
        return Comparison("count", held)
    return Comparison(None, held, missing)


async def held_of_study(
    client: Client, experiment: Experiment, session: Session, policy: RetryPolicy
) -> frozenset[str]:
    """Return the SOPInstanceUIDs of all sessions of a study: XNAT may divide it (PET and MR, say).

    Raises: TransientError, RefusedError when the archive cannot be read.
    """
    held = await held_uids(client, experiment, policy)
    for other in await sessions_of_study(client, session.project, session.study_uid, policy):
        if other.accession != experiment.accession:
            held |= await held_uids(client, other, policy)
    return held


async def sessions_of_study(client: Client, project: str, study_uid: str, policy: RetryPolicy) -> list[Experiment]:
    """Return the archived sessions of a study in a project. Raises: TransientError."""
    path = (
        f"/data/projects/{project}/experiments?xsiType=xnat%3AimageSessionData"
        f"&xnat%3AimageSessionData%2FUID={quote(study_uid, safe='')}&columns=ID,label,UID&format=json"
    )
    return await client.ask("GET", path, partial(replies.experiments, study_uid=study_uid), policy)


def scan_path(accession: str, scan: str) -> str:
    """Return the path of a scan, whose ID may be anything: XNAT decodes it (SecureResource.getUrlEncodedParameter)."""
    name = scan.replace("/", "[SLASH]").replace(",", "[COMMA]")
    return f"/data/experiments/{accession}/scans/{quote(name, safe='')}"


async def _maps_uids(client: Client, project: str, policy: RetryPolicy) -> bool:
    """Whether a script in force gives instances new UIDs; XNAT's own, which is on by default, does not."""
    for path in ("/xapi/anonymize/site", f"/xapi/anonymize/projects/{project}"):
        if await client.ask("GET", f"{path}/enabled", replies.setting, policy) and await client.ask(
            "GET", path, replies.maps_uids, policy
        ):
            return True
    return False


async def archived_sessions(client: Client, project: str, policy: RetryPolicy) -> list[Experiment]:
    """Return all imaging sessions of a project. Raises: TransientError."""
    columns = "columns=ID,label,UID,subject_label"
    path = f"/data/projects/{project}/experiments?xsiType=xnat%3AimageSessionData&{columns}&format=json"
    return await client.ask("GET", path, replies.labelled, policy)


async def find_experiment(
    client: Client, session: Session, policy: RetryPolicy, *, any_study: bool = False
) -> Experiment | None:
    """Return the archived session of this label and study, or with `any_study` of this label; None: there is none.

    Its subject need not be the session's. The item alone would not tell the subject's label, so it is listed.
    """
    path = (
        f"/data/projects/{session.project}/experiments?xsiType=xnat%3AimageSessionData"
        f"&label={session.label}&columns=ID,label,UID,subject_label&format=json"
    )
    found = await client.ask("GET", path, replies.labelled, policy)
    there = next((one for one in found if one.label == session.label), None)
    if there is None or (there.study_uid not in {"", session.study_uid} and not any_study):
        return None
    return there


async def held_uids(client: Client, experiment: Experiment, policy: RetryPolicy) -> frozenset[str]:
    """Return the SOPInstanceUIDs in the catalogs of all scans' DICOM resources.

    Stored bytes differ from those sent (XNAT anonymises on receipt by default), so sizes and digests prove nothing.
    """
    base = f"/data/experiments/{experiment.accession}"
    resources = await client.ask("GET", f"{base}/resources?all=true&format=json", replies.scan_resources, policy)
    uids: set[str] = set()
    for resource in resources:
        label = quote(resource.label, safe="")
        path = f"{scan_path(experiment.accession, resource.scan)}/resources/{label}?format=xml"
        uids |= await client.ask("GET", path, replies.catalog, policy)
    return frozenset(uids)
