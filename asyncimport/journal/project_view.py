"""The part of a journal that belongs to one project, where a template sends studies into several."""

import sqlite3

# SQLite looks names up among temporary tables first, so every query sees only this part.
_VIEWS = {
    "session": "project = (SELECT project FROM temp.shown_project)",
    "delivery": "session IN (SELECT key FROM temp.session)",
    "instance": "session IN (SELECT key FROM temp.session)",
    "attachment": "session IN (SELECT key FROM temp.session)",
    "file": "instance IN (SELECT key FROM temp.instance) OR missing_from IN (SELECT key FROM temp.session) "
    "OR key IN (SELECT file FROM temp.instance UNION SELECT file FROM temp.attachment)",
    "subject_demographics": "project = (SELECT project FROM temp.shown_project)",
}


def show_only_project(connection: sqlite3.Connection, project: str) -> None:
    """Let a connection see only one project, read-only, until `show_all_projects`."""
    connection.execute("CREATE TEMP TABLE shown_project (project TEXT)")
    connection.execute("INSERT INTO shown_project VALUES (?)", (project,))
    for name, condition in _VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} WHERE {condition}")  # noqa: S608 - fixed text


def show_all_projects(connection: sqlite3.Connection) -> None:
    """Let a connection see everything again."""
    for name in _VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS temp.{name}")
