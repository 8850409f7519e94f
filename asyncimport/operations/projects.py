"""The IDs of the projects that a command names."""

from collections.abc import Awaitable, Callable, Collection, Mapping

from asyncimport.errors import AsyncimportError, ProjectMissingError, ProjectReadOnlyError

ProjectIds = Mapping[str, str | AsyncimportError]
"""The ID of each project, or why it is closed to this user, by the name that it was given."""


async def find_project_ids(names: Collection[str], find: Callable[[str], Awaitable[str]]) -> ProjectIds:
    """Return the ID of each project, or why it is closed.

    Raises: ProjectMissingError, ProjectReadOnlyError when the only project is closed, UnavailableError.
    """
    ids: dict[str, str | AsyncimportError] = {}
    for name in names:
        try:
            ids[name] = await find(name)
        except (ProjectMissingError, ProjectReadOnlyError) as error:
            if len(names) == 1:
                raise
            ids[name] = error
    return ids
