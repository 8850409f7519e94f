"""Files that exist are not trusted, and only files are replaced."""

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Commands

from asyncimport.system.output_files import (
    UntrustedError,
    check_directory,
    check_output,
    check_trusted,
    open_output,
    real_path,
    replacing,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners and modes")

ANOTHER = 65534
APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT


@pytest.fixture
def another() -> Callable[[Path], Path]:
    """Give a file, or a link itself, to another user. Only root can."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")

    def give(path: Path) -> Path:
        os.chown(path, ANOTHER, ANOTHER, follow_symlinks=False)
        return path

    return give


def append(path: Path, text: bytes = b"new\n") -> None:
    """Append as logs do."""
    file = open_output(path, APPENDING)
    os.write(file, text)
    os.close(file)


def replace(path: Path, text: bytes = b"new\n") -> None:
    """Write as receipts, lists and plans do."""
    check_output(path)
    with replacing(path) as file:
        file.write(text)


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


WAYS = pytest.mark.parametrize("write", [append, replace])
EVERY_WAY = pytest.mark.parametrize("use", [append, replace, check_output, check_trusted])


@contextmanager
def umask(number: int) -> Iterator[None]:
    """Set the umask for a while."""
    before = os.umask(number)
    try:
        yield
    finally:
        os.umask(before)


@WAYS
def test_a_new_file_is_its_owners_alone(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """Whatever the umask says: such files name patients."""
    path = tmp_path / "out"
    with umask(0):
        write(path)
    assert (mode(path), path.read_bytes()) == (0o600, b"new\n")


@WAYS
@pytest.mark.parametrize(
    ("before", "after"), [(0o644, 0o600), (0o666, 0o600), (0o664, 0o600), (0o640, 0o640), (0o600, 0o600)]
)
def test_a_file_of_ours_becomes_private(tmp_path: Path, write: Callable[[Path], None], before: int, after: int) -> None:
    """Others lose all access, the group may not write; a group that may read on purpose keeps that."""
    path = tmp_path / "out"
    path.touch()
    path.chmod(before)
    write(path)
    assert mode(path) == after


@EVERY_WAY
def test_another_users_link_is_not_followed(
    tmp_path: Path, another: Callable[[Path], Path], use: Callable[[Path], None]
) -> None:
    """In a shared directory `asyncimport.log` may lead to ~/.bashrc."""
    target = tmp_path / "bashrc"
    target.write_text("mine")
    link = tmp_path / "out"
    link.symlink_to(target)
    another(link)
    with pytest.raises(UntrustedError, match="the link belongs to ") as caught:
        use(link)
    assert caught.value.hint
    assert target.read_text() == "mine"
    assert link.is_symlink()


def test_a_link_to_another_users_link_is_not_followed(tmp_path: Path, another: Callable[[Path], Path]) -> None:
    """Each link is checked."""
    (tmp_path / "target").touch()
    (tmp_path / "between").symlink_to("target")
    another(tmp_path / "between")
    (tmp_path / "out").symlink_to("between")
    with pytest.raises(UntrustedError, match="the link belongs to "):
        append(tmp_path / "out")


@WAYS
@pytest.mark.parametrize("exists", [True, False])
def test_an_own_link_is_followed(tmp_path: Path, write: Callable[[Path], None], *, exists: bool) -> None:
    """The link stays, and its target is written."""
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "receipts"
    if exists:
        target.touch()
    link = tmp_path / "out"
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new\n"
    assert real_path(link) == target
    assert list(target.parent.iterdir()) == [target]


def test_links_in_a_circle(tmp_path: Path) -> None:
    """They are an error like any other."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        append(tmp_path / "a")


@EVERY_WAY
def test_another_users_file_is_refused(
    tmp_path: Path, another: Callable[[Path], Path], use: Callable[[Path], None]
) -> None:
    """Its owner would read what we write, or we would trust what the owner wrote."""
    path = tmp_path / "out"
    path.write_text("his")
    path.chmod(0o666)
    another(path)
    with pytest.raises(UntrustedError, match="it belongs to "):
        use(path)
    assert path.read_text() == "his"


@pytest.mark.parametrize("use", [append, check_trusted])
def test_another_users_pipe_is_refused_without_waiting(
    tmp_path: Path, another: Callable[[Path], Path], use: Callable[[Path], None]
) -> None:
    """Opening it would wait for ever for a reader."""
    os.mkfifo(tmp_path / "out")
    with pytest.raises(UntrustedError):
        use(another(tmp_path / "out"))


@WAYS
def test_another_users_hard_link_to_our_file_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """In a directory that others can write; elsewhere a hard link is fine."""
    (tmp_path / "bashrc").write_text("mine")
    for name, is_open in (("shared", True), ("own", False)):
        directory = tmp_path / name
        directory.mkdir()
        directory.chmod(0o1777 if is_open else 0o700)
        os.link(tmp_path / "bashrc", directory / "out")
        if is_open:
            with pytest.raises(UntrustedError, match="it has another name too"):
                write(directory / "out")
            assert (tmp_path / "bashrc").read_text() == "mine"
        else:
            write(directory / "out")


@WAYS
def test_a_pipe_is_written_to(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """All that was written comes out, and it stays a pipe."""
    path = tmp_path / "out"
    os.mkfifo(path)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as reader:
        write(path)
        out, _ = reader.communicate()
    assert out == b"new\n"
    assert stat.S_ISFIFO(path.stat().st_mode)


@WAYS
def test_a_device_stays_one(write: Callable[[Path], None]) -> None:
    """Root could replace `/dev/full` itself."""
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"))
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("piped", [True, False])
def test_inherited_files_are_used_as_they_are(tmp_path: Path, name: str, *, piped: bool) -> None:
    """Standard output may be a pipe or a file of the shell; neither is replaced."""
    code = (
        "import sys; from pathlib import Path; from asyncimport.system.output_files import replacing, check_output\n"
        "check_output(Path(sys.argv[1]))\n"
        "with replacing(Path(sys.argv[1])) as file: file.write(b'new')"
    )
    command = [sys.executable, "-c", code, name]
    if piped:
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        out = (tmp_path / "out").read_bytes()
        assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert out == b"new"


def test_a_failure_leaves_the_old_file_whole(tmp_path: Path) -> None:
    """However the writing ends, there is no partial file, and no temporary one."""
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half" + bytes(1 // 0))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    """It is found out before anything is written."""
    with pytest.raises(OSError, match="there is no such directory"):
        check_output(tmp_path / "away" / "out")
    with pytest.raises(IsADirectoryError):
        check_output(tmp_path)


@pytest.mark.parametrize("writable", [0o020, 0o002])
def test_files_that_others_can_write_are_not_trusted(tmp_path: Path, writable: int) -> None:
    """Others may have changed them; files that others can only read become private."""
    path = tmp_path / "x.journal"
    path.touch()
    path.chmod(0o600 | writable)
    with pytest.raises(UntrustedError, match="others may write to it") as caught:
        check_trusted(path)
    assert f"chmod go-rwx {path}" in caught.value.hint
    path.chmod(0o644)
    check_trusted(path)
    assert mode(path) == 0o600


def test_files_with_two_names_are_not_trusted(tmp_path: Path) -> None:
    """SQLite keeps a log under each name, and damages the file."""
    (tmp_path / "one").touch()
    os.link(tmp_path / "one", tmp_path / "two")
    with pytest.raises(UntrustedError, match="another name"):
        check_trusted(tmp_path / "two")


def test_a_directory_that_is_open_to_all(tmp_path: Path) -> None:
    """Others can add files, even where they cannot replace ours."""
    for number in (0o777, 0o1777):
        tmp_path.chmod(number)
        with pytest.raises(UntrustedError, match="everybody may write") as caught:
            check_directory(tmp_path)
        # Nobody is told to close what is shared on purpose, as /tmp is.
        assert ("chmod o-w" in caught.value.hint) is (number == 0o777)
        # As volumes of containers are: what is made there, as the hint says, is one's own.
        own = tmp_path / "asyncimport"
        assert f"{own}" in caught.value.hint
        own.mkdir(mode=0o700, exist_ok=True)
        check_directory(own)
    tmp_path.chmod(0o775)
    check_directory(tmp_path)


def test_another_users_directory(another: Callable[[Path], Path]) -> None:
    """Its owner can replace everything in it. Root may use it, as containers do."""
    with tempfile.TemporaryDirectory() as name:
        directory = another(Path(name))
        check_directory(directory)
        os.seteuid(1_000)
        try:
            with pytest.raises(UntrustedError, match="its directory belongs to"):
                check_directory(directory)
        finally:
            os.seteuid(0)


@pytest.mark.usefixtures("another")
def test_roots_files_are_trusted_unless_open_to_all() -> None:
    """Root could write to all of ours anyway."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        for path, number in ((directory / "group", 0o660), (directory / "all", 0o666)):
            path.touch()
            path.chmod(number)
            os.chown(path, 0, 1_000)
        groups = os.getgroups()
        os.setgroups([1_000])
        os.seteuid(1_000)
        try:
            append(directory / "group")
            with pytest.raises(UntrustedError, match="open to everybody"):
                append(directory / "all")
        finally:
            os.seteuid(0)
            os.setgroups(groups)


class TestCommands:
    """The command line with such files."""

    pytestmark = pytest.mark.anyio

    async def test_a_log_that_another_has_linked_to_a_file_of_ours(
        self, url: str, commands: Commands, tree: Path, tmp_path: Path, another: Callable[[Path], Path]
    ) -> None:
        """Nothing is sent, and one line says why."""
        commands.login(url)
        (tmp_path / "bashrc").write_text("mine")
        for option in ("--log-file", "--events", "--receipts", "--journal"):
            link = tmp_path / f"out{option}"
            link.symlink_to(tmp_path / "bashrc")
            another(link)
            ended = await commands("upload", tree, "-P", "demo", "-q", option, link)
            assert ended.code == (1 if option == "--journal" else 2), ended.err
            assert "the link belongs to " in ended.err
            assert "hint: " in ended.err
            assert "Traceback" not in ended.err
        assert (tmp_path / "bashrc").read_text() == "mine"

    async def test_receipts_and_lists_go_through_pipes(self, url: str, commands: Commands, tree: Path) -> None:
        """As with `--receipts >(gzip > receipts.gz)`; `/dev/full` says that it is full, and stays a device."""
        commands.login(url)
        ended = await commands("upload", tree, "-P", "demo", "-q", "--receipts", "/dev/stdout")
        assert ended.code == 0, ended.err
        rows = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
        assert sum(row["kind"] == "file" for row in rows) == 12
        ended = await commands("verify", "--safe-to-delete", "/dev/stdout", "-o", "json")
        assert sum(line.startswith(str(tree)) for line in ended.out.splitlines()) == 12
        ended = await commands("upload", tree, "-P", "demo", "-q", "--receipts", "/dev/full")
        assert (ended.code, "cannot be written: No space left" in ended.err) == (1, True)
        assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)

    async def test_a_log_of_ours_that_others_could_read(
        self, url: str, commands: Commands, tree: Path, tmp_path: Path
    ) -> None:
        """The run continues, and the log becomes private."""
        commands.login(url)
        log = tmp_path / "asyncimport.log"
        log.write_text("before\n")
        log.chmod(0o644)
        ended = await commands("upload", tree, "-P", "demo", "-q", "--log-file", log)
        assert ended.code == 0, ended.err
        assert mode(log) == 0o600
        assert log.read_text().startswith("before\n2")
