"""Digests of what is sent, and of what lies on disk."""

import hashlib
from typing import Protocol

import xxhash

from asyncimport.model import Algorithm


class Hash(Protocol):
    """A digest in the making."""

    def update(self, data: bytes, /) -> object:
        """Take more bytes in."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all that was taken in."""
        ...


def xxh3_of(data: bytes) -> bytes:
    """Return the XXH3-128 of bytes: 3 us for 131 kB, where SHA-256 takes 75 us with instructions of its own."""
    return xxhash.xxh3_128_digest(data)


def new_hash(algorithm: Algorithm) -> Hash:
    """Begin a digest."""
    if algorithm is Algorithm.XXH3:
        return xxhash.xxh3_128()
    return hashlib.new(algorithm, usedforsecurity=False)
