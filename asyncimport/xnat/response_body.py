"""How much of a response is read, and how slowly it may come: anybody may answer.

| what              | bytes, unpacked | why                                                                   |
|-------------------|-----------------|-----------------------------------------------------------------------|
| MAX_REPLY_BYTES   | 1 MiB           | an import, a build, a PUT, a login returns an address or a short text |
| MAX_LISTING_BYTES | 256 MiB         | the catalog of 400,000 instances has 140 MB                           |
| MAX_FILE_BYTES    | 64 GiB          | a prearchive row, as a zip                                            |
| an error, a page  | 64 KiB          | its beginning has the status, the heading and the form's address      |
| headers           | 1 MB            | aiohttp's own limits: 128 of 8 kB                                     |

A reply must arrive within the time limit of its call. A file may take as long as it makes MIN_BYTES_PER_SECOND.
"""

import zlib
from collections.abc import AsyncIterator

import aiohttp
import anyio.lowlevel

from asyncimport.errors import RefusedError, TransientError
from asyncimport.xnat.replies.response import Reply

MAX_REPLY_BYTES = 1 << 20
MAX_LISTING_BYTES = 256 << 20
MAX_FILE_BYTES = 64 << 30
MIN_BYTES_PER_SECOND = 16 << 10
_ERROR_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10
_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
# zlib tells gzip and both forms of deflate apart by their first bytes.
_ANY_FORMAT = zlib.MAX_WBITS | 32

ACCEPT_HEADERS = {"Accept-Encoding": "gzip"}
"""What a session sends whose `auto_decompress` is off."""


async def read_reply(response: aiohttp.ClientResponse, max_bytes: int) -> Reply:
    """Read a response; only the beginning of an error or a page. Raises: TransientError if it is too long or broken."""
    length = response.content_length
    if length is not None and length <= _ERROR_BYTES and "Content-Encoding" not in response.headers:
        # The usual case, for every file.
        return Reply(response.status, response.headers, (await response.read()).decode("utf-8", "replace"))
    is_error = response.status >= 300 or response.content_type == "text/html"
    body = bytearray()
    async for chunk in read_chunks(response):
        body += chunk
        if is_error and len(body) >= _ERROR_BYTES:
            break
        if len(body) > max_bytes:
            del body[_ERROR_BYTES:]
            if not _reply(response, bytes(body)).is_html:
                message = f"an answer of more than {max_bytes:,} bytes came, which is none of XNAT's"
                raise TransientError(message, may_have_taken_effect=True)
            break
    return _reply(response, bytes(body))


async def read_chunks(response: aiohttp.ClientResponse, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """Yield the body, unpacked, in chunks of 256 KiB at most. Raises: TransientError, RefusedError: it is too long."""
    remaining = max_bytes
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    plain = response.content.iter_chunked(_CHUNK_BYTES)
    async for chunk in plain if encoding == "identity" else _unpack(response, encoding):
        if remaining is not None and (remaining := remaining - len(chunk)) < 0:
            raise RefusedError(f"XNAT sends more than {max_bytes:,} bytes")
        yield chunk


async def _unpack(response: aiohttp.ClientResponse, encoding: str) -> AsyncIterator[bytes]:
    if encoding not in _ENCODINGS:
        raise TransientError("the answer is packed in a way that was not accepted", may_have_taken_effect=True)
    unpacker = zlib.decompressobj(_ANY_FORMAT)
    try:
        async for chunk in response.content.iter_any():
            packed = chunk
            while packed and not unpacker.eof:
                yield unpacker.decompress(packed, _CHUNK_BYTES)
                packed = unpacker.unconsumed_tail
                await anyio.lowlevel.checkpoint()
        # What remains is less than a chunk.
        yield unpacker.flush()
    except zlib.error:
        raise TransientError("the answer cannot be unpacked", may_have_taken_effect=True) from None
    if not unpacker.eof:
        raise TransientError("the answer ends too early", may_have_taken_effect=True)


def _reply(response: aiohttp.ClientResponse, body: bytes) -> Reply:
    return Reply(response.status, response.headers, body.decode("utf-8", "replace"))
