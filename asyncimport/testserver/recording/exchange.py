"""One request and its reply, as a recording has them: a JSON object a line."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..site.json_values import build

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its reply, without secrets and names.

    `body` is what was sent: nothing, a form (`name=value` by name), `dicom` with the UIDs and the modality of an
    instance, or `bytes` with their number. `login` is how the request was authenticated: with a password, by a cookie,
    or not.
    """

    method: str
    path: str
    query: tuple[tuple[str, ...], ...] = ()
    type: str = ""
    login: str = ""
    body: tuple[tuple[str, ...], ...] = ()
    status: int = 0
    reply_type: str = ""
    headers: dict[str, object] = field(default_factory=dict)
    reply: object = ""

    def line(self) -> str:
        """Return the exchange as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def answer(self) -> tuple[object, ...]:
        """What two servers that behave alike have in common."""
        return self.status, self.reply_type, self.headers, self.reply


def read_recording(path: Path) -> Iterator[Exchange]:
    """Read a recording. Raises ValueError for what is none, OSError."""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError:
            raise ValueError(f"line {number} is not JSON") from None
        if number == 1:
            if not isinstance(value, dict) or value.get("recording") != FORMAT:
                raise ValueError("this is no recording of this version")
            continue
        yield _exchange(value)


def head() -> str:
    """Return the first line of a recording."""
    return json.dumps({"recording": FORMAT}) + "\n"


def write_recording(path: Path, exchanges: Iterable[Exchange]) -> None:
    """Write a recording."""
    path.write_text(head() + "".join(exchange.line() for exchange in exchanges), "utf-8")


def _exchange(value: dict[str, object]) -> Exchange:
    free = {name: value.pop(name, default) for name, default in (("headers", {}), ("reply", ""))}
    plain = build(_Plain, value)
    return Exchange(**{name: getattr(plain, name) for name in _Plain.__slots__}, **free)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Plain:
    """The parts of an exchange whose types can be checked."""

    method: str
    path: str
    query: tuple[tuple[str, ...], ...] = ()
    type: str = ""
    login: str = ""
    body: tuple[tuple[str, ...], ...] = ()
    status: int = 0
    reply_type: str = ""
