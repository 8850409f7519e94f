"""The look into a file."""

import os
import stat
import zlib
from collections.abc import Mapping

from asyncimport.dicom.beginning import begins_dicom
from asyncimport.dicom.encoding import PREFIX
from asyncimport.dicom.ending import data_set_of, shortfall
from asyncimport.dicom.identity import Identity, NotDicom, Unreadable, identity, missing_uid
from asyncimport.dicom.peek import peek
from asyncimport.dicom.reader import fields_by_pydicom
from asyncimport.dicom.source import Bytes, File, Inflated

__all__ = ["identify"]

# O_NONBLOCK, because opening a FIFO without a writer would wait for ever; O_BINARY is Windows'.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# What we want lies within 4 kB nearly always, and within 128 kB behind long private groups and sequences.
_HEADS = (4 << 10, 16 << 10, 128 << 10)


def identify(path: str | bytes) -> Identity:
    """Identify the file at `path`, or raise NotDicom or Unreadable. It blocks: call it in a worker thread."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
        try:
            return _identify(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise Unreadable("vanished") from None
    except OSError as error:
        # strerror alone: the whole text of the error holds the path.
        raise Unreadable((error.strerror or "cannot be read").lower()) from None


def _identify(fd: int) -> Identity:
    status = os.fstat(fd)
    # The walk passes only regular files on, but what was one then may be a pipe or a directory now.
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file")
    head = b""
    for longest in _HEADS:
        head += os.read(fd, longest - len(head))
        if (peeked := peek(head)) is not None:
            fields, at, encoding = peeked
            file = File(fd, status.st_size, head)
            return identity(fields, shortfall(file, at, encoding, fields.get("SOPClassUID", "")))
        if not begins_dicom(head):
            raise NotDicom("not DICOM" if head else "empty")
        if len(head) < longest:
            break
    return _identify_slowly(File(fd, status.st_size, head), prefixed=head[128:132] == PREFIX)


def _identify_slowly(file: File, *, prefixed: bool) -> Identity:
    data_set = data_set_of(file)
    fields: Mapping[str, str] = {}
    reason = ""
    damaged = False
    try:
        fields = _peek_inflated(data_set.source) or fields_by_pydicom(file.fd, prefixed=prefixed)
        if missing := missing_uid(fields):
            reason = f"no {missing}"
    except Unreadable as error:
        reason, damaged = error.reason, True
    truncated = shortfall(*data_set, fields.get("SOPClassUID", ""))
    if reason:
        # What is missing from a file that was cut is missing because it was cut.
        raise Unreadable(f"truncated: {truncated}" if truncated else reason, damaged=damaged or bool(truncated))
    return identity(fields, truncated)


def _peek_inflated(source: Bytes) -> Mapping[str, str] | None:
    try:
        peeked = peek(source.at(0, _HEADS[0])) if isinstance(source, Inflated) else None
    except zlib.error:
        return None
    return peeked and peeked[0]
