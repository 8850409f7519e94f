"""What `--dask` says."""

import importlib
import importlib.util
import signal
import socket
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asyncimport.errors import UsageError
from asyncimport.model.option import invalid
from asyncimport.model.record import record
from asyncimport.model.texts import plain

_FORMS = "tcp://HOST:PORT, tls://HOST:PORT, local:N, slurm:FILE or @MODULE:NAME"
_MOST_PROCESSES = 256
_LONGEST_REASON = 200


@record
class Address:
    """A scheduler that runs."""

    address: str

    def __str__(self) -> str:
        return self.address


@record
class Local:
    """Processes on this machine."""

    number: int

    def __str__(self) -> str:
        return f"local:{self.number}"


@record
class Slurm:
    """A file with arguments of dask_jobqueue.SLURMCluster, and `jobs`: how many to start."""

    path: Path
    is_ours = True

    def __str__(self) -> str:
        return f"slurm:{self.path}"

    def make(self) -> Any:
        """Start a scheduler here, and submit the jobs of its workers, after `import_jobqueue`. It blocks.

        Raises: UsageError.
        """
        from dask_jobqueue import SLURMCluster
        from distributed import Status

        from asyncimport.cluster.security import TolerantSecurity

        arguments = self.arguments()
        jobs = arguments.pop("jobs", 1)
        if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
            raise UsageError(f"--dask {self}: jobs is {jobs!r}", hint="give a number, such as jobs = 4")
        # Workers are on other machines.
        # A nanny ends its first connection to the scheduler, and that error breaks other TLS connections of its thread.
        arguments = {"nanny": False, "protocol": "tls://", "security": TolerantSecurity.temporary(), **arguments}
        # Jobs begin in the current directory, and `python -m` would import what lies there first.
        arguments["job_script_prologue"] = ["export PYTHONSAFEPATH=1", *(arguments.get("job_script_prologue") or ())]
        try:
            cluster = SLURMCluster(**arguments)
        except (TypeError, ValueError, OSError) as error:
            raise UsageError(f"--dask {self}: {error}", hint="its keys are arguments of SLURMCluster") from error

        async def submit() -> None:
            cluster.scale(jobs=jobs)
            # Of a job that is refused Dask would write a traceback, and wait for it.
            await cluster._correct_state()  # noqa: SLF001 - see above

        try:
            cluster.sync(submit)
        except (RuntimeError, ValueError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            for job in cluster.workers.values():
                # Else it would not close: they have not begun.
                job.status = Status.failed
            cluster.close()
            raise UsageError(
                f"--dask {self}: no job can be started: {plain(reason)}",
                hint="check its queue, account and limits, and that this machine can submit jobs",
            ) from error
        return cluster

    def arguments(self) -> dict[str, Any]:
        """Return what the file says. It blocks. Raises: UsageError."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"--dask {self} cannot be read: {error.strerror}", hint="check the path") from error
        try:
            found = tomllib.loads(data.decode("utf-8"))
        except ValueError as error:
            raise UsageError(f"--dask {self} is not TOML: {error}", hint="see docs/many-machines.md") from error
        return found


@record
class Named:
    """An object of a module: a cluster, its address, or a function that returns one of them."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"@{self.module}:{self.name}"

    @property
    def is_ours(self) -> bool:
        """Whether we have started it, and close it."""
        return callable(self._find())

    def make(self) -> Any:
        """Return the cluster or its address. It blocks. Raises: UsageError."""
        try:
            found = self._find()
            return found() if callable(found) else found
        except UsageError:
            raise
        except Exception as error:
            # Whatever the module of the site does.
            raise UsageError(
                f"--dask {self}: {described(error)}",
                hint=f"python -c 'import {self.module} as m; m.{self.name}()' shows where",
            ) from error

    def _find(self) -> Any:
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise UsageError(f"--dask {self}: {error}", hint="set PYTHONPATH to the directory of the module") from error
        try:
            return getattr(module, self.name)
        except AttributeError as error:
            raise UsageError(f"--dask {self}: {error}", hint="name an object of the module") from error


def described(error: Exception) -> str:
    """Return the kind of an error of other software, and the beginning of its text, in one line."""
    return f"{type(error).__name__}: {plain(' '.join(str(error).split()))[:_LONGEST_REASON]}"


def import_jobqueue() -> None:
    """Import dask-jobqueue, in the main thread: it takes the signals, which stay ours. Raises: UsageError."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise UsageError(
            "--dask slurm:FILE needs dask-jobqueue, which is not installed", hint="pip install dask-jobqueue"
        ) from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


Spec = Address | Local | Slurm | Named


def parse_spec(text: str, name: str = "--dask") -> Spec:
    """Return what names a cluster. Raises: UsageError."""
    kind, _, rest = text.partition(":")
    if kind == "local" and rest.isdecimal() and 1 <= int(rest) <= _MOST_PROCESSES:
        return Local(int(rest))
    if kind == "slurm" and rest:
        return Slurm(Path(rest))
    if kind.startswith("@") and len(kind) > 1 and rest.isidentifier():
        return Named(kind[1:], rest)
    if kind in {"tcp", "tls"} and text.isprintable():
        try:
            parts = urlsplit(text)
            if parts.hostname and parts.port and not parts.path and "@" not in text:
                return Address(text)
        except ValueError:
            pass
    raise invalid(name, text, _FORMS)


def is_encrypted(address: str) -> bool:
    """Whether a connection to an address of Dask is encrypted."""
    return address.startswith("tls://")


def is_here(address: str) -> bool:
    """Whether an address of Dask is one of this machine."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            # Only an address of this machine can be bound to; a name is looked up nowhere.
            probe.bind((socket.inet_ntop(family, socket.inet_pton(family, host)), 0))
    except OSError:
        return False
    return True
