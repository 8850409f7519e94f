"""What lies on a disk of this machine's own, and what on another machine's; which disks keep their inodes' numbers."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Protocol

# As `mount` and psutil name them, without the "fuse." of those that run as a process. Windows drives in WSL 2 are 9p,
# and folders of the host in a virtual machine are as far away as those of a server.
_NETWORK = frozenset({
    "9p", "afpfs", "afs", "beegfs", "beegfs_nodev", "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "cifs",
    "coda", "curlftpfs", "davfs", "davfs2", "fhgfs", "ftp", "gcsfuse", "glusterfs", "goofys", "gpfs", "gvfsd-fuse",
    "juicefs", "lizardfs", "lustre", "mfs", "mmfs", "moosefs", "mount-s3", "ncp", "ncpfs", "nfs", "nfs3", "nfs4",
    "openafs", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "rclone", "s3fs", "smb", "smb2", "smb3", "smbfs",
    "sshfs", "vboxsf", "vmhgfs", "vmhgfs-fuse", "webdav", "webdavfs", "wekafs",
})  # fmt: skip
# These make up the numbers of their inodes as files are met, and others after the next mount. So do those that run as a
# process ("fuse"), unless they say otherwise, and shares whose server has no numbers ("noserverino").
_NO_INODES = frozenset({
    "9p", "exfat", "fat", "fat32", "msdos", "prl_fs", "vboxsf", "vfat", "vmhgfs", "davfs", "webdav", "webdavfs",
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


def network_disk(path: Path, mounts: Iterable[Mount] | None = None) -> str:
    """Return the type of the network file system that a path would lie on, or "" for any other.

    `mounts` are those of this machine unless they are given. One of an unknown type counts as local.
    """
    # Directories that do not exist yet will be made on the file system of the nearest one that does. On the way there
    # an automounter mounts what it has, so the table is read afterwards.
    place = Path(os.path.realpath(path))
    return network_file_system(place, _mounts() if mounts is None else mounts)


def is_local(paths: Iterable[Path], mounts: Iterable[Mount] | None = None) -> bool:
    """Whether no path lies on a network file system, and none is mounted below one of them."""
    places = [Path(os.path.realpath(path)) for path in paths]
    table = list(_mounts() if mounts is None else mounts)
    return not any(
        network_file_system(place, table)
        or any(_network(mount) and Path(mount.mountpoint).is_relative_to(place) for mount in table)
        for place in places
    )


def network_file_system(place: PurePath, mounts: Iterable[Mount]) -> str:
    """Return the type of the network file system that an absolute path without links lies on, or "" for any other."""
    if _WINDOWS_SHARE.match(place.drive):
        return "a share of Windows"
    mount = _mount_of(place, mounts)
    return _network(mount) if mount is not None else ""


class DeviceCache:
    """Which file systems keep the numbers of their inodes, by the number of the device: each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def keeps_inodes(self, path: str, found: os.stat_result) -> bool:
        """Whether the file system that a path was `found` on does."""
        known = self._known.get(found.st_dev)
        if known is None:
            known = self._known[found.st_dev] = keeps_inodes(path)
        return known


def keeps_inodes(path: str, mounts: Iterable[Mount] | None = None) -> bool:
    """Whether a file keeps its inode and its ctime as long as nobody touches it, also over the next mount.

    Windows has no time of the last change among what it tells of a file.
    """
    if os.name == "nt":
        return False
    mount = _mount_of(Path(os.path.realpath(path)), _mounts() if mounts is None else mounts)
    if mount is None:
        return True
    kind = mount.fstype.lower()
    return not (kind in _NO_INODES or kind.startswith("fuse") or "noserverino" in mount.opts.split(","))


def _mount_of(place: PurePath, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount that an absolute path without links lies on."""
    mount: Mount | None = None
    longest = 0
    for candidate in mounts:
        point = type(place)(candidate.mountpoint)
        # Of two that are mounted at the same place, the later one hides the other.
        if len(point.parts) >= longest and place.is_relative_to(point):
            mount, longest = candidate, len(point.parts)
    return mount


def _network(mount: Mount) -> str:
    if "remote" in mount.opts.split(","):  # Windows: the type is that of the disk at the other end
        return "a remote drive"
    kind = mount.fstype.lower()
    if kind.removeprefix("fuse.") in _NETWORK:
        return mount.fstype
    # davfs2 and others are no more than "fuse" by their type, but name an address.
    return mount.fstype if kind.startswith("fuse") and "://" in mount.device else ""


def _mounts() -> Iterable[Mount]:
    import psutil  # takes 13 ms, and only commands that read sources or write a journal need it

    try:
        # Without `all` there would be no network file systems in it.
        return psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        # Where a system does not tell its mounts, as in some containers, nothing is known about them.
        return ()
