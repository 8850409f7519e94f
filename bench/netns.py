"""Two network namespaces with a real round trip between them, for servers that are far away as TCP sees it.

Packets are read from a TAP device in one namespace, kept for half a round trip, and written to one in the other. So
connections begin slowly, as they do over such a distance, which no relay can show. Linux only, and root only.
"""

import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.trees import ROOT, python_path

ADDRESS = "10.78.0.2"
_NEAR = "10.78.0.1"
_TUNSETIFF = 0x400454CA
_TAP = 0x0002
_NO_INFORMATION = 0x1000
_MOST_WAITING = 20_000


def lacks() -> str:
    """Return why namespaces are impossible here, or an empty text."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes root on Linux"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    return ""


@contextmanager
def joined(round_trip: float) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Make two namespaces, near and far. Yields the words that run a command in each."""
    mark = os.getpid() % 100_000
    names = [(f"bench{mark}{end}", f"tap{mark}{end}", address) for end, address in (("a", _NEAR), ("b", ADDRESS))]
    with ExitStack() as stack:
        for name, _, _ in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.netns", str(round_trip / 2), *(tap for _, tap, _ in names)],
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
        near, there = (("ip", "netns", "exec", name) for name, _, _ in names)
        yield near, there


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _open(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TAP | _NO_INFORMATION))
    return device


def _join(delay: float, one: int, other: int) -> None:
    """Forward each packet `delay` seconds after its arrival. Excess packets are lost, as in a router."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    across = {one: other, other: one}
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([one, other], [], [], timeout)
        now = time.monotonic()
        for device in ready:
            try:
                while len(waiting) < _MOST_WAITING:
                    waiting.append((now + delay, across[device], os.read(device, 65_536)))
            except BlockingIOError:
                pass
        while waiting and waiting[0][0] <= now:
            _, device, packet = waiting.popleft()
            try:
                os.write(device, packet)
            except OSError:
                continue  # the device is not up yet, or its queue is full


def main() -> None:
    """Make two devices, and join them until terminated."""
    devices = [_open(name) for name in sys.argv[2:4]]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _join(float(sys.argv[1]), *devices)


if __name__ == "__main__":
    main()
