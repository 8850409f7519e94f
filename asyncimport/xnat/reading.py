"""How much of an answer is read, and how slowly it may come: whoever answers may be anybody.

| what                | bytes, unpacked | why                                                                       |
|---------------------|-----------------|---------------------------------------------------------------------------|
| an answer (ANSWER)  | 1 MiB           | an import, a build, a PUT, a login is answered with an address or a text   |
| a listing (LISTING) | 256 MiB         | the catalog of 400,000 instances has 140 MB                               |
| a file (FILE)       | 64 GiB          | a row of the prearchive, as a zip                                         |
| an error, a page    | 64 KiB          | status, heading and address of the form are at its beginning; none fails  |
| headers             | 1 MB            | aiohttp's own bounds: 128 of 8 kB                                         |

An answer and a listing have to be there within the time-out of the call, whatever comes of them before. A file may go
on for as long as it makes progress, and comes at 16 KiB a second at least.
"""

import zlib
from collections.abc import AsyncIterator

import aiohttp
import anyio.lowlevel

from asyncimport.errors import RefusedError, TransientError
from asyncimport.xnat.replies.response import Reply, check_truncated

ANSWER = 1 << 20
LISTING = 256 << 20
FILE = 64 << 30
SLOWEST = 16 << 10
"""Bytes a second."""
_BEGINNING = 64 << 10
_PIECE = 256 << 10
# Either form of what HTTP calls gzip and deflate, by its first bytes.
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})
_EITHER = zlib.MAX_WBITS | 32

ACCEPTED = {"Accept-Encoding": "gzip"}
"""What a session says whose `auto_decompress` is off."""


async def read_reply(response: aiohttp.ClientResponse, most: int) -> Reply:
    """Read an answer: of an error or a page the beginning, which tells what it is.

    Raises: TransientError when anything else is longer than `most` bytes, or cannot be unpacked.
    """
    length = response.content_length
    if length is not None and length <= _BEGINNING and "Content-Encoding" not in response.headers:
        # As nearly always, on the way of every file.
        return Reply(response.status, response.headers, (await response.read()).decode("utf-8", "replace"))
    judged = response.status >= 300 or response.content_type == "text/html"
    found = bytearray()
    async for piece in pieces(response):
        found += piece
        if judged and len(found) >= _BEGINNING:
            break
        if len(found) > most:
            return check_truncated(_reply(response, bytes(found[:_BEGINNING])), most)
    return _reply(response, bytes(found))


async def pieces(response: aiohttp.ClientResponse, most: int | None = None) -> AsyncIterator[bytes]:
    """Yield what comes, unpacked, in pieces of 256 kB at most.

    Raises: RefusedError when it is more than `most` bytes, TransientError when it cannot be unpacked.
    """
    left = most
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    plain = response.content.iter_chunked(_PIECE)
    async for piece in plain if packing == "identity" else _unpacked(response, packing):
        if left is not None and (left := left - len(piece)) < 0:
            raise RefusedError(f"XNAT hands out more than {most:,} bytes")
        yield piece


async def _unpacked(response: aiohttp.ClientResponse, packing: str) -> AsyncIterator[bytes]:
    if packing not in _PACKED:
        raise TransientError("the answer is packed in a way that nobody asked for", may_have_taken_effect=True)
    unpacking = zlib.decompressobj(_EITHER)
    try:
        async for piece in response.content.iter_any():
            packed = piece
            while packed and not unpacking.eof:
                yield unpacking.decompress(packed, _PIECE)
                packed = unpacking.unconsumed_tail
                await anyio.lowlevel.checkpoint()
        # What is still held back is less than a piece.
        yield unpacking.flush()
    except zlib.error:
        raise TransientError("the answer cannot be unpacked", may_have_taken_effect=True) from None
    if not unpacking.eof:
        raise TransientError("the answer breaks off", may_have_taken_effect=True)


def _reply(response: aiohttp.ClientResponse, body: bytes) -> Reply:
    return Reply(response.status, response.headers, body.decode("utf-8", "replace"))
