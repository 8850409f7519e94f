"""What pydicom reads of a file: it decides wherever the peek declines."""

import io
import logging
import re
import struct
import warnings
import zlib
from typing import Any

from asyncimport.dicom.identity import FIELDS, NotDicom, Unreadable, missing_uid, tidy
from asyncimport.dicom.peek import CODES, DICOMDIR, LAST, LONGEST_VALUE, PADDING

__all__ = ["fields_by_pydicom"]

_FIRST_DIRECTORY_RECORD, _BEFORE_PIXELS = 0x0004_1200, 0x7FE0_0007
_DOTTED = re.compile(r"[0-9]+(\.[0-9]+)+")


def fields_by_pydicom(fd: int, *, prefixed: bool) -> dict[str, str]:
    """Give the fields of an instance by pydicom; a UID may be missing. Raises: NotDicom, Unreadable."""
    _silence_pydicom()
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        fields = _fields(fd, LAST)
        if missing_uid(fields):
            fields = _fields(fd, _BEFORE_PIXELS)  # perhaps its tags do not ascend
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
        raise Unreadable("cannot be parsed") from None
    names_itself = any(_DOTTED.fullmatch(fields.get(uid, "")) for uid in ("SOPClassUID", "SOPInstanceUID"))
    if missing_uid(fields) and not prefixed and not names_itself:
        raise NotDicom("not DICOM")
    return fields


def _fields(fd: int, last: int) -> dict[str, str]:
    """Read fields up to the tag `last`: what follows may be long, or damaged, and is not needed."""
    from pydicom.charset import decode_bytes, default_encoding
    from pydicom.filereader import read_partial
    from pydicom.valuerep import TEXT_VR_DELIMS

    file = io.FileIO(fd, closefd=False)
    file.name = ""  # pydicom joins it to other texts, which a file's number is none of
    file.seek(0)
    with io.BufferedReader(file) as stream:
        tags = [*FIELDS.values(), _FIRST_DIRECTORY_RECORD]
        header = read_partial(stream, lambda tag, *_: tag > last, LONGEST_VALUE, force=True, specific_tags=tags)
    if _FIRST_DIRECTORY_RECORD in header or header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR:
        raise NotDicom("DICOMDIR")
    charset = header.original_character_set
    encodings = [charset] if isinstance(charset, str) else list(charset)
    fields = {}
    for keyword, tag in FIELDS.items():
        # The raw value: converting it could fail on a number or a date that has nothing to do with identity.
        element = header.get_item(tag, keep_deferred=True)
        raw = getattr(element, "value", None)
        # A value that the end of the file has cut, a UID above all, would be another's.
        if isinstance(raw, bytes) and len(raw) >= getattr(element, "length", 0):
            codecs = [default_encoding] if keyword in CODES else encodings
            text = tidy(keyword, decode_bytes(raw, codecs, TEXT_VR_DELIMS).strip(PADDING))
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
