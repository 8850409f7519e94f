"""What workers answer while they scan: all that cannot be is told apart from what can."""

import pickle
from typing import Any

import pytest

from asyncimport.cluster.checks import check_answer
from asyncimport.cluster.scanning_actor import Sight, unpack_batch, unpack_identities
from asyncimport.dicom import Identity
from asyncimport.errors import SourceError
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.system.mounts import TreeIdentity

FILES = [File("/data/1", 10, 1), File("/data/2", 20, 2)]
TREE = TreeIdentity("now", "lasting", is_shared=False)
UNREADABLE = FileKind.UNREADABLE.value
IDENTITY = Identity("1.2", "1", "1.1", {})


@pytest.mark.parametrize(
    ("method", "sound", "wrong"),
    [
        ("begin", Sight({"/data": TREE}, ("utf-8", "strict")), Sight({"/data": "tree"}, ("utf-8", "strict"))),  # type: ignore[dict-item]
        ("begin", Sight({}, ("utf-8", "strict")), Sight({}, ("utf-8",))),  # type: ignore[arg-type]
        ("begin", Sight({}, ("utf-8", "strict")), None),
        ("states", [(1, 2), None], [(1, 2)]),
        ("states", [(1, 2), None], [(1, 2, 3), None]),
        ("states", [(1, 2), None], None),
        ("read", [b"1", SourceError("no")], [b"1", "2"]),
        ("md5", ["0" * 32, SourceError("no")], ["0" * 32]),
        ("have_digests", [True, None], [True, "no"]),
        ("read_piece", b"1", None),
        ("same_bytes", None, "yes"),
        ("sha256", bytes(32), b"1"),
    ],
)
def test_answers_that_cannot_be(method: str, sound: Any, wrong: Any) -> None:
    """Another type, or another number of items than was asked for."""
    assert check_answer(method, [FILES], sound) is sound
    with pytest.raises(ValueError, match=r"^its reply is malformed$"):
        check_answer(method, [FILES], wrong)


def test_sound_batches_and_identities() -> None:
    """They arrive as they were."""
    rows: list[tuple[Any, ...]] = [("/data/1", 10, 1, 5, None), ("/data/2", 0, 1, None, None, UNREADABLE, "no", True)]
    file, ignored = unpack_batch(pickle.dumps(rows))
    assert file == File("/data/1", 10, 1, 5)
    assert isinstance(ignored, Ignored)
    assert ignored.kind is FileKind.UNREADABLE
    found = unpack_identities(FILES, pickle.dumps([IDENTITY, (UNREADABLE, "no", True)]))
    assert found == [IDENTITY, Ignored(FILES[1], FileKind.UNREADABLE, "no", damaged=True)]


@pytest.mark.parametrize(
    "rows",
    [
        5,
        [5],
        [()],
        [("/data/1", 10, 1, None)],
        [("/data/1", "10", 1, None, None)],
        [(b"/data/1", 10, 1, None, None)],
        [("/data/1", 10, 1, "5", None)],
        [("/data/1", 10, 1, None, None, "no kind", "no", True)],
        [("/data/1", 10, 1, None, None, UNREADABLE, "no")],
        [IDENTITY],
        [IDENTITY, 5],
        [IDENTITY, (UNREADABLE, None, True)],
        [IDENTITY, IDENTITY, IDENTITY],
    ],
    ids=repr,
)
def test_batches_and_identities_that_cannot_be(rows: Any) -> None:
    """Not one of them is taken."""
    with pytest.raises((ValueError, TypeError)):
        unpack_batch(pickle.dumps(rows))
    with pytest.raises((ValueError, TypeError)):
        unpack_identities(FILES, pickle.dumps(rows))


def test_bytes_that_are_no_pickle() -> None:
    """An error of the same kind."""
    with pytest.raises(ValueError, match="no pickle"):
        unpack_batch(b"nothing")
