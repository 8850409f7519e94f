"""Opens a client of the cluster that `--dask` names: of one that runs, or of one that is started for it."""

import asyncio
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from asyncimport.cluster.specs import (
    Address,
    Local,
    Named,
    Slurm,
    Spec,
    described,
    import_jobqueue,
    is_encrypted,
    is_here,
)
from asyncimport.errors import AsyncimportError, UnavailableError, UsageError
from asyncimport.model.events import Event, Notice
from asyncimport.model.texts import plain

if TYPE_CHECKING:
    from distributed import Client, Security

INSTALL_HINT = "install it: pip install 'asyncimport[dask]'"
_CONNECT_SECONDS = 10
_CLOSE_SECONDS = 10.0
_SILENT = logging.CRITICAL + 1
_SAFE_PATH = "PYTHONSAFEPATH"
# Windows cannot fork, and on macOS some libraries break by it.
_FORKS = sys.platform == "linux"
# Passwords, tokens, proxies with a password. A worker is told by the command what it needs.
_OURS = ("XNAT", "ASYNCIMPORT")


def start_fork_server() -> None:
    """Start the process that workers of this machine are forked from. It imports what they need meanwhile.

    To start each of them anew, and let it import the same, takes three times as long.
    """
    if _FORKS:
        with _environment_of_children(), _no_ctrl_c():
            forkserver.set_forkserver_preload(["asyncimport.cluster.forked"])
            forkserver.ensure_running()


@contextmanager
def starting_dask() -> Iterator[None]:
    """Import or use Dask in the block, which reads its configuration. Raises: UsageError if it is wrong."""
    try:
        yield
    except (AsyncimportError, ImportError):
        raise
    except Exception as error:
        # A wrong value can raise any error, anywhere.
        raise UsageError(
            f"Dask does not start: {described(error)}",
            hint="correct its configuration: ~/.config/dask/*.yaml, /etc/dask/*.yaml, and variables DASK_*",
        ) from error


async def open_client(
    spec: Spec, stack: AsyncExitStack, report: Callable[[Event], None], *, insecure: bool
) -> "tuple[Client, str, bool]":
    """Return a client of a cluster, the cluster's name for people, and whether its first worker may take long."""
    # Dask gives levels of their own to the second and the third.
    for name in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(name).setLevel(_SILENT)
    text = str(spec)
    if isinstance(spec, Local | Named):
        # Processes are started at any time: in the place of one that has ended, or where a cluster adapts.
        stack.enter_context(_environment_of_children())
    if isinstance(spec, Local):
        return await _start_local(spec.number, stack), text, True
    if isinstance(spec, Slurm):
        await anyio.to_thread.run_sync(spec.arguments)
        import_jobqueue()
    # If a stop comes meanwhile, what was started must be known, to be ended.
    with anyio.CancelScope(shield=True):
        made: Any = spec.address if isinstance(spec, Address) else await anyio.to_thread.run_sync(_make, spec)
    if isinstance(made, str):
        return await _client_of(made, None, stack, report, insecure=insecure), text, False
    address = getattr(made, "scheduler_address", None)
    if not isinstance(address, str) or isinstance(spec, Address):
        raise UsageError(
            f"--dask {text} is neither a cluster of Dask nor an address",
            hint="name an object, or a function that returns one, such as dask_jobqueue.PBSCluster(...)",
        )
    if spec.is_ours:
        stack.push_async_callback(_close_in_thread, made)
    client = await _client_of(address, getattr(made, "security", None), stack, report, insecure=insecure)
    return client, text, True


async def _start_local(number: int, stack: AsyncExitStack) -> "Client":
    """Start processes on this machine. Encrypted: a scheduler runs any code, and any user here could reach it."""
    import dask
    from distributed import Client, LocalCluster

    from asyncimport.cluster.security import TolerantSecurity

    try:
        security = await anyio.to_thread.run_sync(TolerantSecurity.temporary)
    except ImportError as error:
        raise UsageError("--dask local:N needs the package cryptography", hint=INSTALL_HINT) from error
    # No pages: they would show to any user of this machine what runs.
    settings: dict[str, Any] = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    if _FORKS:
        settings["distributed.worker.multiprocessing-method"] = "forkserver"
    with dask.config.set(settings):
        cluster = LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            asynchronous=True,
            security=security,
            protocol="tls",
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=_SILENT,
            preload=["asyncimport.cluster.local_worker"],
        )
        # Also if a stop comes while it starts: it can be closed when it has started.
        stack.push_async_callback(_close, cluster)
        started = asyncio.ensure_future(cluster)
        try:
            try:
                await asyncio.shield(started)
            finally:
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await asyncio.wait([started])
        except (OSError, RuntimeError, ImportError) as error:
            raise UnavailableError(
                f"the processes of local:{number} do not start: {first_line(error)}",
                hint="try fewer; Dask's configuration counts for them too",
            ) from error
    client = Client(cluster, asynchronous=True, direct_to_workers=True, set_as_default=True)
    stack.push_async_callback(_close, client)
    return await client


def _make(spec: Slurm | Named) -> Any:
    with _environment_of_children(), _no_ctrl_c():
        return spec.make()


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """Let no process that is started meanwhile, by this thread or one that it starts, get Ctrl-C.

    A terminal sends it to all processes of a command. This one stops the others, when all is recorded.
    """
    if sys.platform == "win32":
        yield
        return
    # Whoever starts it unblocks signals.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment_of_children() -> Iterator[None]:
    """Keep secrets from the processes that are started meanwhile: jobs of Slurm, too, get what is in the environment.

    And let interpreters import nothing from the current directory, which may be hostile. `multiprocessing`, by which
    Dask starts them, does that otherwise.
    """
    ours = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    before = os.environ.get(_SAFE_PATH)
    for name in ours:
        del os.environ[name]
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH, None)
        os.environ.update(ours if before is None else {**ours, _SAFE_PATH: before})


async def _close(opened: Any) -> None:
    """Close a client or a cluster, even in an operation that is cancelled."""
    # Its connections may break meanwhile, and then its processes end with this one.
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True), suppress(OSError, RuntimeError):
        await opened.close()


async def _close_in_thread(cluster: Any) -> None:
    """Close a cluster, and end its jobs, even in an operation that is cancelled."""

    def close() -> None:
        # Of dask-jobqueue: files for the jobs, a key among them. It deletes them at some time or other.
        for name in ("_job_key", "_job_cert", "_job_ca_file"):
            if (file := getattr(cluster, name, None)) is not None:
                file.close()
        cluster.close()

    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        await anyio.to_thread.run_sync(close, abandon_on_cancel=True)


async def _client_of(
    address: str,
    security: "Security | None",
    stack: AsyncExitStack,
    report: Callable[[Event], None],
    *,
    insecure: bool,
) -> "Client":
    """Connect to a scheduler. Raises: UsageError, UnavailableError."""
    from distributed import Client, Security

    from asyncimport.cluster.security import TolerantSecurity

    if not (is_encrypted(address) or is_here(address) or insecure):
        raise UsageError(
            f"--dask {address} is not encrypted: the password and patients' data could be read on the network",
            hint="use tls://, or --insecure if you know that the network is safe",
        )
    if is_encrypted(address) and security is None:
        security = Security(require_encryption=True)  # the rest is in Dask's configuration
        if not (security.tls_ca_file and security.tls_client_cert):
            raise UsageError(
                f"--dask {address} needs certificates, and Dask's configuration names none",
                hint="set distributed.comm.tls.ca-file, and .client.cert and .key: see docs/many-machines.md",
            )
        await anyio.to_thread.run_sync(_check_certificates, security)
    if type(security) is Security:
        security = TolerantSecurity.of(security)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            client = Client(
                address,
                security=security,
                asynchronous=True,
                direct_to_workers=True,
                set_as_default=True,
                timeout=_CONNECT_SECONDS,
            )
            stack.push_async_callback(_close, client)
            await client
    except (OSError, ValueError, TypeError) as error:
        raise UnavailableError(
            f"no scheduler of Dask answers at {address}: {first_line(error)}",
            hint="start it there with `dask scheduler`",
        ) from error
    for one in told:
        if "ersion" in str(one.message):
            # Dask's table of the versions that differ.
            report(Notice(f"Dask warns: {plain(' '.join(str(one.message).split()))}"))
    return client


def _check_certificates(security: "Security") -> None:
    """Dask would say that there is no such file, and not which. Raises: UsageError."""
    for file in (security.tls_ca_file, security.tls_client_cert, security.tls_client_key):
        # It may also be the certificate itself.
        if file and "\n" not in file:
            try:
                Path(file).read_bytes()
            except OSError as error:
                reason = f"{plain(file)}, which Dask's configuration names, cannot be read: {error.strerror}"
                raise UsageError(reason, hint="give it to this user, or correct the path") from error


def first_line(error: Exception) -> str:
    """Return the first line of the text of an error, or its kind."""
    return plain(str(error).partition("\n")[0]) or type(error).__name__
