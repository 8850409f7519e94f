"""The test XNAT: a site that can be served, and that can be made to fail."""

from dataclasses import dataclass, field

from .faults.schedule import Faults
from .site.site import Site


@dataclass(eq=False, repr=False)
class TestXnat(Site):
    """A test XNAT: `TestXnat(directory, **settings)`, to be given to `serve`.

    It starts with the user `demo` (password `demo`) and the project `demo`; `Settings` lists the keyword arguments.
    What it has received can be read at any time: `prearchive`, `archived`, `subjects()`, `sop_uids()`, `count`,
    `imports`.
    """

    __test__ = False  # pytest is not to collect it

    faults: Faults = field(default_factory=Faults, init=False)
    """Faults that strike requests, in the order in which they were added."""
