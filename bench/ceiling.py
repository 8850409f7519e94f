"""The ceiling: what aiohttp alone can do with the same files on the same server.

It posts them with N requests in flight. Each file is read in the loop, with no hop to a thread, and nobody looks into
it; there is no journal, no limit but N, no repetition, and nothing is archived. With `--memory` the files are read
before, and what that took is told, so that it can be left out.

The list has a line of JSON for each file: path and query.
"""

import argparse
import asyncio
import base64
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
from yarl import URL

_LARGE = 1 << 20
_PIECE = 256 << 10


async def _pieces(path: str) -> AsyncIterator[bytes]:
    with open(path, "rb", buffering=0) as file:  # noqa: ASYNC230, PTH123 - in the loop is the point
        while piece := file.read(_PIECE):
            yield piece


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - the fewest steps
        return file.read()


async def _send(options: argparse.Namespace, files: list[tuple[str, str, int]]) -> dict[str, float]:
    context = ssl.create_default_context(cafile=options.bundle) if options.bundle else True
    connector = aiohttp.TCPConnector(limit=options.number, ssl=context)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        secret = base64.b64encode(f"{options.user}:{sys.stdin.readline().strip()}".encode()).decode()
        async with http.post(f"{options.url}/data/JSESSION", headers={"Authorization": f"Basic {secret}"}) as reply:
            cookie = (await reply.text()).strip()
        headers = {"Cookie": f"JSESSIONID={cookie}", "Content-Type": "application/dicom"}
        urls = {query: URL(f"{options.url}/data/services/import?{query}", encoded=True) for _, query, _ in files}
        began = time.monotonic()
        bodies = [_read(path) for path, _, _ in files] if options.memory else None
        loaded = time.monotonic() - began
        todo: Iterator[int] = iter(range(len(files)))
        kept = 0

        async def sender() -> None:
            nonlocal kept
            for at in todo:
                path, query, size = files[at]
                if bodies is None and size > _LARGE:
                    sized = {**headers, "Content-Length": str(size)}
                    request = http.post(urls[query], data=_pieces(path), headers=sized)
                else:
                    body = bodies[at] if bodies is not None else _read(path)
                    request = http.post(urls[query], data=body, headers=headers)
                # A failure is not retried: the count of the server shows it.
                with suppress(aiohttp.ClientError):
                    async with request as reply:
                        kept += bool(reply.status == 200 and await reply.read())

        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(options.number):
                tasks.create_task(sender())
        sent = time.monotonic() - began
        async with http.delete(f"{options.url}/data/JSESSION", headers=headers):
            pass
    return {"kept": kept, "loaded": loaded, "sending": sent}


def main() -> None:
    """Send the files of the list. The password comes on standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("list", type=Path)
    parser.add_argument("-n", "--number", type=int, default=16)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--user", default="demo")
    parser.add_argument("--bundle", default="")
    options = parser.parse_args()
    with options.list.open() as lines:
        files = [(path, query, size) for path, query, size in map(json.loads, lines)]
    sys.stdout.write(json.dumps(asyncio.run(_send(options, files))) + "\n")


if __name__ == "__main__":
    main()
