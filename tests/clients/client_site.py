"""A site to look at, and a way to run blocking clients while its server runs in the event loop."""

import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
from anyio import to_thread
from builders import image, sop

from asyncimport.testserver import Project, TestXnat, User

_Result = TypeVar("_Result")
IMPORT = {"import-handler": "gradual-DICOM", "inbody": "true", "rename": "true", "prevent_auto_commit": "true"}


@dataclass(frozen=True, slots=True)
class Site:
    """A served test XNAT. Its users are demo and the administrator admin, each with the name as the password."""

    xnat: TestXnat
    url: str

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Run a client's calls in a thread, and collect what they leave open while warnings are ignored."""
        try:
            return await to_thread.run_sync(work)
        finally:
            gc.collect()

    @property
    def labels(self) -> list[str]:
        """The labels of all archived sessions."""
        return [session.label for session in self.xnat.archived]


async def filled_site(xnat: TestXnat, url: str) -> Site:
    """Make two projects; the first has the session E, with two instances, and W, which waits in the prearchive."""
    xnat.add_user(User("admin", "admin", all_data=True))
    xnat.add_project(Project("other", "Other"))
    auth = aiohttp.BasicAuth("demo", "demo")
    async with aiohttp.ClientSession(auth=auth) as http:

        async def post(path: str, body: bytes | None = None, **params: str) -> str:
            headers = {"Content-Type": "application/dicom"} if body is not None else {}
            async with http.post(url + path, params=params, data=body, headers=headers) as reply:
                assert reply.status == 200, await reply.text()
                return (await reply.text()).strip()

        for label, study, numbers in (("E", "1.2.3", (1, 2)), ("W", "1.2.9", (9,))):
            names: Mapping[str, str] = {"PROJECT_ID": "demo", "SUBJECT_ID": "S", "EXPT_LABEL": label}
            uri = ""
            for number in numbers:
                body = image(number, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1", SeriesDescription="T1")
                uri = await post("/data/services/import", body, **IMPORT, **names)
            await post(uri, action="build")
            if label == "E":
                await post("/data/services/archive", src=uri)
    return Site(xnat, url)


def write_note(folder: Path) -> Path:
    """Write a text file."""
    path = folder / "note.txt"
    path.write_text("a note")
    return path


def write_folder(parent: Path) -> Path:
    """Write a folder of two text files, one of them in a folder of its own."""
    root = parent / "folder"
    (root / "inner").mkdir(parents=True)
    (root / "one.txt").write_text("1")
    (root / "inner" / "two.txt").write_text("2")
    return root


def sop_uids(*numbers: int) -> set[str]:
    """Return the SOPInstanceUIDs of these instances."""
    return {sop(number) for number in numbers}


def write_visit(parent: Path) -> Path:
    """Write a folder of two DICOM files of a new study."""
    root = parent / "visit"
    root.mkdir()
    for number in (11, 12):
        data = image(number, StudyInstanceUID="1.2.7", SeriesInstanceUID="1.2.7.1", SeriesDescription="T2")
        (root / f"{number}.dcm").write_bytes(data)
    return root


def packed(folder: Path, form: str) -> Path:
    """Pack a folder as zip, tar or gztar."""
    return Path(shutil.make_archive(str(folder), form, folder))
