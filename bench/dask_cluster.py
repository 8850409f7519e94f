"""A cluster of Dask for one client: a scheduler and workers that run before it starts, in processes of their own.

All talk TLS, as on a site. What a client takes is then what the driver takes: the workers are no children of it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

from bench.slow_disk import DISK, Disk
from bench.trees import python_path

_TLS = "DASK_DISTRIBUTED__COMM__TLS__"


def lacks() -> str:
    """Return why there can be no cluster, or an empty text."""
    absent = [name for name in ("distributed", "trustme") if find_spec(name) is None]
    return f"{absent[0]} is not installed" if absent else ""


@contextmanager
def running(
    tree: Path, workers: int, home: Path, root: Path, disk: Disk | None = None
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the address of a scheduler with this many workers, and the environment of its clients.

    Each worker has a disk of its own for the files below `root`. Raises: RuntimeError if one does not start.
    """
    home.mkdir(parents=True)
    trust = _certificate(home)
    env = {**python_path(tree), **trust, "DASK_DISTRIBUTED__ADMIN__LOG_FORMAT": "%(message)s"}
    with ExitStack() as stack, (home / "log").open("wb") as log:

        def start(kind: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"distributed.cli.dask_{kind}", "--no-dashboard", *words],
                env={**env, **more},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            stack.callback(_end, process)
            return process

        where = ("--host", "tls://127.0.0.1")
        address = _told(start("scheduler", *where, "--port", "0"), b"Scheduler at:")
        words = [address, *where, "--nthreads", "1", "--no-nanny", "--preload", "bench.slow_disk"]
        own = {DISK: json.dumps([str(root), *disk])} if disk else {}
        started = [start("worker", *words, "--name", f"w{number}", **own) for number in range(workers)]
        for process in started:
            _told(process, b"Registered to:")
        yield address, trust


def _told(process: subprocess.Popen[bytes], text: bytes) -> str:
    """Return the last word of the line with a text."""
    said: list[bytes] = []
    assert process.stderr is not None  # noqa: S101 - for the type checker
    for line in process.stderr:
        said.append(line)
        if text in line:
            # It would wait where nobody reads.
            Thread(target=process.stderr.readlines).start()
            return line.split()[-1].decode()
    raise RuntimeError(f"Dask does not start: {b''.join(said[-3:]).decode(errors='replace')}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _certificate(home: Path) -> dict[str, str]:
    import trustme

    authority = trustme.CA()
    own, bundle = home / "own.pem", home / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
    authority.cert_pem.write_to_path(bundle)
    sides = {
        f"{_TLS}{side}__{what}": str(own) for side in ("SCHEDULER", "WORKER", "CLIENT") for what in ("CERT", "KEY")
    }
    return {**sides, f"{_TLS}CA_FILE": str(bundle), "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
