"""What pydicom reads of a file: it decides wherever the peek declines.

It trusts every length and reads every item, and has no bounds of its own; `_Bounded` sets them.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from time import thread_time
from typing import Any, cast

from asyncimport.dicom.fast_header import CODES, DICOMDIR, LAST, LONGEST_VALUE, PADDING
from asyncimport.dicom.identity import FIELDS, NotDicom, TooLarge, Unreadable, missing_uid, strip_padding

_FIRST_DIRECTORY_RECORD, _BEFORE_PIXELS = 0x0004_1200, 0x7FE0_0007
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)+")

# An item takes pydicom three reads or more, 20 us and 1.5 kB: this is two seconds and 100 MB.
_MOST_READS = 250_000
_MOST_BYTES = 16 << 20
_LONGEST_READ = 8 << 10  # in which pydicom looks for the end of values without length
# Should anything take long that is not foreseen here: seconds of the thread, so that a busy machine changes nothing.
_MOST_SECONDS = 20
_MOST_CHARSETS = 16
_MOST_ESCAPES = 4_000  # each costs 50 us, as pydicom warns of those that it does not know


class _Bounded(io.BufferedReader):
    """A file for pydicom, of which it can read so much, and in so many pieces.

    Of a long value it gets the beginning: what we want of these is read with `whole`. pydicom makes another error of
    any that is raised here, so `exceeded` keeps what it was.
    """

    name = ""  # pydicom joins it to other texts, which a file's number is none of

    def __init__(self, raw: io.RawIOBase | io.BytesIO) -> None:
        super().__init__(cast("io.RawIOBase", raw))
        self._reads = _MOST_READS
        self._bytes = _MOST_BYTES
        self._end = thread_time() + _MOST_SECONDS
        self.exceeded: TooLarge | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read as a file does, within the bounds."""
        if size is None or size < 0:
            raise ValueError("the rest of the file is wanted")  # by pydicom, to inflate it
        self._reads -= 1
        self._bytes -= min(size, _LONGEST_READ)
        if self._reads < 0 or self._bytes < 0:
            self.exceeded = TooLarge("the header has too many elements to look through")
        elif thread_time() > self._end:
            self.exceeded = TooLarge(f"the header takes more than {_MOST_SECONDS} s to read")
        if self.exceeded is not None:
            raise self.exceeded
        content = super().read(min(size, _LONGEST_READ))
        if size > _LONGEST_READ:
            self.seek(size - _LONGEST_READ, io.SEEK_CUR)
        return content

    def whole(self, position: int, size: int) -> bytes:
        """Read a value of a size that is known to be small enough."""
        self.seek(position)
        return super().read(size)


def fields_by_pydicom(raw: io.RawIOBase | io.BytesIO, *, prefixed: bool) -> dict[str, str]:
    """Give the fields of an instance by pydicom; a UID may be missing. Raises: NotDicom, Unreadable."""
    _silence_pydicom()
    from pydicom.errors import BytesLengthException, InvalidDicomError

    file = _Bounded(raw)
    try:
        fields = _fields(file, LAST)
        if missing_uid(fields):
            fields = _fields(file, _BEFORE_PIXELS)  # perhaps its tags do not ascend
    # Damaged bytes make pydicom raise nearly anything: its readers index, convert and look up unchecked. And
    # someone may turn its warnings into errors at this very moment.
    except (
        *(InvalidDicomError, BytesLengthException, NotImplementedError, EOFError, RecursionError, Warning),
        *(
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            struct.error,
            zlib.error,
            OSError,
        ),
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not pydicom's
        if file.exceeded is not None:
            raise file.exceeded from None
        raise Unreadable("cannot be parsed") from None
    finally:
        file.detach()
    names_itself = any(_DOTTED.fullmatch(fields.get(uid, "")) for uid in ("SOPClassUID", "SOPInstanceUID"))
    if missing_uid(fields) and not prefixed and not names_itself:
        raise NotDicom("not DICOM")
    return fields


def _fields(file: _Bounded, last: int) -> dict[str, str]:
    """Read fields up to the tag `last`: what follows may be long, or damaged, and is not needed."""
    from pydicom.charset import decode_bytes, default_encoding
    from pydicom.filereader import read_partial
    from pydicom.valuerep import TEXT_VR_DELIMS

    file.seek(0)
    tags = [*FIELDS.values(), _FIRST_DIRECTORY_RECORD]
    header = read_partial(file, lambda tag, *_: tag > last, _LONGEST_READ, force=True, specific_tags=tags)
    if _FIRST_DIRECTORY_RECORD in header or header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR:
        raise NotDicom("DICOMDIR")
    charset = header.original_character_set
    encodings = [charset] if isinstance(charset, str) else list(charset[:_MOST_CHARSETS])
    fields = {}
    escapes = 0
    for keyword, tag in FIELDS.items():
        # The raw value: converting it could fail on a number or a date that has nothing to do with identity.
        element = header.get_item(tag, keep_deferred=True)
        raw, length = getattr(element, "value", None), getattr(element, "length", 0)
        if raw is None and _LONGEST_READ < length <= LONGEST_VALUE:
            raw = file.whole(getattr(element, "value_tell", 0), length)
        # A value that the end of the file has cut, a UID above all, would be another's.
        if isinstance(raw, bytes) and len(raw) >= length:
            escapes += raw.count(b"\x1b")
            if escapes > _MOST_ESCAPES:
                raise TooLarge(f"its texts change the character set more than {_MOST_ESCAPES:,} times")
            codecs = [default_encoding] if keyword in CODES else encodings
            text = strip_padding(keyword, decode_bytes(raw, codecs, TEXT_VR_DELIMS).strip(PADDING))
            if text:
                fields[keyword] = text
    return fields


_SILENCE: Any = ("ignore", None, Warning, re.compile(r"pydicom\b"), 0)


def _silence_pydicom() -> None:
    """Keep pydicom, which puts raw values into its warnings and its log, from saying anything.

    `warnings.catch_warnings` is not safe in threads, so this is a filter for the whole process; as others may
    put theirs before it later, it is looked after each time.
    """
    logging.getLogger("pydicom").disabled = True
    if not warnings.filters or warnings.filters[0] != _SILENCE:
        warnings.filterwarnings("ignore", module=_SILENCE[3].pattern)
