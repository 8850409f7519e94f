"""Sends a recording to another server, and tells where its answers differ."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import quote, urlencode

import aiohttp
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from yarl import URL

from .exchange import Exchange
from .mask import Mask
from .proxy import answer_of


@dataclass(frozen=True, slots=True)
class Difference:
    """A request to which the server answered otherwise than in the recording."""

    number: int
    exchange: Exchange
    answer: Exchange

    def __str__(self) -> str:
        parts = []
        for name in ("status", "reply_type", "headers", "reply"):
            recorded, now = getattr(self.exchange, name), getattr(self.answer, name)
            if recorded != now:
                parts.append(f"{name}: recorded {json.dumps(recorded)}, here {json.dumps(now)}")
        return f"{self.number}: {self.exchange.method} {self.exchange.path}: {'; '.join(parts)}"


def tells_apart(exchanges: Sequence[Exchange]) -> bool:
    """Whether the user and the project of a recording have different names."""
    return any("{project:1}" in exchange.line() for exchange in exchanges)


async def replay(
    exchanges: Sequence[Exchange], url: str, *, user: str, password: str, project: str
) -> list[Difference]:
    """Send all requests of a recording to a server, in order, and return where it answers otherwise.

    The first project and user of the recording become those given, which must have one name if, and only if,
    they have one in the recording. Files are made up,
    with the UIDs of the recording's.
    """
    if (user == project) is tells_apart(exchanges):
        raise ValueError("user and project have one name here or in the recording, and not in both")
    base = url.rstrip("/")
    mask = Mask(base)
    mask.bind("{project:1}", project)
    mask.bind("{user:1}", user)
    authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    differences = []
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        for number, exchange in enumerate(exchanges, 1):
            query = [(name, mask.fill(value)) for name, value in exchange.query]
            target = base + quote(mask.fill(exchange.path), safe="/%~*,:@!$&'()+;=")
            address = URL(f"{target}?{urlencode(query)}" if query else target, encoded=True)
            headers = {"Content-Type": exchange.type} if exchange.type else {}
            if exchange.login == "password":
                headers["Authorization"] = authorization
            body = _body(mask, exchange, password)
            async with http.request(
                exchange.method,
                address,
                data=body,
                headers=headers,
                allow_redirects=False,
                skip_auto_headers=() if exchange.type else ("Content-Type",),
            ) as reply:
                answer = answer_of(mask, reply, await reply.read())
            here = Exchange(exchange.method, exchange.path, **answer)  # type: ignore[arg-type]
            if here.answer != exchange.answer:
                differences.append(Difference(number, exchange, here))
    return differences


def _body(mask: Mask, exchange: Exchange, password: str) -> bytes | None:
    match exchange.body:
        case ():
            return None
        case (("dicom", study, series, sop, *rest),):
            return _instance(mask.fill(study), mask.fill(series), mask.fill(sop), *rest)
        case (("bytes", size),):
            return bytes(int(size))
        case _:
            pairs = [(name, mask.fill(value)) for name, value in exchange.body[1:]]
            return urlencode([(name, password if value == "{secret}" else value) for name, value in pairs]).encode()


def _instance(
    study: str, series: str, sop: str, modality: str, series_number: str, date: str, description: str, number: str
) -> bytes:
    """Return a small DICOM file."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, sop
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.Modality, dataset.SeriesNumber, dataset.StudyDate = modality, series_number or None, date
    dataset.SeriesDescription, dataset.InstanceNumber = description, number or None
    dataset.PatientID = dataset.PatientName = "REPLAY"
    dataset.BitsAllocated, dataset.PixelData = 8, bytes(64)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()
