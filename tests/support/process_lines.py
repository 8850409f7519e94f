"""What a process writes, line by line."""

from anyio.abc import ByteReceiveStream
from anyio.streams.text import TextReceiveStream
from patience import RUN, in_time


class Lines:
    """The lines that a process writes."""

    def __init__(self, stream: ByteReceiveStream) -> None:
        self.lines: list[str] = []
        self._stream = TextReceiveStream(stream)
        self._rest = ""

    async def until(self, text: str) -> None:
        """Read until there is a line with this text."""
        with in_time(RUN):
            while True:
                while "\n" in self._rest:
                    line, _, self._rest = self._rest.partition("\n")
                    self.lines.append(line)
                    if text in line:
                        return
                self._rest += await self._stream.receive()
