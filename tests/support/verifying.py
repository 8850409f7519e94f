"""Compares the archive with a journal, as `verify` does."""

from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
from builders import AT_ONCE, logged_in

from asyncimport.journal import JournalReader
from asyncimport.operations.comparison import SessionFinding, compare_sessions


async def compare(url: str, book: Path, kind: type[JournalReader] = JournalReader) -> Sequence[SessionFinding]:
    """Return what `verify` finds of each session."""
    reading = kind.open(book)
    reader = await anyio.to_thread.run_sync(reading.__enter__)
    try:
        async with logged_in(url) as client:
            return await compare_sessions(client, reader, AT_ONCE)
    finally:
        await anyio.to_thread.run_sync(reading.__exit__, None, None, None)
