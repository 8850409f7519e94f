"""The part of a journal that is of one project, where a template sends studies into several."""

import sqlite3

__all__ = ["restrict", "widen"]

# Names are looked up among the temporary ones first, so that whoever reads a table reads its part.
_VIEWS = {
    "session": "project = (SELECT project FROM temp.part)",
    "delivery": "session IN (SELECT key FROM temp.session)",
    "instance": "session IN (SELECT key FROM temp.session)",
    "attachment": "session IN (SELECT key FROM temp.session)",
    "file": "instance IN (SELECT key FROM temp.instance) OR lacked_by IN (SELECT key FROM temp.session) "
    "OR key IN (SELECT file FROM temp.instance UNION SELECT file FROM temp.attachment)",
    "described": "project = (SELECT project FROM temp.part)",
}


def restrict(connection: sqlite3.Connection, project: str) -> None:
    """Let a connection see no more than what is of one project, until `widen`; nothing can be changed meanwhile."""
    connection.execute("CREATE TEMP TABLE part (project TEXT)")
    connection.execute("INSERT INTO part VALUES (?)", (project,))
    for name, condition in _VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} WHERE {condition}")  # noqa: S608 - fixed text


def widen(connection: sqlite3.Connection) -> None:
    """Let it see everything again."""
    for name in _VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS temp.{name}")
