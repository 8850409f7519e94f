"""Which disks are local, and which keep the inode numbers of their files."""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

# As `mount` and psutil name them, without the "fuse." prefix. 9p has Windows drives in WSL 2; folders that a virtual
# machine shares with its host count as remote.
_NETWORK = frozenset({
    "9p", "afpfs", "afs", "beegfs", "beegfs_nodev", "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "cifs",
    "coda", "curlftpfs", "davfs", "davfs2", "fhgfs", "ftp", "gcsfuse", "glusterfs", "goofys", "gpfs", "gvfsd-fuse",
    "juicefs", "lizardfs", "lustre", "mfs", "mmfs", "moosefs", "mount-s3", "ncp", "ncpfs", "nfs", "nfs3", "nfs4",
    "openafs", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "rclone", "s3fs", "smb", "smb2", "smb3", "smbfs",
    "sshfs", "vboxsf", "vmhgfs", "vmhgfs-fuse", "webdav", "webdavfs", "wekafs",
})  # fmt: skip
# These make up inode numbers as they meet files, and others after the next mount. So do FUSE file systems, and shares
# whose server has no inodes ("noserverino").
_NO_INODES = frozenset({
    "9p", "exfat", "fat", "fat32", "msdos", "prl_fs", "vboxsf", "vfat", "vmhgfs", "davfs", "webdav", "webdavfs",
})  # fmt: skip
# File systems of a whole cluster whose device names no server.
_WHOLE_CLUSTER = frozenset({"beegfs", "beegfs_nodev", "fhgfs", "gpfs", "panfs", "wekafs"})
# How Linux writes blanks, ends of lines and backslashes.
_ESCAPE = re.compile(r"\\([0-7]{3})")
_WINDOWS_SHARE = re.compile(r"\\\\([?.]\\UNC\\|(?![?.]\\))", re.IGNORECASE)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


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


class ListedMount(NamedTuple):
    """A line of Linux's table of mounts."""

    device: str
    mountpoint: str
    fstype: str
    opts: str


def network_disk(path: Path, mounts: Iterable[Mount] | None = None) -> str:
    """Return the type of the network file system that a path would be on, or ""; an unknown type counts as local."""
    # Missing directories will be made on the file system of the nearest one that exists. Resolving the path may make an
    # automounter mount it, so the table is read afterwards.
    place = Path(os.path.realpath(path))
    return network_file_system(place, _mounts() if mounts is None else mounts)


def is_local(paths: Iterable[Path], mounts: Iterable[Mount] | None = None) -> bool:
    """Whether all paths are on local file systems, with no network file system mounted below them."""
    places = [Path(os.path.realpath(path)) for path in paths]
    table = list(_mounts() if mounts is None else mounts)
    return not any(
        network_file_system(place, table)
        or any(_network(mount) and Path(mount.mountpoint).is_relative_to(place) for mount in table)
        for place in places
    )


def network_file_system(place: PurePath, mounts: Iterable[Mount]) -> str:
    """Return the type of the network file system that an absolute path without links is on, or ""."""
    if _WINDOWS_SHARE.match(place.drive):
        return "a share of Windows"
    mount = _mount_of(place, mounts)
    return _network(mount) if mount is not None else ""


class DeviceCache:
    """Which file systems keep inode numbers, by device number: each is checked once."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def keeps_inodes(self, path: str, found: os.stat_result) -> bool:
        """Whether the file system of a path (with the stat result `found`) keeps inode numbers."""
        known = self._known.get(found.st_dev)
        if known is None:
            known = self._known[found.st_dev] = keeps_inodes(path)
        return known


def keeps_inodes(path: str, mounts: Iterable[Mount] | None = None) -> bool:
    """Whether an untouched file keeps its inode and its ctime, also over the next mount."""
    if os.name == "nt":
        return False
    mount = _mount_of(Path(os.path.realpath(path)), _mounts() if mounts is None else mounts)
    if mount is None:
        return True
    kind = mount.fstype.lower()
    return not (kind in _NO_INODES or kind.startswith("fuse") or "noserverino" in mount.opts.split(","))


@dataclass(frozen=True, slots=True)
class TreeIdentity:
    """What identifies the files that a path shows on a machine.

    Two machines of the same moment with an equal `now` see the same files there. `lasting` is the same after a restart.
    `is_shared`: other machines may see it too.
    """

    now: str
    lasting: str
    is_shared: bool


def tree_identity(path: str, mounts: Iterable[Mount] | None = None) -> TreeIdentity | None:
    """Identify the tree at a path, with what is mounted below; None if there is nothing. It blocks."""
    if not os.path.lexists(path):
        return None
    real = Path(os.path.realpath(path))
    table = list(_mounts() if mounts is None else mounts)
    parts, is_local = _tree_parts(real, table)
    below = sorted(mount.mountpoint for mount in table if real in PurePath(mount.mountpoint).parents)
    for point in below:
        more, is_local_too = _tree_parts(Path(point), table)
        parts += [os.path.relpath(point, real), *more]
        is_local |= is_local_too
    lasting = [*parts, platform.node() if is_local else ""]
    return TreeIdentity(_digest([*lasting, running_machine() if is_local else "now"]), _digest(lasting), not is_local)


def _tree_parts(real: Path, mounts: Iterable[Mount]) -> tuple[list[str], bool]:
    """Return what identifies a directory, and whether only on this machine."""
    try:
        found = os.stat(real)  # noqa: PTH116 - the path need not be text
    except OSError as error:
        return [str(error.errno)], True
    mounts = list(mounts)
    mount = _mount_of(real, mounts)
    if mount is None or not _names_server(mount):
        return [str(found.st_dev), str(found.st_ino)], True
    inode = str(found.st_ino) if keeps_inodes(str(real), mounts) else ""
    return [mount.device, os.path.relpath(real, mount.mountpoint), inode], False


def _names_server(mount: Mount) -> bool:
    """Whether the device of a network file system is the same on all machines: folders of a host have one of theirs."""
    kind = mount.fstype.lower().removeprefix("fuse.")
    has_server = ":" in mount.device or mount.device[:2] in {"//", "\\\\"}
    return bool(_network(mount)) and (has_server or kind in _WHOLE_CLUSTER)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def running_machine(boot_id: Path = _BOOT_ID) -> str:
    """Return what no other running machine has: disks of two machines may have the same numbers. It blocks."""
    try:
        return boot_id.read_text("ascii")
    except OSError:
        import uuid  # Linux does without

        # Copies of a machine may have one name.
        return f"{platform.node()} {uuid.getnode()}"


def _mount_of(place: PurePath, mounts: Iterable[Mount]) -> Mount | None:
    mount: Mount | None = None
    longest = 0
    for candidate in mounts:
        point = type(place)(candidate.mountpoint)
        # Of two mounts at one place, the later one hides the other.
        if len(point.parts) >= longest and place.is_relative_to(point):
            mount, longest = candidate, len(point.parts)
    return mount


def _network(mount: Mount) -> str:
    if "remote" in mount.opts.split(","):  # Windows: the type is that of the disk at the other end
        return "a remote drive"
    kind = mount.fstype.lower()
    if kind.removeprefix("fuse.") in _NETWORK:
        return mount.fstype
    # davfs2 and others have the type "fuse", but a device with an address.
    return mount.fstype if kind.startswith("fuse") and "://" in mount.device else ""


def parse_mounts(table: bytes) -> list[ListedMount]:
    """Return what Linux's table of mounts lists, in its order."""
    lines = (line.split(" ") for line in os.fsdecode(table).split("\n"))
    return [ListedMount(*map(_unescape, fields[:4])) for fields in lines if len(fields) >= 4]


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)


def _mounts() -> Iterable[Mount]:
    if sys.platform == "linux":
        with suppress(OSError):
            return parse_mounts(Path("/proc/self/mounts").read_bytes())
    import psutil  # it takes 13 ms, so a start on Linux is without it

    try:
        # Without `all` there would be no network file systems in it.
        return psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        # Some containers hide their mounts: then nothing is known about them.
        return ()
