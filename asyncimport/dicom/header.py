"""Identify one file: the fast way, or with pydicom."""

import io
import os
import stat

from asyncimport.dicom.completeness import completeness_problem, find_data_set
from asyncimport.dicom.encoding import PREFIX, begins_dicom, begins_shifted
from asyncimport.dicom.fast_header import MoreBytesNeeded, read_fast_header
from asyncimport.dicom.identity import Identity, NotDicom, TooLarge, Unreadable, make_identity, missing_uid
from asyncimport.dicom.reader import fields_by_pydicom
from asyncimport.dicom.windowed_bytes import InflatedBytes, WindowedFile

# O_NONBLOCK: opening a FIFO without a writer would wait for ever. O_BINARY is for Windows.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# The fields are nearly always within 4 kB; within 128 kB after long private groups and sequences, and within 8 MB after
# a list of 60,000 references.
_HEADS = (4 << 10, 16 << 10, 128 << 10, 1 << 20, 8 << 20)
# A header to put before inflated data: pydicom would inflate them itself, wholly and in memory (PS3.5 A.5).
_PLAIN = bytes(128) + PREFIX + b"\2\0\x10\0UI\x14\0" + b"1.2.840.10008.1.2.1\0"


def identify(path: str | bytes) -> Identity:
    """Identify the file at `path`. It blocks: call it in a worker thread. Raises: NotDicom, Unreadable."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
        try:
            return _identify(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise Unreadable("vanished") from None
    except OSError as error:
        # Only strerror: the full text of the error has the path.
        raise Unreadable((error.strerror or "cannot be read").lower()) from None


def _identify(fd: int) -> Identity:
    status = os.fstat(fd)
    # It was a regular file when the walk met it, and may be a pipe or a directory now.
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file")
    head = b""
    for longest in _HEADS:
        head += os.read(fd, longest - len(head))
        try:
            fast = read_fast_header(head)
            beyond = False
        except MoreBytesNeeded:
            fast = None
            beyond = len(head) == longest
        if fast is not None:
            fields, at, encoding = fast
            file = WindowedFile(fd, status.st_size, head)
            return make_identity(fields, completeness_problem(file, at, encoding, fields.get("SOPClassUID", "")))
        if not begins_dicom(head):
            if begins_shifted(head):
                # XNAT does not read such a file, and files are sent unchanged.
                raise Unreadable("DICM is not at byte 128, where it belongs")
            raise NotDicom("not DICOM" if head else "empty")
        if not beyond:
            break
    return _identify_slowly(WindowedFile(fd, status.st_size, head), prefixed=head[128:132] == PREFIX)


def _identify_slowly(file: WindowedFile, *, prefixed: bool) -> Identity:
    data_set = find_data_set(file)
    fields: dict[str, str] = {}
    reason = ""
    damaged = False
    try:
        if isinstance(data_set.source, InflatedBytes):
            fields = _fields_inflated(data_set.source, prefixed=prefixed)
        else:
            fields = fields_by_pydicom(io.FileIO(file.fd, closefd=False), prefixed=prefixed)
        if missing := missing_uid(fields):
            # If only the class is missing, the study of the other UIDs lacks this file.
            reason, damaged = f"no {missing}", missing == "SOPClassUID"
    except Unreadable as error:
        reason, damaged = error.reason, True
    truncated = completeness_problem(*data_set, fields.get("SOPClassUID", ""))
    if reason:
        # A truncated file lacks fields because it is truncated.
        raise Unreadable(truncated or reason, damaged=damaged or bool(truncated))
    return make_identity(fields, truncated)


def _fields_inflated(source: InflatedBytes, *, prefixed: bool) -> dict[str, str]:
    """Return the fields from the head of the inflated data. Raises: NotDicom, Unreadable."""
    for longest in _HEADS:
        head = source.head(longest)
        try:
            if (fast := read_fast_header(head)) is not None:
                return fast[0]
            break
        except MoreBytesNeeded:
            if len(head) < longest:
                break
    head = source.head(_HEADS[-1])
    fields = fields_by_pydicom(io.BytesIO(_PLAIN + head), prefixed=prefixed)
    if missing_uid(fields) and len(head) == _HEADS[-1]:
        raise TooLarge(f"no UIDs in the first {len(head) >> 20} MiB of the inflated data set")
    return fields
