"""A real nginx in front of a server."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import trustme
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream
from patience import COMMAND, in_time

# Where Debian installs it is on the path of root only.
NGINX = shutil.which(
    "nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
)

CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {home}/pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
    log_format told escape=json
        '{{"status":"$status","upstream":"$upstream_status",'
        '"request":"$request_method $uri","connection":"$connection"}}';
    access_log /dev/stdout told;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {http}
    server {{
        listen 127.0.0.1:{port}{ssl};
        {server}
        location {location} {{ proxy_pass {target}; }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of nginx's access log: its status, XNAT's ("" if it was not called), the request, the connection."""

    status: str
    upstream: str
    request: str
    connection: str


@dataclass(slots=True)
class Nginx:
    """A running nginx, and its answers."""

    url: str
    process: Process
    answers: list[Answer] = field(default_factory=list)
    errors: str = ""
    _news: anyio.Condition = field(default_factory=anyio.Condition)

    def count(self, status: int, path: str = "") -> int:
        """Count the answers of this status to requests for paths like this one."""
        return sum(answer.status == str(status) and path in answer.request for answer in self.answers)

    def per_connection(self) -> Sequence[int]:
        """Count the requests of each connection."""
        return list(Counter(answer.connection for answer in self.answers).values())

    async def wait_for(self, status: int) -> None:
        """Wait until nginx has answered with this status."""
        with in_time(COMMAND):
            await self._wait_for(status)

    async def _wait_for(self, status: int) -> None:
        async with self._news:
            while not self.count(status):
                await self._news.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to nginx, master and workers."""
        os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End nginx, and its workers, which could outlive a killed master."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.send_signal(signal.SIGTERM)
                self.send_signal(signal.SIGCONT)

    async def wait_until_ready(self) -> None:
        """Wait until nginx serves; raise its message if it cannot."""
        assert self.process.stderr is not None
        async for text in TextReceiveStream(self.process.stderr, errors="replace"):
            self.errors += text
            if "start worker process " in self.errors:
                return
        raise RuntimeError(f"nginx did not start: {self.errors}")

    async def listen(self, stream: ByteReceiveStream) -> None:
        """Read the access log."""
        rest = ""
        async for text in TextReceiveStream(stream):
            *lines, rest = (rest + text).split("\n")
            async with self._news:
                self.answers.extend(Answer(**json.loads(line)) for line in lines)
                self._news.notify_all()

    async def drain(self, stream: ByteReceiveStream) -> None:
        """Read the error log, so that nginx does not block on it."""
        async for text in TextReceiveStream(stream, errors="replace"):
            self.errors += text


@asynccontextmanager
async def nginx_proxy(
    url: str,
    tmp_path: Path,
    *,
    location: str = "/",
    target: str = "",
    http: str = "",
    server: str = "",
    **settings: str,
) -> AsyncIterator[Nginx]:
    """Put nginx in front of `url`; `settings` are directives of its server, `http` and `server` further text.

    It inherits its socket from us, as a new nginx does from an old one. So its port is surely free, and clients that
    connect before it serves wait in the queue.
    """
    assert NGINX is not None
    encrypted = "ssl_certificate" in settings
    with socket.create_server(("127.0.0.1", 0), backlog=511) as listener:
        listener.settimeout(0)
        # Its connections inherit this size: a body that nobody reads must wait in the client, not in the kernel.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        port = listener.getsockname()[1]
        home = tmp_path / f"nginx-{port}"
        home.mkdir()
        directives = {"client_max_body_size": "0"} | settings
        (home / "nginx.conf").write_text(
            CONFIGURATION.format(
                # Else its workers run as www-data, which may not write root's files.
                user="user root;" if os.geteuid() == 0 else "",
                home=home,
                http=http,
                port=port,
                ssl=" ssl" if encrypted else "",
                server="\n".join([*(f"{name} {value};" for name, value in directives.items()), server]),
                location=location,
                target=target or url,
            )
        )
        process = await anyio.open_process(
            [NGINX, "-p", home, "-c", home / "nginx.conf"],
            stdin=subprocess.DEVNULL,
            env={"NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    host = f"https://localhost:{port}" if encrypted else f"http://127.0.0.1:{port}"
    proxy = Nginx(host + location.rstrip("/"), process)
    async with process:
        try:
            await proxy.wait_until_ready()
            assert process.stdout is not None
            assert process.stderr is not None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(proxy.listen, process.stdout)
                tasks.start_soon(proxy.drain, process.stderr)
                try:
                    yield proxy
                finally:
                    proxy.stop()
        except BaseExceptionGroup as group:
            # Show the failure of the test, not a group of one.
            raise group.exceptions[0] from None
        finally:
            proxy.stop()


def tls_settings(certificate: trustme.LeafCert, tmp_path: Path) -> dict[str, str]:
    """Return the settings of an nginx with this certificate."""
    path = tmp_path / "certificate.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    return {"ssl_certificate": str(path), "ssl_certificate_key": str(path)}
