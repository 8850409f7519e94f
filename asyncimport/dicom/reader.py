"""Read a header with pydicom, which decides whatever the fast reader does not.

pydicom trusts every length, reads every item and has no limits; `_BoundedReader` sets them.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from time import thread_time
from typing import Any, cast

from asyncimport.dicom.fast_header import ASCII_FIELDS, DICOMDIR, LAST_TAG, MAX_VALUE_BYTES, PADDING
from asyncimport.dicom.identity import FIELDS, NotDicom, TooLarge, Unreadable, missing_uid, strip_padding

_FIRST_DIRECTORY_RECORD, _BEFORE_PIXELS = 0x0004_1200, 0x7FE0_0007
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)+")

# An item takes pydicom at least three reads, 20 us and 1.5 kB: this is two seconds and 100 MB.
_MAX_READS = 250_000
_MAX_BYTES = 16 << 20
_MAX_READ_BYTES = 8 << 10  # in pieces of this size pydicom looks for the end of values without length
# A limit for what the others do not catch. It counts seconds of the thread, so a busy machine changes nothing.
_MAX_SECONDS = 20
_MAX_CHARSETS = 16
_MAX_ESCAPES = 4_000  # each costs 50 us: pydicom warns of unknown ones


class _BoundedReader(io.BufferedReader):
    """A file for pydicom, with limits; pydicom replaces an error raised here by its own, so `exceeded` keeps it."""

    name = ""  # pydicom appends it to texts, and a file's number is no text

    def __init__(self, raw: io.RawIOBase | io.BytesIO) -> None:
        super().__init__(cast("io.RawIOBase", raw))
        self._reads = _MAX_READS
        self._bytes = _MAX_BYTES
        self._end = thread_time() + _MAX_SECONDS
        self.exceeded: TooLarge | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read as a file does, within the limits."""
        if size is None or size < 0:
            raise ValueError("the rest of the file is wanted")  # pydicom asks for it, to inflate it
        self._reads -= 1
        self._bytes -= min(size, _MAX_READ_BYTES)
        if self._reads < 0 or self._bytes < 0:
            self.exceeded = TooLarge("the header has too many elements to look through")
        elif thread_time() > self._end:
            self.exceeded = TooLarge(f"the header takes more than {_MAX_SECONDS} s to read")
        if self.exceeded is not None:
            raise self.exceeded
        content = super().read(min(size, _MAX_READ_BYTES))
        if size > _MAX_READ_BYTES:
            self.seek(size - _MAX_READ_BYTES, io.SEEK_CUR)
        return content

    def read_whole(self, position: int, size: int) -> bytes:
        """Read a value of a size that is known to be small enough."""
        self.seek(position)
        return super().read(size)


def fields_by_pydicom(raw: io.RawIOBase | io.BytesIO, *, prefixed: bool) -> dict[str, str]:
    """Return the fields that pydicom reads; a UID may be missing. Raises: NotDicom, Unreadable."""
    _silence_pydicom()
    from pydicom.errors import BytesLengthException, InvalidDicomError

    file = _BoundedReader(raw)
    try:
        fields = _fields(file, LAST_TAG)
        if missing_uid(fields):
            fields = _fields(file, _BEFORE_PIXELS)  # perhaps its tags do not ascend
    # pydicom indexes, converts and looks up unchecked, so damaged bytes raise nearly anything. Other code may turn its
    # warnings into errors at any moment.
    except (
        *(InvalidDicomError, BytesLengthException, NotImplementedError, EOFError, RecursionError, Warning),
        *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error, zlib.error, OSError),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # raised by the system, not by pydicom
        if file.exceeded is not None:
            raise file.exceeded from None
        raise Unreadable("cannot be parsed") from None
    finally:
        file.detach()
    names_itself = any(_DOTTED.fullmatch(fields.get(uid, "")) for uid in ("SOPClassUID", "SOPInstanceUID"))
    if missing_uid(fields) and not prefixed and not names_itself:
        raise NotDicom("not DICOM")
    return fields


def _fields(file: _BoundedReader, last: int) -> dict[str, str]:
    """Read fields up to the tag `last`: what follows may be long or damaged, and is not needed."""
    from pydicom.charset import decode_bytes, default_encoding
    from pydicom.filereader import read_partial
    from pydicom.valuerep import TEXT_VR_DELIMS

    file.seek(0)
    tags = [*FIELDS.values(), _FIRST_DIRECTORY_RECORD]
    header = read_partial(file, lambda tag, *_: tag > last, _MAX_READ_BYTES, force=True, specific_tags=tags)
    if _FIRST_DIRECTORY_RECORD in header or header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR:
        raise NotDicom("DICOMDIR")
    charset = header.original_character_set
    encodings = [charset] if isinstance(charset, str) else list(charset[:_MAX_CHARSETS])
    fields = {}
    escapes = 0
    for keyword, tag in FIELDS.items():
        # The raw value: converting could fail on a number or a date.
        element = header.get_item(tag, keep_deferred=True)
        raw, length = getattr(element, "value", None), getattr(element, "length", 0)
        if raw is None and _MAX_READ_BYTES < length <= MAX_VALUE_BYTES:
            raw = file.read_whole(getattr(element, "value_tell", 0), length)
        # A value cut by the end of the file, a UID above all, would be another one.
        if isinstance(raw, bytes) and len(raw) >= length:
            escapes += raw.count(b"\x1b")
            if escapes > _MAX_ESCAPES:
                raise TooLarge(f"its texts change the character set more than {_MAX_ESCAPES:,} times")
            codecs = [default_encoding] if keyword in ASCII_FIELDS else encodings
            text = strip_padding(keyword, decode_bytes(raw, codecs, TEXT_VR_DELIMS).strip(PADDING))
            if text:
                fields[keyword] = text
    return fields


_SILENCE: Any = ("ignore", None, Warning, re.compile(r"pydicom\b"), 0)


def _silence_pydicom() -> None:
    """Silence pydicom's raw values in warnings and log, in all threads, again whenever others add filters."""
    logging.getLogger("pydicom").disabled = True
    if not warnings.filters or warnings.filters[0] != _SILENCE:
        warnings.filterwarnings("ignore", module=_SILENCE[3].pattern)
