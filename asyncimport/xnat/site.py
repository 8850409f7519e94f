"""What must be true of the site before a byte is sent."""

from asyncimport import replies
from asyncimport.errors import ProjectMissingError, ProjectReadOnlyError, TransientError, UnavailableError
from asyncimport.retry import RetryPolicy
from asyncimport.xnat.client import Client

__all__ = ["check_project"]

# XNAT's caches of rights lag behind a new project by a second or so (its own tests wait for them).
_POLICY = RetryPolicy(attempts=4)


async def check_project(client: Client, project: str, policy: RetryPolicy = _POLICY) -> str:
    """Return the ID of the project (which may be named by an alias), if this user may import, commit and archive there.

    Import needs the right to read only, and puts files elsewhere without it; commit and archive need to edit.
    Raises: ProjectMissingError, ProjectReadOnlyError, UnavailableError.
    """
    try:
        found = await client.ask("GET", f"/data/projects/{project}?format=json", replies.project_id, policy)
        if found is None:
            raise ProjectMissingError(
                f"project {project} does not exist, or is not open to this user",
                hint="check its ID (not its title) and that the user is a member of it",
            )
        editable = await client.ask(
            "GET",
            "/data/projects?permissions=edit&dataType=xnat:mrSessionData&format=json",
            replies.editable_projects,
            policy,
        )
    except TransientError as error:
        raise UnavailableError(f"the project could not be checked: {error}") from error
    if found not in editable:
        raise ProjectReadOnlyError(
            f"this user may read project {found}, but not add sessions to it",
            hint="ask the project's owner to make the user a member",
        )
    return found
