"""What has become of a session that is neither in its row of the prearchive nor in the archive under its label."""

from asyncimport.errors import RefusedError
from asyncimport.model import Delivery
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.xnat.archive import held_uids, sessions_of_study
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.images import Row, parse_prearchive


async def why_not_here(client: Client, delivery: Delivery, sent: frozenset[str], policy: RetryPolicy) -> str | None:
    """Say where a delivery is, of which these SOPInstanceUIDs were `sent`; None: it is nowhere, somebody deleted it.

    A person may move a row to another project, which keeps its timestamp and its name (PrearcSessionResource), or give
    the session another label when archiving it. What this user may not see cannot be told from what is deleted.
    Raises: TransientError, RefusedError when the archive cannot be read.
    """
    session = delivery.session
    place = (delivery.uri or "").split("/")[-2:]
    for row in await _rows(client, policy):
        if row.uri.split("/")[-2:] == place and row.study_uid == session.study_uid and row.project != session.project:
            return (
                f"somebody has moved it to project {row.project} in the prearchive; move it back or delete it there, "
                "and run the same command with `--retry held`"
            )
    for other in await sessions_of_study(client, session.project, session.study_uid, policy):
        if sent & (await held_uids(client, other, policy)).keys():
            return (
                f"it is gone from the prearchive, and the archive has its files as session {other.label}; "
                f"`asyncimport forget {session.label} --force` lets it begin anew"
            )
    return None


async def _rows(client: Client, policy: RetryPolicy) -> list[Row]:
    """List the prearchive of all projects that this user may edit."""
    try:
        return await client.request("GET", "/data/prearchive/projects?format=json", parse_prearchive, policy)
    except RefusedError:
        return []
