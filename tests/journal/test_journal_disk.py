"""Local and network disks: a journal on a network disk is refused, and a source there is read in threads only."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import psutil
import pytest
from builders import folder, image, write

from asyncimport.errors import JournalError
from asyncimport.journal.database import refuse_network_disk
from asyncimport.source.bytes_on_disk import LARGE
from asyncimport.system.mounts import is_local, keeps_inodes, network_file_system, parse_mounts


class Row(NamedTuple):
    """A row of a table of mounts."""

    mountpoint: str
    fstype: str
    opts: str = "rw,relatime"
    device: str = "none"


ROOT = Row("/", "ext4", device="/dev/sda1")

NETWORK = [
    "9p",
    "CIFS",
    "afpfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "fuse.sshfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
    "vboxsf",
    "webdav",
]
LOCAL = [
    "NTFS",
    "apfs",
    "autofs",
    "btrfs",
    "exfat",
    "ext4",
    "fuse.mergerfs",
    "fuseblk",
    "hfs",
    "never-heard-of",
    "nfsd",
    "overlay",
    "tmpfs",
    "virtiofs",
    "xfs",
    "zfs",
    "",
]


@pytest.mark.parametrize("kind", NETWORK)
def test_a_network_file_system_is_refused(kind: str) -> None:
    """One line names the path and the type, and the hint says what to do."""
    path = Path("/srv/net/state/x.journal")
    with pytest.raises(JournalError) as caught:
        refuse_network_disk(path, [ROOT, Row("/srv/net", kind)])
    assert str(caught.value) == f"the journal {path} would lie on a network file system ({kind})"
    assert caught.value.hint == "choose a local disk with --state-dir"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("kind", LOCAL)
def test_any_other_file_system_is_not(kind: str) -> None:
    """Local types are fine, and so are unknown ones."""
    refuse_network_disk(Path("/srv/net/state/x.journal"), [Row("/", "nfs"), Row("/srv/net", kind)])


@pytest.mark.parametrize(("device", "refused"), [("https://cloud.example.org/dav", True), ("encfs", False)])
def test_a_process_behind_a_file_system_may_name_an_address(device: str, refused: bool) -> None:
    """davfs2 has the type "fuse", like many local ones, but an address as its device."""
    found = network_file_system(PurePosixPath("/srv/x"), [ROOT, Row("/srv", "fuse", device=device)])
    assert found == ("fuse" if refused else "")


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/x.journal", ""),
        ("/home/x.journal", "nfs4"),
        ("/home", "nfs4"),
        ("/home2/x.journal", ""),
        ("/home/ann/scratch/x.journal", ""),
        ("/home/ann/scratch2/x.journal", "nfs4"),
        ("/mnt/two  words/x.journal", "cifs"),
        ("/mnt/two/x.journal", ""),
        ("/mnt/c/Users/x.journal", "9p"),
        ("/twice/x.journal", "lustre"),
    ],
)
def test_the_longest_mount_point_is_the_one(place: str, kind: str) -> None:
    """Mounts nest in any order, names begin alike, and the later of two at one place hides the other."""
    mounts = [
        Row("/home/ann/scratch", "xfs"),
        Row("/twice", "ext4"),
        Row("/home", "nfs4"),
        ROOT,
        Row("/mnt/two  words", "cifs", device="//server/share"),
        Row("/mnt/c", "9p", "rw,aname=drvfs;path=C:\\;uid=1000", "C:\\"),
        Row("/twice", "lustre"),
    ]
    assert network_file_system(PurePosixPath(place), mounts) == kind


@pytest.mark.parametrize(
    ("place", "keeps"),
    [
        ("/home/ann", True),
        ("/nfs/x", True),
        ("/share/x", True),
        ("/old-share/x", False),
        ("/stick/DCIM", False),
        ("/card/DCIM", False),
        ("/remote/x", False),
        ("/plugged/x", False),
        ("/mnt/c/x", False),
    ],
)
def test_which_disks_keep_their_inodes(place: str, keeps: bool) -> None:
    """Not those that make up the numbers: there, another number proves nothing."""
    mounts = [
        ROOT,
        Row("/nfs", "nfs4"),
        Row("/share", "cifs", "rw,vers=3.1.1,serverino"),
        Row("/old-share", "cifs", "rw,vers=1.0,noserverino"),
        Row("/stick", "vfat"),
        Row("/card", "exFAT"),
        Row("/remote", "fuse.sshfs"),
        Row("/plugged", "fuseblk"),
        Row("/mnt/c", "9p"),
    ]
    assert keeps_inodes(place, mounts) is keeps
    assert keeps_inodes(place, [])


def test_an_unknown_mount_table_means_a_local_disk() -> None:
    """If the system hides its mounts, nothing is refused."""
    refuse_network_disk(Path("/srv/x.journal"), [])


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (r"C:\state\x.journal", ""),
        (r"Z:\state\x.journal", "a remote drive"),
        (r"z:\state\x.journal", "a remote drive"),
        (r"Y:\state\x.journal", ""),
        (r"C:\disks\two\x.journal", "a remote drive"),
        (r"\\server\share\x.journal", "a share of Windows"),
        (r"\\wsl.localhost\Ubuntu\x.journal", "a share of Windows"),
        (r"\\?\UNC\server\share\x.journal", "a share of Windows"),
        (r"\\?\C:\state\x.journal", ""),
    ],
)
def test_windows(place: str, kind: str) -> None:
    """A network drive is NTFS too, but "remote"; a share needs no letter."""
    mounts = [
        Row("C:\\", "NTFS", "rw,fixed", "C:\\"),
        Row("D:\\", "", "cdrom", "D:\\"),
        Row("Z:\\", "NTFS", "rw,remote", "Z:\\"),
        Row("C:\\disks\\two\\", "NTFS", "rw,remote", "C:\\disks\\two\\"),
    ]
    assert network_file_system(PureWindowsPath(place), mounts) == kind


# Links and directories, real ones


def test_links_are_followed(tmp_path: Path) -> None:
    """The real place counts, even if its directories do not exist yet; the message has the user's path."""
    net = tmp_path.resolve() / "net disk"
    net.mkdir()
    mounts = [ROOT, Row(str(net), "nfs4")]
    (tmp_path / "link").symlink_to(net)
    (tmp_path / "chain").symlink_to("link/not/there/yet")
    for path in (net / "a" / "b" / "x.journal", tmp_path / "link" / "x.journal", tmp_path / "chain" / "x.journal"):
        with pytest.raises(JournalError) as caught:
            refuse_network_disk(path, mounts)
        assert str(path) in str(caught.value)
    (net / "home").symlink_to(tmp_path)
    refuse_network_disk(net / "home" / "x.journal", mounts)
    refuse_network_disk(net / ".." / "x.journal", mounts)


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is relative to the current directory."""
    monkeypatch.chdir(tmp_path)
    mounts = [ROOT, Row(str(tmp_path.resolve()), "cifs")]
    with pytest.raises(JournalError, match=r"^the journal x\.journal would lie on"):
        refuse_network_disk(Path("x.journal"), mounts)
    refuse_network_disk(Path("../x.journal"), mounts)


def test_odd_paths(tmp_path: Path) -> None:
    """A link to itself, and a name that is no text, raise no error here."""
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop" / "x.journal", tmp_path / os.fsdecode(b"\xff") / "x.journal"):
        refuse_network_disk(path, [ROOT])


@pytest.mark.parametrize(
    ("paths", "local"),
    [
        (["tree"], True),
        (["tree", "net"], False),
        (["net/images"], False),
        (["link"], False),
        (["."], False),
        (["network"], True),
        ([], True),
    ],
)
def test_a_source_on_or_above_a_network_mount_is_not_local(tmp_path: Path, paths: list[str], local: bool) -> None:
    """A network disk may be mounted at a source, above it, or anywhere below."""
    for name in ("tree", "net", "network"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("net")
    mounts = [ROOT, Row(str(tmp_path.resolve() / "net"), "nfs4")]
    assert is_local([tmp_path / path for path in paths], mounts) is local


# This machine's mounts


def test_the_disk_of_this_machine_is_local(tmp_path: Path) -> None:
    """The tests' own journals are accepted."""
    refuse_network_disk(tmp_path / "state" / "x.journal")


@pytest.mark.skipif(sys.platform != "linux", reason="the table is Linux's")
def test_mounts_are_those_that_psutil_lists() -> None:
    """Linux's own table is read without it."""
    expected = [(one.mountpoint, one.fstype, one.opts) for one in psutil.disk_partitions(all=True)]
    found = parse_mounts(Path("/proc/self/mounts").read_bytes())
    assert [(one.mountpoint, one.fstype, one.opts) for one in found] == expected


def test_names_of_mounts_may_have_any_characters() -> None:
    """Linux writes blanks, ends of lines and backslashes as octal numbers, and other bytes as they are."""
    table = b"//nas/a\\040b /mnt/a\\040b\\134\\012\xff\r cifs rw,vers=3 0 0\nbroken\n"
    (found,) = parse_mounts(table.replace(b"\\\\", b"\\"))
    assert found == ("//nas/a b", os.fsdecode(b"/mnt/a b\\\n\xff\r"), "cifs", "rw,vers=3")


def test_readers_write_no_journal_on_a_network_disk() -> None:
    """Commands that write no journal do not load psutil."""
    code = "import sys, asyncimport.journal, asyncimport.journal.database; sys.exit('psutil' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no table in a file")
def test_a_journal_is_opened_without_psutil() -> None:
    """Importing it would be a part of each start."""
    code = (
        "import sys, pathlib, asyncimport.journal.database as database\n"
        "database.refuse_network_disk(pathlib.Path('x')); sys.exit('psutil' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


_DETACH = 2  # MNT_DETACH: also while somebody is in it
# By linux/fuse.h: the requests that an empty directory is asked, and what they are answered.
_LOOKUP, _FORGET, _GETATTR, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 26, 36, 42
_NO_REPLY = frozenset({_FORGET, _INTERRUPT, _BATCH_FORGET})
_INITIALISED = struct.pack("<IIIIHHI", 7, 31, 65536, 0, 0, 0, 65536).ljust(64, b"\0")
_DIRECTORY = struct.pack("<QII6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)


def _serve(device: int) -> None:
    """Serve an empty file system until it is unmounted."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:
            return
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode in _NO_REPLY:
            continue
        answer = {_INIT: _INITIALISED, _GETATTR: _DIRECTORY}.get(opcode)
        problem = errno.ENOENT if opcode == _LOOKUP else errno.ENOSYS
        head = struct.pack("<IiQ", 16 + len(answer or b""), 0 if answer else -problem, unique)
        os.write(device, head + (answer or b""))


@contextmanager
def mounted(point: Path, kind: str) -> Iterator[None]:
    """Mount an empty FUSE file system, like sshfs."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no file systems that run as processes: {error}")
    system = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    try:
        if system.mount(b"ann@server:/data", os.fsencode(point), kind.encode(), 0, options) != 0:
            pytest.skip(f"nothing may be mounted here: {os.strerror(ctypes.get_errno())}")
        server = threading.Thread(target=_serve, args=[device], daemon=True)
        server.start()
        try:
            yield
        finally:
            assert system.umount2(os.fsencode(point), _DETACH) == 0
            server.join(10)
    finally:
        os.close(device)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a test mount something")
def test_a_real_mount(tmp_path: Path) -> None:
    """A network file system at a place with spaces in its name is found in the system's table."""
    point = tmp_path / "two  words"
    point.mkdir()
    path = point / "state" / "x.journal"
    refuse_network_disk(path)
    with mounted(point, "fuse.sshfs"):
        with pytest.raises(JournalError, match=r"network file system \(fuse\.sshfs\)"):
            refuse_network_disk(path)
        refuse_network_disk(tmp_path / "x.journal")
    with mounted(point, "fuse.mergerfs"):
        refuse_network_disk(path)
    refuse_network_disk(path)


@pytest.mark.anyio
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a test mount something")
async def test_a_source_on_a_real_mount_is_read_in_threads_only(tmp_path: Path) -> None:
    """However quick it is: when it stops answering, the loop goes on."""
    point = tmp_path / "net"
    point.mkdir()
    file = write(tmp_path / "1.dcm", image(1))

    async def ahead() -> int:
        source = await folder(tmp_path)
        for _ in range(2):
            await source.read([file])
        return source.read_ahead

    assert await ahead() == 0
    with mounted(point, "fuse.sshfs"):
        assert await ahead() == LARGE
