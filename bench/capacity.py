"""The capacity of a server: a few processes repeat one request as fast as they can.

No files, no client library: each process writes one prepared request to a connection and waits for the reply. It
shows that the sink is no limit to what is measured on it.
"""

import argparse
import json
import os
import socket
import sys
import time
from urllib.parse import urlsplit


def _request(url: str, query: str, size: int) -> bytes:
    parts = urlsplit(url)
    head = (
        f"POST {parts.path}/data/services/import?{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/dicom\r\nContent-Length: {size}\r\n\r\n"
    )
    return head.encode() + bytes(size)


def _flood(url: str, request: bytes, seconds: float) -> int:
    parts = urlsplit(url)
    count = 0
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(request)
            reply = connection.recv(4096)
            # The reply fits in one segment. Any reply but success makes the figure void.
            if not reply.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"the sink answers {reply[:60]!r}")
            count += 1
    return count


def main() -> None:
    """Flood a server, and print its requests a second."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--query", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    request = _request(options.url, options.query, options.size)
    pipes = []
    for _ in range(options.processes):
        out, into = os.pipe()
        if os.fork() == 0:
            os.close(out)
            with os.fdopen(into, "w") as told:
                told.write(str(_flood(options.url, request, options.seconds)))
                told.flush()
            os._exit(0)
        os.close(into)
        pipes.append(out)
    count = 0
    for out in pipes:
        with os.fdopen(out) as told:
            count += int(told.read() or 0)
    for _ in pipes:
        os.wait()
    sys.stdout.write(json.dumps({"rate": count / options.seconds}) + "\n")


if __name__ == "__main__":
    main()
