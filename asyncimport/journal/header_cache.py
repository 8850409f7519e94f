"""The headers that a scan has read, on disk: plans use them, and the next plan reads only changed files."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Self

from asyncimport.dicom import STUDY_FIELDS, Identity
from asyncimport.journal.database import (
    BUSY_SECONDS,
    LockWait,
    is_busy,
    journal_errors,
    locked,
    make_private,
    read_script,
    transaction,
)
from asyncimport.journal.rows import Header, NonInstance, RecentStudies, StudySummary, columns_of, is_same_file
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.system.output_files import real_path

# "aims".
_APPLICATION_ID = 0x61696D73
_VARIANTS_REMEMBERED = 2_000
# Later times are in the future: clocks of file servers differ a little.
_CLOCK_SKEW_SECONDS = 60.0
# A study unchanged for this long is no longer written, by whatever clock.
_OLD_SECONDS = 86_400.0
# Fewer files than this many bits can count are below one place.
_RANK_SHIFT = 40


class HeaderCache:
    """The headers of one scan, in a locked file. Use it as a context manager. Raises from every method: JournalError.

    `reuse_scan` returns the last scan once more. A file of another version, or a damaged one, is replaced.
    """

    def __init__(self, path: Path, lock_wait: LockWait | None = None, *, reuse_scan: bool = False) -> None:
        self.path = path
        self._lock_wait = lock_wait or LockWait()
        self._lock = locked(path)
        try:
            with journal_errors(path):
                self._db = self._lock_wait.until_free(path, partial(_open, real_path(path)))
                (last,) = self._db.execute("SELECT coalesce(max(scan), 0) FROM file").fetchone()
        except BaseException:
            self._lock.release()
            raise
        self._scan = last if reuse_scan else last + 1
        self._files_seen = 0
        self._places: dict[str, int] = {}
        self._variants: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        self._lock.release()

    def skip_known(self, files: Sequence[File], places: Sequence[str] = ()) -> list[File]:
        """Skip the files that are known, sound and unchanged; return those to be read.

        What is below the first of `places` comes first: several are walked at once by workers, one of which is faster.
        """
        unknown = []
        with self._transaction():
            for number, file in enumerate(files, self._files_seen):
                place = (_rank(file.path, places) << _RANK_SHIFT) + number
                row = self._db.execute(
                    "SELECT kind, size, mtime_ns, inode, ctime_ns FROM file WHERE path = ?", (os.fsencode(file.path),)
                ).fetchone()
                # An unreadable file may be readable now.
                if row is None or row[0] == FileKind.UNREADABLE or not is_same_file(row[1:], file):
                    unknown.append(file)
                    # A file that comes twice keeps its first position, also while that is read.
                    self._places.setdefault(file.path, place)
                    continue
                self._db.execute(
                    # Overlapping sources give a file twice.
                    "UPDATE file SET position = iif(scan = ?1, position, ?2), scan = ?1 WHERE path = ?3",
                    (self._scan, place, os.fsencode(file.path)),
                )
        self._files_seen += len(files)
        return unknown

    def identities(self, files: Sequence[File]) -> dict[str, Identity]:
        """Return the identities (study fields and modality) that the scan has read of unchanged instances, by path."""
        found: dict[str, Identity] = {}
        variants: dict[str, dict[str, str]] = {}
        with journal_errors(self.path):
            for file in files:
                row = self._db.execute(
                    "SELECT f.size, f.mtime_ns, f.inode, f.ctime_ns, f.sop_uid, v.study_uid, f.series_uid, f.modality, "
                    "v.fields, f.reason FROM file f JOIN variant v ON v.key = f.variant "
                    "WHERE f.path = ? AND f.scan = ?",
                    (os.fsencode(file.path), self._scan),
                ).fetchone()
                if row is None or not is_same_file(row[:4], file):
                    continue
                sop_uid, study_uid, series_uid, modality, text, truncated = row[4:]
                fields = variants.get(text) or variants.setdefault(text, json.loads(text))
                fields = {**fields, "Modality": modality} if modality else fields
                found[file.path] = Identity(sop_uid, study_uid, series_uid, fields, truncated)
        return found

    def record(self, found: Sequence[tuple[File, Identity] | Ignored]) -> None:
        """Record what files are: those of a batch that `skip_known` returned. Others may have been asked for since."""
        with self._transaction():
            for item in found:
                if isinstance(item, Ignored):
                    file = item.file
                    what: tuple[object, ...] = (item.kind, item.reason, None, None, None, None, None)
                else:
                    file, identity = item
                    what = (
                        *(FileKind.INSTANCE, identity.truncated, identity.sop_uid, identity.series_uid),
                        *(identity.fields.get("Modality", ""), identity.fields.get("SeriesDescription", "")),
                        self._variant(identity),
                    )
                size, mtime_ns, inode, ctime_ns = columns_of(file)
                path, place = os.fsencode(file.path), self._places.get(file.path, self._files_seen)
                self._db.execute(
                    "INSERT OR REPLACE INTO file VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, "
                    "coalesce((SELECT position FROM file WHERE path = ?1 AND scan = ?11), ?14))",
                    (path, size, mtime_ns, *what, self._scan, inode, ctime_ns, place),
                )
        for item in found:
            self._places.pop((item.file if isinstance(item, Ignored) else item[0]).path, None)

    def headers(
        self, *, truncated: bool = False, by_directory: bool = False, by_file: bool = False
    ) -> Iterator[Header]:
        """Yield the headers of every study that this scan has met, equal ones once, or for each directory or file."""
        condition = "" if truncated else "AND f.reason = ''"
        place = ", f.path" if by_file else ", directory(f.path)" if by_directory else ""
        with journal_errors(self.path):
            rows = self._db.execute(
                "SELECT v.study_uid, v.fields, f.modality, min(f.path) FROM file f JOIN variant v ON v.key = f.variant "  # noqa: S608 - fixed text
                f"WHERE f.scan = ? {condition} GROUP BY f.variant, f.modality{place} ORDER BY 1, 2, 3, 4",
                (self._scan,),
            )
            last, known = None, {}
            for study_uid, text, modality, path in rows:
                if (text, modality) != last:
                    last, known = (text, modality), {**json.loads(text), "Modality": modality}
                yield Header(study_uid, known, os.fsdecode(path))

    def studies(
        self, *, truncated: bool = False, is_asked: Callable[[Mapping[str, str], str], bool] | None = None
    ) -> Iterator[StudySummary]:
        """Yield the studies of this scan by UID, from files that are whole or `truncated`, and `is_asked` about."""
        condition = self._file_condition(truncated=truncated, is_asked=is_asked)
        with journal_errors(self.path):
            copies, twins = self._copies(condition)
            rows = self._db.execute(
                "SELECT v.study_uid, json_group_array(DISTINCT f.modality), count(DISTINCT f.series_uid), "  # noqa: S608 - fixed text
                "count(DISTINCT f.sop_uid), sum(f.size), min(f.path), max(f.path), min(f.position) "
                f"FROM file f JOIN variant v ON v.key = f.variant WHERE f.scan = ? {condition} GROUP BY v.study_uid",
                (self._scan,),
            )
            for study_uid, modalities, series, files, size, first, last, position in rows:
                types = tuple(sorted(filter(None, json.loads(modalities))))
                directory = os.fsdecode(os.path.commonpath([os.path.dirname(first), os.path.dirname(last)]))  # noqa: PTH120 - bytes
                again = tuple(copies.get(study_uid, ())), tuple(twins.get(study_uid, ()))
                yield StudySummary(
                    study_uid, types, series, files, size, directory, os.fsdecode(first), *again, position
                )

    def _file_condition(self, *, truncated: bool, is_asked: Callable[[Mapping[str, str], str], bool] | None) -> str:
        is_whole = "" if truncated else "AND f.reason = ''"
        if is_asked is None:
            return is_whole

        def counts(fields: str, modality: str, path: bytes) -> bool:
            return is_asked({**json.loads(fields), "Modality": modality}, os.fsdecode(path))

        self._db.create_function("asked", 3, counts)
        return f"{is_whole} AND asked(v.fields, f.modality, f.path)"

    def recent_studies(self, now: float, min_age: float) -> RecentStudies:
        """Return the studies that may still be written, and remember the state of all studies.

        A study is not recent if none of its files has changed for `min_age` seconds, by mtime and ctime (which a copy
        that keeps times does not set), nor an unreadable file in the same directories. As not all clocks and file
        systems show changes, it must also have looked the same that long ago, unless it is older than a day. `now` is
        in seconds since 1970; times in the future do not count.
        """
        waiting: dict[str, str] = {}
        dated_ahead: dict[str, int] = {}
        present_ns = int((now + _CLOCK_SKEW_SECONDS) * 1e9)
        with self._transaction():
            near_changed = self._studies_near_changed_files(now - min_age, present_ns)
            known = {
                study_uid: (state, since)
                for study_uid, state, since in self._db.execute("SELECT * FROM study_state").fetchall()
            }
            self._db.execute("DELETE FROM study_state")
            for study_uid, files, size, mtime, ctime, changed_ns, ahead in self._db.execute(
                "WITH f AS (SELECT v.study_uid, f.size, CAST(f.mtime_ns AS INTEGER) AS m, coalesce(f.ctime_ns, 0) AS c "
                "FROM file f JOIN variant v ON v.key = f.variant WHERE f.scan = ?1) "
                "SELECT study_uid, count(*), sum(size), max(m), max(c), "
                "max(max(iif(m <= ?2, m, 0), iif(c <= ?2, c, 0))), sum(m > ?2 OR c > ?2) FROM f GROUP BY study_uid",
                (self._scan, present_ns),
            ).fetchall():
                state = f"{files} {size} {mtime} {ctime}"
                before, since = known.get(study_uid, ("", now))
                # A clock that was ahead must not prolong the wait.
                since = min(since, now) if before == state else now
                self._db.execute("INSERT INTO study_state VALUES (?, ?, ?)", (study_uid, state, since))
                changed = changed_ns / 1e9
                if ahead:
                    dated_ahead[study_uid] = ahead
                if changed > now - min_age:
                    waiting[study_uid] = "a file of it has just changed"
                elif study_uid in near_changed:
                    waiting[study_uid] = "an unreadable file in its directory has just changed"
                elif now - since < min_age and (ahead or changed > now - _OLD_SECONDS):
                    waiting[study_uid] = "it has not been seen unchanged for long enough"
        return RecentStudies(waiting, dated_ahead)

    def _studies_near_changed_files(self, since: float, present_ns: int) -> set[str]:
        """Return the studies with an unreadable file in one of their directories that has changed since a time."""
        directories = {
            directory
            for (directory,) in self._db.execute(
                "WITH f AS (SELECT path, CAST(mtime_ns AS INTEGER) AS m, coalesce(ctime_ns, 0) AS c FROM file "
                "WHERE scan = ?1 AND kind = 'UNREADABLE') "
                "SELECT DISTINCT directory(path) FROM f WHERE max(iif(m <= ?2, m, 0), iif(c <= ?2, c, 0)) > ?3",
                (self._scan, present_ns, int(since * 1e9)),
            )
        }
        if not directories:
            return set()
        rows = self._db.execute(
            "SELECT DISTINCT v.study_uid, directory(f.path) FROM file f JOIN variant v ON v.key = f.variant "
            "WHERE f.scan = ?",
            (self._scan,),
        )
        return {study_uid for study_uid, directory in rows if directory in directories}

    def series(self, *, truncated: bool = False) -> dict[str, list[tuple[str, int]]]:
        """Return the SeriesDescription of each series, and the number of its files, by study."""
        condition = "" if truncated else "AND f.reason = ''"
        found: dict[str, list[tuple[str, int]]] = {}
        with journal_errors(self.path):
            for study_uid, description, files in self._db.execute(
                "SELECT v.study_uid, min(f.description), count(DISTINCT f.sop_uid) FROM file f "  # noqa: S608 - fixed text
                f"JOIN variant v ON v.key = f.variant WHERE f.scan = ? {condition} GROUP BY v.study_uid, f.series_uid",
                (self._scan,),
            ):
                found.setdefault(study_uid, []).append((description, files))
        return found

    def _copies(self, condition: str) -> tuple[dict[str, list[tuple[str, ...]]], dict[str, list[tuple[str, ...]]]]:
        """Return the paths of files of one instance, by study: those of one size, and those of different sizes."""
        copies: dict[str, list[tuple[str, ...]]] = {}
        twins: dict[str, list[tuple[str, ...]]] = {}
        for study_uid, sizes, paths in self._db.execute(
            "SELECT v.study_uid, count(DISTINCT f.size), json_group_array(hex(f.path)) "  # noqa: S608 - fixed text
            f"FROM file f JOIN variant v ON v.key = f.variant WHERE f.scan = ? {condition} "
            "GROUP BY v.study_uid, f.sop_uid HAVING count(*) > 1",
            (self._scan,),
        ):
            raw = sorted(map(bytes.fromhex, json.loads(paths)))
            (copies if sizes == 1 else twins).setdefault(study_uid, []).append(tuple(map(os.fsdecode, raw)))
        return copies, twins

    def non_instances(self, *, truncated: bool = False) -> list[NonInstance]:
        """Return the other files of this scan, by kind and reason, with truncated files unless they count."""
        with journal_errors(self.path):
            rows = self._db.execute(
                "SELECT iif(reason <> '' AND variant IS NOT NULL, 'UNREADABLE', kind), reason, count(*), min(path) "
                "FROM file WHERE scan = ? AND (variant IS NULL OR (reason <> '' AND NOT ?)) "
                "GROUP BY 1, 2 ORDER BY 1, 2",
                (self._scan, truncated),
            ).fetchall()
        return [NonInstance(FileKind(kind), reason, count, os.fsdecode(path)) for kind, reason, count, path in rows]

    def other_kinds(self, kind_of: Callable[[str], str | None]) -> list[tuple[str, int]]:
        """Count files that are not DICOM by the kind that `kind_of` gives their path, most frequent first."""
        counts: Counter[str] = Counter()
        with journal_errors(self.path):
            for (path,) in self._db.execute(
                "SELECT path FROM file WHERE scan = ? AND kind = ?", (self._scan, FileKind.NOT_DICOM)
            ):
                if (kind := kind_of(os.fsdecode(path))) is not None:
                    counts[kind] += 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def _variant(self, identity: Identity) -> int:
        fields = {name: identity.fields[name] for name in STUDY_FIELDS if identity.fields.get(name)}
        text = json.dumps(fields, sort_keys=True)
        known = self._variants.get((identity.study_uid, text))
        if known is None:
            values = (identity.study_uid, text)
            self._db.execute("INSERT OR IGNORE INTO variant (study_uid, fields) VALUES (?, ?)", values)
            (known,) = self._db.execute("SELECT key FROM variant WHERE study_uid = ? AND fields = ?", values).fetchone()
            if len(self._variants) >= _VARIANTS_REMEMBERED:
                self._variants.clear()
            self._variants[identity.study_uid, text] = int(known)
        return int(known)

    def _transaction(self) -> AbstractContextManager[None]:
        return transaction(self._db, self.path, self._lock_wait)


def _open(path: Path) -> sqlite3.Connection:
    for again in (False, True):
        make_private(path)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
        try:
            connection.create_function("directory", 1, _directory, deterministic=True)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -16000")
            if connection.execute("PRAGMA page_count").fetchone() == (0,) or again:
                mark = f"PRAGMA application_id = {_APPLICATION_ID};"
                connection.executescript(f"BEGIN; {read_script('header_cache.sql')} {mark} COMMIT;")
                return connection
            if connection.execute("PRAGMA application_id").fetchone() == (_APPLICATION_ID,):
                connection.execute("SELECT scan, description, ctime_ns, position FROM file LIMIT 1").fetchone()
                connection.execute("SELECT state, since FROM study_state LIMIT 1").fetchone()
                return connection
        except sqlite3.DatabaseError as error:
            if again or is_busy(error):
                connection.close()
                raise
        connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _rank(path: str, places: Sequence[str]) -> int:
    """Return the number of the first place that a path is below."""
    if len(places) > 1:
        for rank, place in enumerate(places):
            if path == place or path.startswith(os.path.join(place, "")):  # noqa: PTH118 - compared as text
                return rank
    return 0


def _directory(path: bytes) -> bytes:
    return os.path.dirname(path)  # noqa: PTH120 - bytes
