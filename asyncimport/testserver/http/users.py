"""Users over HTTP, and who may use a project. A test user has a name and nothing else of a person."""

from typing import Any

from aiohttp import web

from ..site.projects import GUEST, Project, User
from .request_context import RequestContext
from .responses import HttpError, table, text

_GROUPS = (("owner", "Owners"), ("member", "Members"), ("collaborator", "Collaborators"))


def _number(context: RequestContext, name: str) -> int:
    """Return a user's number: 1 for the first."""
    return list(context.site.users).index(name) + 1


async def user_names(context: RequestContext) -> web.StreamResponse:
    """List the names of all users (UsersApi), for administrators only where the list of users is restricted."""
    _check_list(context)
    return web.json_response(list(context.site.users))


async def username(context: RequestContext) -> web.StreamResponse:
    """Return the user's own name (UsersApi)."""
    return text(context.user.name)


async def profiles(context: RequestContext) -> web.StreamResponse:
    """List all users with their profiles (UsersApi)."""
    _check_list(context)
    return web.json_response([_profile(context, user) for user in context.site.users.values()])


async def user(context: RequestContext, name: str) -> web.StreamResponse:
    """Return a user's profile (UsersApi): the own one, or for administrators any."""
    if name != context.user.name and not context.user.all_data:
        raise HttpError(403)
    if (found := context.site.users.get(name)) is None:
        raise HttpError(404, "Unable to find requested file or resource")
    return web.json_response(_profile(context, found))


def _check_list(context: RequestContext) -> None:
    if context.site.restrict_user_list and not context.user.all_data:
        raise HttpError(403)


def _profile(context: RequestContext, user: User) -> dict[str, Any]:
    return {
        "id": _number(context, user.name),
        "username": user.name,
        "firstName": user.name,
        "lastName": user.name,
        "email": f"{user.name}@example.org",
        "enabled": True,
        "verified": True,
        "secured": True,
        "password": None,
        "salt": None,
        "authorization": None,
        "pendingEmail": None,
        "lastModified": None,
        "lastSuccessfulLogin": None,
    }


async def list_users(context: RequestContext) -> web.StreamResponse:
    """List all users (UserListResource), for administrators only where the list of users is restricted."""
    if context.user is GUEST or (context.site.restrict_user_list and not context.user.all_data):
        raise HttpError(403, "Access Denied: Only site managers can access site-level user resources.")
    columns = ("xdat_user_id", "login", "firstname", "lastname", "email")
    rows = [
        (_number(context, name), name, name, name, f"{name}@example.org")
        for name in sorted(context.site.users, key=str.lower)
    ]
    return table(context.requested_format("json"), columns, rows, title="Projects")


async def project_users(context: RequestContext, name: str) -> web.StreamResponse:
    """List the users of a project with their groups (ProjectUserListResource), for those who may edit it."""
    project = context.find_project(name, "read")
    if project is None:
        message = f"The project ID {name} does not appear to be a valid project ID. Please verify your information."
        raise HttpError(404, message)
    if context.site.restrict_user_list and not context.allows(project, "edit"):
        raise HttpError(403, "Access Denied: Only project owners and site managers can access user resources.")
    columns = ("GROUP_ID", "displayname", "login", "firstname", "lastname", "email")
    rows = [
        (f"{project.id}_{group}", shown, one, one, one, f"{one}@example.org")
        for group, shown in _GROUPS
        for one in context.site.users
        if group == _group(project, context.site.users[one])
    ]
    return table(context.requested_format("json"), columns, rows, title="Projects")


def _group(project: Project, user: User) -> str:
    """Return the group that has a user's rights; those of administrators come from no group."""
    if user.all_data:
        return ""
    if not project.allows(user, "edit"):
        return "collaborator" if project.allows(user, "read") else ""
    return "owner" if project.allows(user, "delete") else "member"


async def accessibility(context: RequestContext, name: str, level: str | None = None) -> web.StreamResponse:
    """Return or set who may read a project (ProjectAccessibilityResource): private, protected or public.

    Here a project is public or private. A level that XNAT does not know is a 500 (not read in XNAT's source).
    """
    project = context.find_project(name, "read")
    if project is None:
        raise HttpError(404, f"Could not find the project with ID '{name}'")
    if level is not None:
        if not context.allows(project, "delete"):
            raise HttpError(403)
        if level not in {"private", "protected", "public"}:
            raise HttpError(500)
        project.public = level == "public"
    return text("public" if project.public else "private")
