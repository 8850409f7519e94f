"""What names a cluster, and where its workers have the files."""

import subprocess
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

import pytest

from asyncimport.cluster.path_map import PathMap, ScanSettings, below
from asyncimport.cluster.specs import Address, Local, Named, Slurm, Spec, is_here, parse_spec
from asyncimport.errors import UsageError
from asyncimport.system.mounts import tree_identity


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tcp://10.0.0.1:8786", Address("tcp://10.0.0.1:8786")),
        ("tls://head.example.org:8786", Address("tls://head.example.org:8786")),
        ("tls://[::1]:8786", Address("tls://[::1]:8786")),
        ("local:4", Local(4)),
        ("slurm:cluster.toml", Slurm(Path("cluster.toml"))),
        ("@site.cluster:make", Named("site.cluster", "make")),
    ],
)
def test_what_names_a_cluster(text: str, spec: Spec) -> None:
    """It is written as it is read."""
    assert parse_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "local",
            "local:",
            "local:0",
            "local:-1",
            "local:1000",
            "local:two",
            "slurm:",
            "@",
            "@module",
            "@module:",
        ),
        *("@module:a.b", "tcp://", "tcp://host", "tcp://host:port", "tcp://host:0", "tls://me:secret@host:8786"),
        *("http://host:8786", "host:8786", "tcp://host:8786/x", "tcp://host:99999", "tcp://ho\nst:1", "inproc://1/2/3"),
    ],
)
def test_what_names_none(text: str) -> None:
    """The error has the forms."""
    with pytest.raises(UsageError, match="tls://HOST:PORT"):
        parse_spec(text)


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("tcp://127.0.0.1:8786", True),
        ("tcp://127.3.2.1:8786", True),
        ("tcp://[::1]:8786", True),
        ("tcp://localhost:8786", True),
        ("tcp://192.0.2.1:8786", False),
        ("tcp://xnat.example.org:8786", False),
        ("tcp://127.0.0.1.example.org:8786", False),
        ("tcp://localhost.example.org:8786", False),
        ("tcp://[2001:db8::1]:8786", False),
    ],
)
def test_only_addresses_of_this_machine_need_no_encryption(address: str, is_ours: bool) -> None:
    """A name that is looked up may lead anywhere."""
    assert is_here(address) == is_ours


@pytest.mark.parametrize(
    ("directory", "path", "rest"),
    [
        ("/a", "/a", ""),
        ("/a", "/a/b", "/b"),
        ("/a", "/ab", None),
        ("/a", "/b/a", None),
        ("/", "/a", "/a"),
        ("/", "/", ""),
        ("/a/", "/a/b", "/b"),
    ],
)
def test_what_is_below_a_directory(directory: str, path: str, rest: str | None) -> None:
    """A name that only begins alike is not below."""
    assert below(directory, path) == rest


class Mapped(NamedTuple):
    """A map, and a path on both sides."""

    pairs: list[tuple[str, str]]
    path: str
    here: str


@pytest.mark.parametrize(
    "row",
    [
        Mapped([], "/mnt/a/f", "/mnt/a/f"),
        Mapped([("/mnt/a", "/data/a")], "/mnt/a/f", "/data/a/f"),
        Mapped([("/mnt/a", "/data/a")], "/mnt/a", "/data/a"),
        Mapped([("/mnt/a", "/data/a")], "/mnt/ab/f", "/mnt/ab/f"),
        Mapped([("/mnt/a", "/data/a")], "/mnt/a/\udcff", "/data/a/\udcff"),
        Mapped([("/mnt", "/x"), ("/mnt/a", "/y")], "/mnt/a/f", "/y/f"),
        Mapped([("/mnt/a", "/y"), ("/mnt", "/x")], "/mnt/b/f", "/x/b/f"),
        Mapped([("/", "/host")], "/mnt/a", "/host/mnt/a"),
        Mapped([("/mnt/a", "/")], "/mnt/a/f", "/f"),
        Mapped([("/mnt/a", "/")], "/mnt/a", "/"),
    ],
)
def test_a_path_of_a_worker(row: Mapped) -> None:
    """The longest directory decides."""
    assert PathMap(ScanSettings(places=[], path_map=row.pairs)).here(row.path) == row.here


def test_a_worker_takes_the_first_place_that_it_has(tmp_path: Path) -> None:
    """File servers have their own disks elsewhere."""
    there = str(tmp_path)
    for pairs in ([("/mnt/a", "/nowhere"), ("/mnt/a", there)], [("/mnt/a", there), ("/mnt/a", "/nowhere")]):
        assert PathMap(ScanSettings(places=["/mnt/a"], path_map=pairs)).here("/mnt/a/f") == f"{there}/f"


def test_what_is_below_a_place_is_where_its_walk_found_it() -> None:
    """Also where the map has another path for a directory of the place, which the walk knows nothing of."""
    paths = PathMap(ScanSettings(places=["/mnt"], path_map=[("/mnt", "/x"), ("/mnt/a", "/y")]))
    assert paths.here("/mnt/a/f") == "/x/a/f"


class Disk(NamedTuple):
    """A mount, as psutil describes it."""

    device: str
    mountpoint: str
    fstype: str
    opts: str = "rw"


def test_a_tree_is_known_by_its_server_or_by_this_machine(tmp_path: Path) -> None:
    """A share is the same everywhere. A disk, and a folder that a host shares under some name, are not."""
    place = str(tmp_path)
    found = {}
    for name, disk in {
        "share": Disk("files:/export", place, "nfs4"),
        "other share": Disk("other:/export", place, "nfs4"),
        "windows": Disk("//files/export", place, "cifs"),
        "cluster": Disk("gpfs0", place, "gpfs"),
        "disk": Disk("/dev/sda1", place, "ext4"),
        "folder of the host": Disk("shared", place, "9p"),
    }.items():
        tree = tree_identity(place, [Disk("/dev/root", "/", "ext4"), disk])
        assert tree is not None
        found[name] = tree
    names = {name for name, tree in found.items() if tree.is_shared}
    assert names == {"share", "other share", "windows", "cluster"}
    assert len({found[name].now for name in names}) == 4
    assert found["disk"].now == found["folder of the host"].now


def test_what_is_mounted_below_belongs_to_the_tree(tmp_path: Path) -> None:
    """A worker that lacks a mount sees other files."""
    place, inner = str(tmp_path), str(tmp_path / "inner")
    (tmp_path / "inner").mkdir()
    mounts = [Disk("/dev/root", "/", "ext4"), Disk("files:/export", place, "nfs4")]
    without = tree_identity(place, mounts)
    trees = {tree_identity(place, [*mounts, Disk(device, inner, "nfs4")]) for device in ("a:/x", "b:/x")}
    assert len({without, *trees}) == 3
    assert tree_identity(place, [*mounts, Disk("a:/x", f"{place}-beside", "nfs4")]) == without


def test_nothing_is_no_tree(tmp_path: Path) -> None:
    """A link that leads nowhere is something: its walk reports it."""
    assert tree_identity(str(tmp_path / "nothing")) is None
    (tmp_path / "link").symlink_to("nowhere")
    assert tree_identity(str(tmp_path / "link")) is not None


def test_a_machine_that_tells_no_boot_is_known_by_its_name_and_its_network_card(tmp_path: Path) -> None:
    """As those of macOS. Copies of a machine have one name, and their disks the same numbers."""
    if uuid.getnode() >> 40 & 1:
        pytest.skip("no network card is found here")
    ask = "print(running_machine(Path(sys.argv[1])))"
    code = f"import sys; from pathlib import Path; from asyncimport.system.mounts import running_machine; {ask}"
    command = [sys.executable, "-c", code, str(tmp_path / "absent")]
    (one, other) = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == other
    assert str(uuid.getnode()) in one
