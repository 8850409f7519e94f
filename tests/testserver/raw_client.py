"""A plain HTTP client for the test XNAT: hand-made requests over real sockets, and DICOM made with pydicom.

Nothing of the project's client is used here.
"""

import base64
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
from anyio import to_thread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from yarl import URL

from asyncimport.testserver import TestXnat, serve

STUDY, SERIES = "1.2.3", "1.2.3.4"
IMPORT = {
    "import-handler": "gradual-DICOM",
    "inbody": "true",
    "PROJECT_ID": "demo",
    "SUBJECT_ID": "S",
    "EXPT_LABEL": "E",
    "rename": "true",
    "prevent_auto_commit": "true",
    "SOURCE": "uploader",
}


def dicom(number: int = 1, /, *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> bytes:
    """Return a small MR instance; `number` makes its SOPInstanceUID; None leaves an attribute out."""
    values: dict[str, object] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": sop(number),
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "StudyDate": "20200102",
        "Modality": "MR",
        "PatientID": "PID",
        "PatientName": "Doe^Jane",
        "SeriesDescription": "T1 <fast>",
        "SeriesNumber": 1,
        "InstanceNumber": number,
        "PixelData": bytes(range(100)),
        "BitsAllocated": 8,
    } | attributes
    dataset = Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop(number))
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def sop(number: int) -> str:
    """Return the SOPInstanceUID of `dicom(number)`."""
    return f"{SERIES}.{number}"


def basic_auth(user: str = "demo", password: str | None = None) -> dict[str, str]:
    """Return the header of Basic authentication; the password is the user's name unless given."""
    password = user if password is None else password
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


async def files_below(folder: Path) -> dict[tuple[str, ...], bytes]:
    """Return the bytes of every file below a folder, by the parts of its path."""

    def read() -> dict[tuple[str, ...], bytes]:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).parts: path.read_bytes() for path in paths}

    return await to_thread.run_sync(read)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """Return the reading."""
        return self.seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply."""

    status: int
    text: str
    headers: Mapping[str, str]
    cookies: Mapping[str, str]

    @property
    def type(self) -> str:
        """The media type."""
        return self.headers.get("Content-Type", "").partition(";")[0]

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of a listing."""
        rows: list[dict[str, str]] = self.json["ResultSet"]["Result"]
        return rows

    @property
    def message(self) -> str:
        """The text on an error page of Restlet."""
        found = re.search(r"<h3>(.*?)</h3>", self.text)
        assert found, self.text
        return found[1]


@dataclass(slots=True)
class RawClient:
    """Makes requests to one server."""

    xnat: TestXnat
    url: str
    http: aiohttp.ClientSession

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        /,
        **params: str,
    ) -> Reply:
        """Make a request; redirects are not followed."""
        url = URL(self.url + path, encoded=True)
        if params:
            url = url.extend_query(params)
        data = BytesIO(body) if isinstance(body, bytes) else body  # aiohttp warns of large bytes
        async with self.http.request(method, url, data=data, headers=headers, allow_redirects=False) as reply:
            cookies = {name: morsel.value for name, morsel in reply.cookies.items()}
            return Reply(reply.status, await reply.text(), reply.headers.copy(), cookies)

    async def get(self, path: str, headers: Mapping[str, str] | None = None, /, **params: str) -> Reply:
        """GET."""
        return await self.ask("GET", path, None, headers, **params)

    async def post(self, path: str, body: Any = None, /, **params: str) -> Reply:
        """POST."""
        return await self.ask("POST", path, body, **params)

    async def put(self, path: str, body: Any = None, /, **params: str) -> Reply:
        """PUT."""
        return await self.ask("PUT", path, body, **params)

    async def send(self, body: Any, *, content_type: str = "application/dicom", **params: str) -> Reply:
        """Import a body with valid parameters; those given replace them, and an empty text leaves one out."""
        query = {name: value for name, value in (IMPORT | params).items() if value}
        headers = {"Content-Type": content_type}
        return await self.ask("POST", "/data/services/import", body, headers, **query)

    async def import_session(self, *bodies: bytes, **params: str) -> str:
        """Import bodies, all successfully, into one session; return its URI."""
        uris = set()
        for body in bodies:
            answer = await self.send(body, **params)
            assert answer.status == 200, answer.text
            uris.add(answer.text.strip())
        (uri,) = uris
        return uri

    async def build_session(self, *bodies: bytes, **params: str) -> str:
        """Import bodies and build their session; return its URI."""
        uri = await self.import_session(*(bodies or (dicom(),)), **params)
        assert (await self.post(uri, action="build")).status == 200
        return uri

    async def archive(self, uri: str, **params: str) -> Reply:
        """Archive a session."""
        return await self.post("/data/services/archive", src=uri, **params)

    async def archive_session(self, *bodies: bytes, **params: str) -> str:
        """Import bodies, build and archive their session; return the archived session's URI."""
        answer = await self.archive(await self.build_session(*bodies, **params))
        assert answer.status == 200, answer.text
        return answer.text.strip()

    async def row_status(self, uri: str) -> str:
        """Return a prearchive row's status, or "gone"."""
        rows = (await self.get(uri, format="json")).rows
        return rows[0]["status"] if rows else "gone"


@asynccontextmanager
async def raw_client(
    xnat: TestXnat | None = None,
    *,
    user: str | None = "demo",
    agent: str = "test/1",
    context: str = "",
    cookies: bool = True,
) -> AsyncIterator[RawClient]:
    """Serve a test XNAT and yield a client logged in as `user`; any error that the server logs fails the test."""
    xnat = xnat or TestXnat()
    jar = aiohttp.CookieJar(unsafe=True) if cookies else aiohttp.DummyCookieJar()
    headers = {"User-Agent": agent}
    with _no_errors():
        async with (
            serve(xnat, context=context) as url,
            aiohttp.ClientSession(cookie_jar=jar, headers=headers) as http,
        ):
            client = RawClient(xnat, url, http)
            if user is not None:
                password = xnat.users[user].password
                login = await client.get("/data/JSESSION", basic_auth(user, password))
                assert login.status == 200
                xnat.count.clear()
            yield client


class _no_errors(logging.Handler):  # noqa: N801
    """Fails when aiohttp's server has logged an error: a handler with a bug answers 500 like any other."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)

    def __enter__(self) -> None:
        logging.getLogger("aiohttp.server").addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("aiohttp.server").removeHandler(self)
        assert not self.records, [record.exc_text or record.getMessage() for record in self.records]
