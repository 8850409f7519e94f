"""Two network namespaces with a real round trip between them, for servers that are far away as TCP sees it.

Packets are read from a TAP device in one namespace, kept for half a round trip, and written to one in the other. So
connections begin slowly, as they do over such a distance, which no relay can show. A link may have a rate, with a queue
before it, and lose packets. Linux only, and root only. TCP's congestion control is Linux's default, CUBIC.

Where no packet is lost, segments cross in parcels, as a system hands them to a network card that cuts them: one
process joins 1 Gbit/s so, with half a core. The rate counts the headers that each segment would have.
"""

import fcntl
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.trees import ROOT, python_path

ADDRESS = "10.78.0.2"
_NEAR = "10.78.0.1"
_TUNSETIFF = 0x400454CA
_TAP = 0x0002
_NO_INFORMATION = 0x1000
_WITH_HEADER = 0x4000
_TUNSETOFFLOAD = 0x400454D0
_CHECKSUM, _TCP_SEGMENTS = 1, 2
_HEADER_BYTES = 10  # struct virtio_net_hdr
_MOST_WAITING = 20_000
_PARCEL_BYTES = 1 << 17


def lacks() -> str:
    """Return why namespaces are impossible here, or an empty text."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes root on Linux"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return ""


@dataclass(frozen=True, slots=True)
class Link:
    """A way between two machines: seconds of a round trip, bytes a second each way (0: any), share of lost packets.

    Before a limit there is a queue of `queue_seconds`; what comes when it is full is lost. Routers drop packets
    where `loss` is not 0; the seed is fixed.
    """

    round_trip: float
    rate: float = 0.0
    loss: float = 0.0
    queue_seconds: float = 0.1


@contextmanager
def joined(link: Link) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Make two namespaces, near and far. Yields the words that run a command in each."""
    mark = os.getpid() % 100_000
    names = [(f"bench{mark}{end}", f"tap{mark}{end}", address) for end, address in (("a", _NEAR), ("b", ADDRESS))]
    with ExitStack() as stack:
        for name, _, _ in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.netns", json.dumps(asdict(link)), *(tap for _, tap, _ in names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=python_path(ROOT),
        )
        stack.enter_context(process)
        stack.callback(process.terminate)
        assert process.stdout is not None  # noqa: S101 - for the type checker
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the two namespaces could not be joined")
        for name, tap, address in names:
            _ip("link", "set", tap, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", tap)
            _ip("-n", name, "link", "set", tap, "mtu", "1500", "txqueuelen", "10000", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            # Linux's default; the kernel here may have another.
            _ip("-n", name, "route", "replace", "10.78.0.0/24", "dev", tap, "src", address, "congctl", "cubic")
        near, there = (("ip", "netns", "exec", name) for name, _, _ in names)
        yield near, there


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _open(name: str, *, parcels: bool) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _TAP | _NO_INFORMATION | _WITH_HEADER
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), flags))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _CHECKSUM | _TCP_SEGMENTS if parcels else 0)
    return device


def wire_bytes(packet: bytes) -> int:
    """Return how many bytes a packet takes on the wire; a parcel of segments takes headers for each."""
    size = len(packet) - _HEADER_BYTES
    _, kind, headers, segment = struct.unpack_from("<BBHH", packet)
    return size + (size - headers - 1) // segment * headers if kind else size


def _join(link: Link, one: int, other: int) -> None:
    """Forward each packet half a round trip after its turn. Excess packets are lost, as in a router.

    While packets are under way it looks a few times in a round trip, and not for each packet: cores are few.
    """
    waiting: dict[int, deque[tuple[float, bytes]]] = {one: deque(), other: deque()}
    across = {one: other, other: one}
    free_at = dict.fromkeys(across, 0.0)
    rng = random.Random(0)
    pause = min(max(link.round_trip / 20, 0.0002), 0.001)
    while True:
        if any(waiting.values()):
            time.sleep(pause)
        else:
            select.select([one, other], [], [])
        now = time.monotonic()
        for device, packets in waiting.items():
            try:
                while len(packets) < _MOST_WAITING:
                    packet = os.read(device, _PARCEL_BYTES)
                    begin = max(now, free_at[device])
                    if begin - now > link.queue_seconds or (link.loss and rng.random() < link.loss):
                        continue
                    free_at[device] = begin + (wire_bytes(packet) / link.rate if link.rate else 0.0)
                    packets.append((free_at[device] + link.round_trip / 2, packet))
            except BlockingIOError:
                pass
            while packets and packets[0][0] <= now:
                _, packet = packets.popleft()
                try:
                    os.write(across[device], packet)
                except OSError:
                    continue  # the device is not up yet, or its queue is full


def main() -> None:
    """Make two devices, and join them until terminated."""
    link = Link(**json.loads(sys.argv[1]))
    devices = [_open(name, parcels=not link.loss) for name in sys.argv[2:4]]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _join(link, *devices)


if __name__ == "__main__":
    main()
