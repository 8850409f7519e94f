"""Measures what the uploads do between two records of their outcomes."""

from asyncimport.model.activity import Activity


class Meter:
    """Adds up uploads and retries until they are taken."""

    def __init__(self) -> None:
        self._files = self._size = self._retries = 0
        self._busy_seconds = self._slowest_seconds = 0.0

    def record_upload(self, seconds: float, size: int) -> None:
        """Record that a file of `size` bytes was stored."""
        self._files += 1
        self._size += size
        self._busy_seconds += seconds
        self._slowest_seconds = max(self._slowest_seconds, seconds)

    def record_retry(self) -> None:
        """Record that an attempt failed."""
        self._retries += 1

    def take(self, *, failed: int, in_flight: int, allowed: int) -> Activity:
        """Return what was done since the last call."""
        taken = Activity(
            files=self._files,
            size=self._size,
            failed=failed,
            retries=self._retries,
            busy_seconds=self._busy_seconds,
            slowest_seconds=self._slowest_seconds,
            in_flight=in_flight,
            allowed=allowed,
        )
        self._files = self._size = self._retries = 0
        self._busy_seconds = self._slowest_seconds = 0.0
        return taken
