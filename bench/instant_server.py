"""The instant server: a real nginx that reads each body to its end and replies as the import does.

What else is asked goes to the test XNAT behind it, which was told beforehand what would be sent. nginx counts what it
receives in its log. `mirror` is what makes nginx read a body before `return` answers: without it, the answer would
come before the body had been read, and be no measure of anything.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Debian installs it in a directory that only root has on its PATH.
NGINX = shutil.which(
    "nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
)
TIMESTAMP = "20260101_000000000"

_CONFIGURATION = """
{user}
daemon off;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    log_format received '$msec $request_time $status $content_length $arg_EXPT_LABEL';
    access_log off;
    client_body_temp_path {bodies};
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    keepalive_requests 1000000;
    keepalive_timeout 300s;
    default_type text/uri-list;
    {tls}
    server {{
        listen {address}:{port}{ssl} backlog=511;
        {imports}
        location / {{ proxy_pass {behind}; proxy_read_timeout 600s; proxy_request_buffering off; }}
    }}
}}
"""
_SINK = """
        location = /data/services/import {{
            access_log {log} received buffer=64k flush=1s;
            mirror /read;
            log_not_found off;
            error_page 404 405 =200 @reply;
        }}
        location @reply {{
            access_log {log} received buffer=64k flush=1s;
            return 200 "/data/prearchive/projects/$arg_PROJECT_ID/{timestamp}/$arg_EXPT_LABEL\\r\\n";
        }}
        location = /read {{ internal; return 204; }}
"""


@contextmanager
def nginx(
    home: Path, behind: str, *, log: Path | None, certificate: Path | None = None, address: str = "127.0.0.1"
) -> Iterator[str]:
    """Run nginx before the server `behind`; with a `log`, it takes the imports itself. Yields its URL."""
    assert NGINX is not None  # noqa: S101 - callers have checked
    home.mkdir(parents=True, exist_ok=True)
    if log is not None:
        log.touch()
    memory = Path("/dev/shm")  # noqa: S108 - bodies that do not fit in its buffer, in a directory of our own there
    bodies = (memory if os.access(memory, os.W_OK) else home) / f"bench-{os.getpid()}-bodies"
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};" if certificate else ""
    with socket.create_server((address, 0), backlog=511) as door:
        port = door.getsockname()[1]
        (home / "nginx.conf").write_text(
            _CONFIGURATION.format(
                # Otherwise its workers run as www-data, which may not write to files of root.
                user="user root;" if os.geteuid() == 0 else "",
                home=home,
                bodies=bodies,
                address=address,
                port=port,
                tls=tls,
                ssl=" ssl" if certificate else "",
                imports=_SINK.format(log=log, timestamp=TIMESTAMP) if log is not None else "",
                behind=behind,
            )
        )
        # It inherits the listening socket, so early connections wait in the queue.
        with (home / "stderr").open("wb") as complaints:
            process = subprocess.Popen(
                [NGINX, "-p", home, "-c", home / "nginx.conf"],
                stdin=subprocess.DEVNULL,
                stderr=complaints,
                env={"NGINX": f"{door.fileno()};"},
                pass_fds=[door.fileno()],
            )
    try:
        yield f"{'https' if certificate else 'http'}://{address}:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(bodies, ignore_errors=True)
