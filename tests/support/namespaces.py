"""Another machine, for a worker: a network namespace of Linux, joined to this one by links that can be cut."""

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_NETWORKS = ipaddress.ip_network("10.128.0.0/9")


@dataclass(frozen=True)
class Link:
    """A pair of virtual network cards, and their addresses on both sides. The methods block."""

    namespace: str
    card: str
    here: str
    there: str

    def cut(self) -> None:
        """Lose all packets from now on. Neither side is told."""
        ip("-n", self.namespace, "link", "set", self.card, "down")

    def heal(self) -> None:
        """Pass packets again."""
        ip("-n", self.namespace, "link", "set", self.card, "up")


@dataclass(frozen=True)
class Namespace:
    """A machine with two links: to the cluster, and to XNAT. `words` run a command there."""

    words: tuple[str, ...]
    to_cluster: Link
    to_xnat: Link


def lacks() -> str:
    """Return why there are no namespaces here, or an empty text."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces take root on Linux"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    try:
        with namespace():
            return ""
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Make a namespace, and delete it with its links. It blocks."""
    mark = os.getpid() % 100_000
    name = f"asyncimport{mark}"
    # Each process takes 8 addresses of its own.
    first = _NETWORKS[mark * 8]
    ip("netns", "add", name)
    links: list[Link] = []
    others: list[str] = []
    try:
        for number in (0, 1):
            card, other = f"ai{mark}t{number}", f"ai{mark}h{number}"
            here, there = str(first + number * 4 + 1), str(first + number * 4 + 2)
            ip("link", "add", other, "type", "veth", "peer", "name", card, "netns", name)
            others.append(other)
            ip("addr", "add", f"{here}/30", "dev", other)
            ip("link", "set", other, "up")
            ip("-n", name, "addr", "add", f"{there}/30", "dev", card)
            ip("-n", name, "link", "set", card, "up")
            links.append(Link(name, card, here, there))
        yield Namespace(("ip", "netns", "exec", name), *links)
    finally:
        # They would end with the namespace too, but later: the next one has the same names.
        for other in others:
            ip("link", "del", other)
        ip("netns", "del", name)


def ip(*words: str) -> None:
    """Run `ip`. Raises: CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True)
