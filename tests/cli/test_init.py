"""`asyncimport init`: what it asks, what it makes of wrong answers, and what it leaves behind."""

import os
import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from conftest import Commands, Ended
from patience import COMMAND, in_time

from asyncimport.testserver import Project, TestXnat, User, serve

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

PASSWORD = "horse-battery"
QUESTIONS = ("XNAT ", "password of ", "name of ", "directory ")
on_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")


@pytest.fixture(autouse=True)
def ada(xnat: TestXnat, commands: Commands, tmp_path: Path) -> None:
    """Make a user whose password can be looked for, a keyring that is a file, and a directory to write plans into."""
    commands.use_keyring()
    commands.directory = tmp_path / "work"
    commands.directory.mkdir()
    xnat.add_user(User("ada", PASSWORD, all_data=True))


async def talked(commands: Commands, answers: Sequence[tuple[str, str]], *words: str) -> Ended:
    """Run the command on a terminal. Each answer is given when the screen ends with its question."""
    ours, theirs = os.openpty()
    shown, left = b"", list(answers)

    def talk() -> None:
        nonlocal shown
        # Linux reports the other end's close as an error.
        with suppress(OSError):
            while piece := os.read(ours, 65_536):
                shown += piece
                question = shown.decode().rpartition("\n")[2]
                if left and question == f"{left[0][0]}: ":
                    os.write(ours, f"{left.pop(0)[1]}\n".encode())
                elif question.startswith(QUESTIONS) and question.endswith(": "):
                    os.write(ours, b"\x04")  # another question than this test expects ends the command

    command = [sys.executable, "-m", "asyncimport", "init", *words]
    # Of another session: without a controlling terminal, which getpass would ask in place of this one.
    async with await anyio.open_process(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=commands.env,
        cwd=commands.directory,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        with in_time(COMMAND):
            await anyio.to_thread.run_sync(talk)
            code = await process.wait()
    os.close(ours)
    assert left == [], shown.decode()
    assert PASSWORD not in shown.decode()
    return Ended(code, shown.decode().replace("\r\n", "\n"), "")


def profiles(commands: Commands) -> object:
    """Return what stands in the configuration."""
    return tomllib.loads((commands.home / ".config" / "asyncimport" / "config.toml").read_text())


@on_a_terminal
async def test_the_happy_path(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """Five answers, and what is proposed next works as it is written."""
    assert commands.directory is not None
    answers = [
        ("XNAT address", url.removeprefix("http://")),
        ("XNAT user name", "ada"),
        ("password of ada", PASSWORD),
        ("XNAT project [demo]", ""),
        ("directory with DICOM files (Enter: not now)", str(tree)),
    ]
    ended = await talked(commands, answers)
    assert ended.code == 0, ended.out
    assert f"XNAT answers at {url}; XNAT 1." in ended.out
    assert "projects in which this user may make sessions: demo\n" in ended.out
    assert "the keyring (a file for tests) has the password\n" in ended.out
    assert " 2 sessions, " in ended.out
    assert profiles(commands) == {
        "default_profile": "default",
        "profiles": {"default": {"host": url, "user": "ada", "project": "demo"}},
    }
    assert (commands.directory / "plan.csv").is_file()
    assert not xnat.prearchive
    proposed = [line.split() for line in ended.out.splitlines() if line.startswith("  asyncimport ")]
    assert [words[1] for words in proposed] == ["upload"] * 3
    done = [await commands(*words[1:]) for words in proposed]
    assert [one.code for one in done] == [0, 0, 0], done
    assert "2 archived" in done[-1].out


@on_a_terminal
async def test_wrong_answers_are_asked_again(xnat: TestXnat, url: str, commands: Commands, tree: Path) -> None:
    """An address without an XNAT, a password, a project and a directory; and existing plans stay as they are."""
    assert commands.directory is not None
    (commands.directory / "plan.csv").write_text("mine\n")
    xnat.add_project(Project("other"))
    empty = commands.directory / "empty"
    empty.mkdir()
    answers = [
        ("XNAT address", "me:secret@example.org"),
        ("XNAT address", "127.0.0.1:1"),
        ("XNAT address", url),
        ("XNAT user name", "ada"),
        ("password of ada", "wrong-horse"),
        ("XNAT user name", "ada"),
        ("password of ada", PASSWORD),
        ("XNAT project", "nowhere"),
        ("XNAT project", "other"),
        ("directory with DICOM files (Enter: not now)", str(empty)),
        ("directory with DICOM files (Enter: not now)", str(tree)),
    ]
    ended = await talked(commands, answers)
    assert ended.code == 0, ended.out
    assert ended.out.count("error: ") == 3
    for said in (
        "error: --host holds a user name or password\n",
        "http://127.0.0.1:1 does not answer",
        "error: XNAT refused the user name or password\n",
        "project nowhere does not exist",
        "error: no DICOM found in",
        "written: plan-2.csv\n",
    ):
        assert said in ended.out, said
    assert "wrong-horse" not in ended.out
    assert "secret" not in ended.out.replace("me:secret@example.org", "", 1)
    assert (commands.directory / "plan.csv").read_text() == "mine\n"


@on_a_terminal
async def test_a_password_is_tried_three_times(url: str, commands: Commands) -> None:
    """XNAT locks the account after twenty refusals."""
    logins = [("XNAT user name [ada]", ""), ("password of ada", "wrong-horse")]
    ended = await talked(commands, [(f"XNAT address [{url}]", ""), *logins * 3], "--host", url, "--user", "ada")
    assert ended.code == 3
    assert ended.out.count("XNAT refused the user name or password") == 3
    assert not (commands.home / ".config").exists()


@on_a_terminal
async def test_a_closed_project_may_be_kept(url: str, commands: Commands) -> None:
    """It may be opened later: whoever names it again goes on, and the exit code says that it is closed."""
    answers = [
        (f"XNAT address [{url}]", ""),
        ("XNAT user name", "ada"),
        ("password of ada", PASSWORD),
        ("XNAT project [later]", ""),
        ("XNAT project", "later"),
        ("directory with DICOM files (Enter: not now)", ""),
    ]
    ended = await talked(commands, answers, "--host", url, "-P", "later")
    assert ended.code == 5, ended.out
    assert "name another project, or this one again to go on with it\n" in ended.out
    assert "  asyncimport plan /data/dicom --out plan.csv\n" in ended.out
    assert profiles(commands) == {
        "default_profile": "default",
        "profiles": {"default": {"host": url, "user": "ada", "project": "later"}},
    }


@on_a_terminal
async def test_another_server_gets_a_profile_of_its_own(xnat: TestXnat, commands: Commands) -> None:
    """It gets nothing that the default profile says of its own server."""
    config = commands.home / ".config" / "asyncimport" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        'default_profile = "a"\n[profiles.a]\nhost = "https://a.example.org"\ninsecure = true\nuser = "me"\n'
    )
    async with serve(xnat, context="/other") as other:
        answers = [
            ("XNAT address", other),
            ("XNAT user name", "ada"),
            ("password of ada", PASSWORD),
            ("XNAT project [demo]", ""),
            ("name of the new profile", "a"),
            ("name of the new profile", "b"),
            ("directory with DICOM files (Enter: not now)", ""),
        ]
        ended = await talked(commands, answers)
    assert ended.code == 0, ended.out
    assert ended.out.count("error: profile a is of https://a.example.org\n") == 2
    assert "--plan plan.csv --profile b --dry-run\n" in ended.out
    assert profiles(commands) == {
        "default_profile": "a",
        "profiles": {
            "a": {"host": "https://a.example.org", "insecure": True, "user": "me"},
            "b": {"host": other, "user": "ada", "project": "demo"},
        },
    }


async def test_without_a_terminal_the_options_answer(url: str, commands: Commands, tree: Path) -> None:
    """For scripts that set up a machine. What is missing is named."""
    words = ["--host", url, "--user", "ada", "-P", "demo", "--password-stdin", str(tree)]
    ended = await commands("init", *words, stdin=f"{PASSWORD}\n".encode())
    assert ended.code == 0, ended.err
    assert "written: plan.csv\n" in ended.out
    for option, number in {"--host": 0, "--user": 2, "--project": 4}.items():
        rest = [word for place, word in enumerate(words) if place not in {number, number + 1}]
        ended = await commands("init", *rest, stdin=f"{PASSWORD}\n".encode())
        if option == "--project":  # the only one that this user may fill
            assert ended.code == 0, ended.err
        else:
            assert (ended.code, ended.err.splitlines()[0]) == (2, f"error: {option} is missing")


@pytest.mark.parametrize(
    ("changed", "code"),
    [({"--host": "http://127.0.0.1:1"}, 4), ({"--user": "eve"}, 3), ({"-P": "nowhere"}, 5), ({"--host": "ftp://a"}, 2)],
)
async def test_without_a_terminal_a_wrong_answer_ends_it(
    url: str, commands: Commands, changed: dict[str, str], code: int
) -> None:
    """With the exit code of an upload."""
    words = {"--host": url, "--user": "ada", "-P": "demo"} | changed
    ended = await commands(
        "init", *(word for pair in words.items() for word in pair), "--password-stdin", stdin=f"{PASSWORD}\n".encode()
    )
    assert ended.code == code, ended.out + ended.err
