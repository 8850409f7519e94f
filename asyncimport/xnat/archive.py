"""What the archive holds: find a session, and compare its instances with what XNAT acknowledged."""

from urllib.parse import quote

from asyncimport import replies
from asyncimport.model import Session
from asyncimport.replies import Experiment
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.client import Client

__all__ = ["find_experiment", "held_uids"]


async def find_experiment(client: Client, session: Session, policy: RetryPolicy) -> Experiment | None:
    """Return the archived session of this label and study; None when there is none, or it is another study's."""
    found = await client.ask(
        "GET",
        f"/data/projects/{session.project}/experiments/{session.label}?format=json",
        replies.experiment,
        policy,
    )
    if found is None or found.study_uid not in {"", session.study_uid}:
        return None
    return found


async def held_uids(client: Client, experiment: Experiment, policy: RetryPolicy) -> frozenset[str]:
    """Return the SOPInstanceUIDs in the catalogs of all scans' DICOM resources.

    Stored bytes differ from those sent (XNAT anonymises on receipt by default), so sizes and digests prove nothing.
    """
    base = f"/data/experiments/{experiment.accession}"
    resources = await client.ask("GET", f"{base}/resources?all=true&format=json", replies.scan_resources, policy)
    uids: set[str] = set()
    for resource in resources:
        # Scans that were there before us may have any ID; XNAT decodes these (SecureResource.getUrlEncodedParameter).
        scan = quote(resource.scan.replace("/", "[SLASH]").replace(",", "[COMMA]"), safe="")
        label = quote(resource.label, safe="")
        path = f"{base}/scans/{scan}/resources/{label}?format=xml"
        uids |= await client.ask("GET", path, replies.catalog, policy)
    return frozenset(uids)
