"""The disk that a journal lies on: it has to be this machine's own."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Protocol

from asyncimport.errors import JournalError

__all__ = ["Mount", "network_file_system", "refuse_network_disk"]

# As `mount` and psutil name them, without the "fuse." of those that run as a process. Windows drives in WSL 2 are 9p,
# and folders of the host in a virtual machine are as far away as those of a server.
_NETWORK = frozenset({
    "9p", "afpfs", "afs", "beegfs", "beegfs_nodev", "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "cifs",
    "coda", "curlftpfs", "davfs", "davfs2", "fhgfs", "ftp", "gcsfuse", "glusterfs", "goofys", "gpfs", "gvfsd-fuse",
    "juicefs", "lizardfs", "lustre", "mfs", "mmfs", "moosefs", "mount-s3", "ncp", "ncpfs", "nfs", "nfs3", "nfs4",
    "openafs", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "rclone", "s3fs", "smb", "smb2", "smb3", "smbfs",
    "sshfs", "vboxsf", "vmhgfs", "vmhgfs-fuse", "webdav", "webdavfs", "wekafs",
})  # fmt: skip
_WINDOWS_SHARE = re.compile(r"\\\\([?.]\\UNC\\|(?![?.]\\))", re.IGNORECASE)


class Mount(Protocol):
    """A file system and where it is mounted, as psutil describes it."""

    @property
    def device(self) -> str:
        """What is mounted."""

    @property
    def mountpoint(self) -> str:
        """Where."""

    @property
    def fstype(self) -> str:
        """The type of the file system."""

    @property
    def opts(self) -> str:
        """Its options, with commas between them."""


def refuse_network_disk(path: Path, mounts: Iterable[Mount] | None = None) -> None:
    """Refuse a journal on a file system that is shared between machines; one of an unknown type is let pass.

    SQLite keeps the index of its log in shared memory, which two machines do not share, and locks files, which many
    network file systems only pretend to do. `mounts` are those of this machine unless they are given.
    Raises: JournalError.
    """
    # Directories that do not exist yet will be made on the file system of the nearest one that does. On the way there
    # an automounter mounts what it has, so the table is read afterwards.
    place = Path(os.path.realpath(path))
    kind = network_file_system(place, _mounts() if mounts is None else mounts)
    if kind:
        raise JournalError(
            f"the journal {path} would lie on a network file system ({kind})",
            hint="choose a local disk with --state-dir",
        )


def network_file_system(place: PurePath, mounts: Iterable[Mount]) -> str:
    """Return the type of the network file system that an absolute path without links lies on, or "" for any other."""
    if _WINDOWS_SHARE.match(place.drive):
        return "a share of Windows"
    mount: Mount | None = None
    longest = 0
    for candidate in mounts:
        point = type(place)(candidate.mountpoint)
        # Of two that are mounted at the same place, the later one hides the other.
        if len(point.parts) >= longest and place.is_relative_to(point):
            mount, longest = candidate, len(point.parts)
    return _network(mount) if mount is not None else ""


def _network(mount: Mount) -> str:
    if "remote" in mount.opts.split(","):  # Windows: the type is that of the disk at the other end
        return "a remote drive"
    kind = mount.fstype.lower()
    if kind.removeprefix("fuse.") in _NETWORK:
        return mount.fstype
    # davfs2 and others are no more than "fuse" by their type, but name an address.
    return mount.fstype if kind.startswith("fuse") and "://" in mount.device else ""


def _mounts() -> Iterable[Mount]:
    import psutil  # takes 13 ms, and only commands that write a journal need it

    try:
        # Without `all` there would be no network file systems in it.
        return psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        # Where a system does not tell its mounts, as in some containers, nothing is known about them.
        return ()
