"""How one stage wakes another: a stream with room for a few items that carry nothing."""

import anyio
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

Signal = MemoryObjectSendStream[None]
Wakeups = ObjectReceiveStream[None]


def make_signal(listeners: int = 1) -> tuple[Signal, MemoryObjectReceiveStream[None]]:
    """Return both ends of a signal that can wake this many listeners at once."""
    return anyio.create_memory_object_stream[None](listeners)


def notify(signal: Signal, times: int = 1) -> None:
    """Wake this many listeners; do nothing where a signal is still unread, or nobody listens any more."""
    try:
        for _ in range(times):
            signal.send_nowait(None)
    except (anyio.WouldBlock, anyio.BrokenResourceError):
        pass


async def wait_for(wakeups: Wakeups, max_seconds: float | None) -> bool:
    """Wait for a signal or until the time is over; return False if no signal can come any more."""
    with anyio.move_on_after(max_seconds):
        try:
            await wakeups.receive()
        except anyio.EndOfStream:
            return False
    return True
